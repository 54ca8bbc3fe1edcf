"""Rows that come and go in any order draw what they would have drawn alone, whatever the model.

Everything at once: requests of different lengths and options that arrive between steps, end, are
cancelled, or find the beginning of their prompt in the prefix cache.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from msgspec.structs import replace

from mlx_stdio.engine.sampling import Sampling
from tests.random_models import ARCHITECTURES, make_model
from tests.room import Record, Room

VOCABULARY = 300
REQUESTS = 16
CHECKPOINTS = ("gemma3_text", "mamba2", "qwen3_next")
"""Of these, KV can only be reused at message borders, which these prompts have none of."""


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    folder = tmp_path_factory.mktemp("all")
    for name in ARCHITECTURES:
        make_model(folder / name, name, seed=5)
    return Room(folder, max_models=len(ARCHITECTURES), prefill_step=32)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each forward pass had."""
    from mlx_stdio.engine.batch import Batch

    seen: list[int] = []
    real = Batch.launch

    def launch(self: Batch) -> bool:
        seen.append(len(self.rows))
        return real(self)

    monkeypatch.setattr(Batch, "launch", launch)
    return seen


def some_way(chance: random.Random) -> Sampling:
    way = Sampling(seed=chance.randrange(1000))
    if chance.random() < 0.5:
        way = replace(way, temperature=chance.choice((0.3, 1.0)), top_p=chance.choice((0.0, 0.9)))
    if chance.random() < 0.3:
        way = replace(way, repetition_penalty=1.2, penalty_context=chance.randint(1, 30))
    if chance.random() < 0.3:
        way = replace(way, logit_bias={chance.randrange(VOCABULARY): 1.5}, logprobs=1)
    return way


def some_prompt(chance: random.Random, earlier: list[list[int]]) -> list[int]:
    fresh = [chance.randrange(1, VOCABULARY) for _ in range(chance.choice((1, 5, 17, 40, 90)))]
    if earlier and chance.random() < 0.5:
        known = chance.choice(earlier)
        return known[: chance.randint(1, len(known))] + fresh
    return fresh


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("seed", [1, 2])
def test_neighbours_change_nothing(
    room: Room, batches: list[int], architecture: str, seed: int
) -> None:
    chance = random.Random(f"{architecture} {seed}")
    room.load(architecture)
    asked: list[tuple[list[int], int, dict[str, Any]]] = []
    prompts: list[list[int]] = []
    for _ in range(REQUESTS):
        prompts.append(some_prompt(chance, prompts))
        more: dict[str, Any] = {"sampling": some_way(chance), "rank": chance.randrange(3)}
        asked.append((prompts[-1], chance.randint(1, 40), more))
    alone = [room.alone(architecture, *ask[:2], **ask[2]) for ask in asked]
    batches.clear()
    records: list[Record] = []
    for prompt, tokens, more in asked:
        records.append(room.ask(architecture, prompt, tokens, **more))
        room.ticks(chance.choice((0, 0, 1, 2, 9)))
        if chance.random() < 0.15:
            chance.choice(records).closed = True  # cancelled
    room.run()
    assert max(batches) > 2
    finished = 0
    for record, lonely in zip(records, alone, strict=True):
        assert record.error is None
        if record.outcome is None:
            assert record.tokens == lonely.tokens[: len(record.tokens)]
        else:
            assert record.tokens == lonely.tokens
            assert record.text == lonely.text
            finished += 1
    assert finished > REQUESTS / 2
    reused = sum(record.outcome.cached_tokens for record in records if record.outcome is not None)
    assert reused > 0 or architecture in CHECKPOINTS
    assert room.engine.ledger.reserved_bytes == 0
