"""What the wire cannot show of speculation: its distribution over many seeds, faults at each of its
hooks, who else gets tokens meanwhile, and what its caches have seen.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from mlx_stdio.engine.job import Draft
from mlx_stdio.engine.sampling import Sampling
from mlx_stdio.engine.speculative import Speculative
from mlx_stdio.kv import layers
from tests.room import PlainText, Record, Room
from tests.test_isolation import BrokenText, Model

PROMPT = [70, 71, 72, 70, 71, 73, 70, 71, 72, 70]
SMALL = (70, 71, 72)
"""A bias makes these three tokens the whole vocabulary."""


@pytest.fixture(scope="module")
def room(models: Path) -> Room:
    room = Room(models)
    for name in ("tiny", "other"):
        resident = room.load(name)
        resident.weights = replace(resident.weights, model=Model(resident.weights.model))
    return room


@pytest.fixture(autouse=True)
def healthy(room: Room) -> Iterator[None]:
    yield
    for name in ("tiny", "other"):
        model = model_of(room, name)
        model.__dict__.pop("before", None)
        model.__dict__.pop("after", None)
        Model.__init__(model, model._model)


def model_of(room: Room, name: str) -> Any:
    resident = room.engine.cache.get(name)
    assert resident is not None
    return resident.weights.model


def drafted_by(room: Room, name: str | None, tokens: int = 4) -> Draft:
    return Draft(tokens, name, room.card(name) if name else None)


def passes_of(patch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each pass of speculation has proposed."""
    counts: list[int] = []
    real = Speculative.advance

    def advance(self: Speculative) -> Any:
        if self._present is not None:
            counts.append(self._present.count)
        return real(self)

    patch.setattr(Speculative, "advance", advance)
    return counts


# Distribution.


def shares(room: Room, prompt: list[int], ways: Sampling) -> dict[tuple[int, ...], float]:
    """The exact probability of each beginning of three tokens, from the model's own logits."""
    import mlx.core as mx

    found: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(3):
        longer: dict[tuple[int, ...], float] = {}
        for begin, share in found.items():
            logits = model_of(room, "tiny")(mx.array([prompt + list(begin)]))[0, -1].tolist()
            weights = [math.exp(logits[token] / ways.temperature) for token in SMALL]
            for token, weight in zip(SMALL, weights, strict=True):
                longer[(*begin, token)] = share * weight / sum(weights)
        found = longer
    return found


@pytest.mark.parametrize("proposer", ["other", "tiny", None])
def test_sampled_tokens_keep_their_distribution(room: Room, proposer: str | None) -> None:
    """Three tokens of 27 possible beginnings, for the seeds 0 to 399, against the probabilities of
    the model's logits: chi-square, at most the quantile of 0.999.

    It holds because each position's token is a function of the model's logits there, the seed and
    the position, as without speculation: for a seed the token is the same, so the distribution over
    seeds is the same. A proposal only decides whether a token needs a pass of its own. That this
    function draws from the distribution is what the comparison with the probabilities shows.
    """
    ways = Sampling(temperature=2.0, logit_bias=dict.fromkeys(SMALL, 200.0))
    expected = shares(room, PROMPT, ways)
    seeds = range(400)
    records = [
        room.ask("tiny", PROMPT, 3, sampling=replace(ways, seed=seed), draft=draft)
        for draft in (drafted_by(room, proposer),)
        for seed in seeds
    ]
    room.run()
    counts = Counter(tuple(record.tokens) for record in records)
    accepted = sum(r.outcome.accepted_tokens for r in records if r.outcome is not None)
    drafted = sum(r.outcome.drafted_tokens for r in records if r.outcome is not None)
    assert accepted > len(seeds) / 10
    assert drafted > accepted or proposer == "tiny"
    assert set(counts) <= set(expected)
    # Cells that are too small for the approximation are taken together.
    chi, cells, rest, rest_seen = 0.0, 0, 0.0, 0
    for begin, share in expected.items():
        if (wanted := share * len(seeds)) < 5:
            rest, rest_seen = rest + wanted, rest_seen + counts[begin]
            continue
        chi, cells = chi + (counts[begin] - wanted) ** 2 / wanted, cells + 1
    if rest >= 5:
        chi, cells = chi + (rest_seen - rest) ** 2 / rest, cells + 1
    assert cells > 5
    # Wilson and Hilferty's approximation of the quantile.
    freedom = cells - 1
    bound = freedom * (1 - 2 / (9 * freedom) + 3.09 * math.sqrt(2 / (9 * freedom))) ** 3
    assert chi < bound
    for seed in (0, 1, 2, 3, 4, 5, 6, 7):
        alone = room.alone("tiny", PROMPT, 3, sampling=replace(ways, seed=seed))
        assert alone.tokens == records[seed].tokens


# Beside others.


@pytest.mark.parametrize("proposer", ["other", "tiny", None])
def test_neighbours_go_on_and_draw_the_same(room: Room, proposer: str | None) -> None:
    prompts = [[5, 9, 14, 21], [31 + at % 40 for at in range(70)], [40]]
    ways = [Sampling(), Sampling(temperature=0.8, seed=4), Sampling(frequency_penalty=0.5)]
    expected = [
        room.alone("tiny", prompt, 30, sampling=way).tokens
        for prompt, way in zip(prompts, ways, strict=True)
    ]
    alone = room.alone("tiny", PROMPT, 30).tokens
    neighbours = [
        room.ask("tiny", prompt, 30, sampling=way)
        for prompt, way in zip(prompts, ways, strict=True)
    ]
    speculating = [
        room.ask("tiny", PROMPT, 30, draft=drafted_by(room, proposer), cache_prompt=cached)
        for cached in (True, False)
    ]
    room.ticks(12)
    steps = [len(record.tokens) for record in neighbours]
    room.ticks(5)
    assert [len(record.tokens) - was for record, was in zip(neighbours, steps, strict=True)] == [
        5
    ] * 3
    room.run()
    assert [record.tokens for record in neighbours] == expected
    assert [record.tokens for record in speculating] == [alone] * 2


def test_steps_are_fewer_where_proposals_are_right(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = passes_of(monkeypatch)
    record = room.alone("tiny", PROMPT, 41, draft=drafted_by(room, "tiny", 4))
    assert passes == [4] * 8 + [0]
    assert record.outcome is not None
    assert record.outcome.accepted_tokens == record.outcome.drafted_tokens == 32


def test_text_without_proposals_is_pipelined(room: Room) -> None:
    """The next pass is under way before the present token is told."""
    ways = Sampling(presence_penalty=100.0, penalty_context=400)
    record = room.ask("tiny", [90], 30, sampling=ways, draft=drafted_by(room, None))
    room.ticks(4)
    [batch] = [
        batch
        for runner in room.scheduler._runners.values()
        for batch in runner.batches
        if isinstance(batch, Speculative)
    ]
    for _ in range(8):
        assert batch._present is not None
        assert batch._seen == len(batch._text.tokens)
        room.ticks(1)
    room.run()
    assert record.outcome is not None
    assert record.outcome.drafted_tokens == 0
    assert record.tokens == room.alone("tiny", [90], 30, sampling=ways).tokens


@pytest.mark.parametrize("penalty", [1.0, 1.05])
@pytest.mark.parametrize("seed", range(6))
def test_proposals_after_a_token_that_is_not_read_yet(
    room: Room, monkeypatch: pytest.MonkeyPatch, seed: int, penalty: float
) -> None:
    """Few tokens to choose from: pipelined passes and those with proposals take turns."""
    ways = Sampling(
        temperature=1.5,
        seed=seed,
        logit_bias=dict.fromkeys(range(70, 84), 60.0),
        repetition_penalty=penalty,
        penalty_context=6,
    )
    after: list[int] = []
    real = Speculative._start_after

    def start_after(self: Speculative, present: Any, proposed: list[int]) -> Any:
        after.append(len(proposed))
        assert len(proposed) <= self._row.left - 2
        return real(self, present, proposed)

    monkeypatch.setattr(Speculative, "_start_after", start_after)
    record = room.alone("tiny", [69], 60, sampling=ways, draft=drafted_by(room, None))
    assert record.tokens == room.alone("tiny", [69], 60, sampling=ways).tokens
    assert after
    if penalty == 1.0:
        assert any(after)
    else:  # penalties would have to look at the token that is not read
        assert not any(after)


@pytest.mark.parametrize("proposer", ["other", "tiny", None])
@pytest.mark.parametrize("when", range(1, 12, 2))
def test_what_a_cancelled_row_leaves_is_right(room: Room, proposer: str | None, when: int) -> None:
    """Whatever was under way: its KV goes on as a fresh one does."""
    prompt = [200 + at % 90 for at in range(20)] + [7 + when, *PROMPT]
    record = room.ask("tiny", prompt, 60, draft=drafted_by(room, proposer))
    room.ticks(when)
    record.closed = True
    room.run()
    longer = prompt + record.tokens + [81]
    hits = room.engine.prefixes.store.hits
    found = room.ask("tiny", longer, 12, draft=drafted_by(room, proposer))
    room.run()
    assert found.tokens == room.alone("tiny", longer, 12).tokens
    if record.tokens:
        assert found.outcome is not None
        assert found.outcome.cached_tokens >= len(prompt) - 1
        assert room.engine.prefixes.store.hits == hits + (1 if proposer is None else 2)
    assert room.engine.ledger.reserved_bytes == 0
    assert all(resident.users == 0 for resident in room.engine.cache.snapshot())


def test_caches_have_seen_what_is_said_of_them(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Speculative.advance
    steps = 0

    def advance(self: Speculative) -> Any:
        nonlocal steps
        ended = real(self)
        steps += 1
        row = self._row
        assert self._text.tokens == row.history
        pending = self._present.count if self._present is not None else 0
        if not ended:
            assert layers.length(self._cache) == self._seen == row.fed + pending
            assert row.fed == len(row.history) - (self._present is None)
        if self._draft_cache:
            assert layers.length(self._draft_cache) == self._draft_fed <= row.fed
            assert self._draft_fed >= row.fed - 1
        return ended

    monkeypatch.setattr(Speculative, "advance", advance)
    for proposer in ("other", "tiny", None):
        for tokens in (1, 2, 5, 33):
            for way in (Sampling(), Sampling(temperature=1.0, seed=3, repetition_penalty=1.1)):
                draft = drafted_by(room, proposer, 3)
                record = room.ask("tiny", PROMPT, tokens, sampling=way, draft=draft)
                room.run()
                assert record.error is None
                assert len(record.tokens) == tokens
    assert steps > 50


# Faults.


HOOKS = ["verification", "not a number", "push", "finish", "delta"]


@pytest.mark.parametrize(
    ("fault", "proposer"),
    [
        *((fault, proposer) for fault in HOOKS for proposer in ("other", None)),
        ("draft pass", "other"),
        ("draft prompt", "other"),
    ],
)
def test_a_fault_ends_only_the_row_that_speculates(
    room: Room, monkeypatch: pytest.MonkeyPatch, fault: str, proposer: str | None
) -> None:
    import mlx.core as mx

    prompt = [150 + at for at in range(40)] + [70, 71] * 4
    neighbour_alone = room.alone("tiny", [5, 9, 14, 21], 40)
    alone = room.alone("tiny", prompt, 40)
    room.engine.prefixes.evict(2**40)
    before = mx.get_active_memory()
    neighbour = room.ask("tiny", [5, 9, 14, 21], 40, cache_prompt=False)
    more: dict[str, Any] = {"text": PlainText()}
    if fault in ("push", "finish"):
        more["text"] = BrokenText(9, fault)
    victim = room.ask(
        "tiny", prompt, 40, draft=drafted_by(room, proposer), cache_prompt=False, **more
    )
    if fault == "delta":

        def fail(*_: Any) -> None:
            raise RuntimeError("the sink fails")

        monkeypatch.setattr(victim, "delta", fail)
    passes = 0

    def broken_pass(rows: list[list[int]]) -> None:
        nonlocal passes
        # The victim's passes are those of several tokens behind its prompt, and the draft model's.
        if fault == "draft prompt" or len(rows[0]) < 20:
            passes += 1
            if fault == "draft prompt" or passes > 3:
                raise RuntimeError("the pass fails")

    def spoil(rows: list[list[int]], logits: Any) -> Any:
        nonlocal passes
        if 1 < len(rows[0]) < 20:
            passes += 1
        return logits * mx.nan if passes > 2 and 1 < len(rows[0]) < 20 else logits

    def broken_verification(rows: list[list[int]]) -> None:
        if 1 < len(rows[0]) < 20 and rows[0][0] != 5:
            raise RuntimeError("the verification fails")

    if fault.startswith("draft"):
        model_of(room, "other").before = broken_pass
    elif fault == "verification":
        model_of(room, "tiny").before = broken_verification
    elif fault == "not a number":
        room.ticks(3)
        model_of(room, "tiny").after = spoil
    room.run()
    assert victim.error is not None
    assert victim.error.kind == "internalError"
    assert victim.outcome is None
    assert victim.tokens == alone.tokens[: len(victim.tokens)]
    same(neighbour, neighbour_alone)
    assert room.engine.ledger.reserved_bytes == 0
    assert all(resident.users == 0 for resident in room.engine.cache.snapshot())
    assert abs(mx.get_active_memory() - before) < 200_000


def test_a_draft_model_that_knows_no_numbers_proposes_in_vain(room: Room) -> None:
    import mlx.core as mx

    alone = room.alone("tiny", PROMPT, 20)
    model_of(room, "other").after = lambda rows, logits: logits * mx.nan
    record = room.alone("tiny", PROMPT, 20, draft=drafted_by(room, "other"))
    same(record, alone)
    assert record.outcome is not None
    assert record.outcome.accepted_tokens == 0


def same(record: Record, alone: Record) -> None:
    assert record.error is None
    assert record.tokens == alone.tokens
    assert record.text == alone.text
