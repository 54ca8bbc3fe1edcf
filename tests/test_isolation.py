"""A fault injected at every hook of a row: it ends alone, and its neighbours draw what they would
have drawn without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from mlx_stdio.engine.sampling import Sampling
from mlx_stdio.kv import layers
from tests.room import PlainText, Record, Room

PROMPTS = [
    [5, 9, 14, 21, 7],
    [31 + at % 40 for at in range(70)],
    [40],
    [17, 23, 23, 17, 23, 50, 61, 8],
    [90 + 3 * (at % 30) for at in range(33)],
]
WAYS = [
    Sampling(),
    Sampling(temperature=0.8, seed=4, top_p=0.9),
    Sampling(logprobs=2),
    Sampling(temperature=1.0, seed=9, repetition_penalty=1.3, min_p=0.02),
    Sampling(frequency_penalty=0.5, logit_bias={12: 2.0}),
]
TOKENS = 24
VICTIM = 1

Fault = Callable[[Room, pytest.MonkeyPatch, list[int]], dict[str, Any]]
"""Prepares a fault; gives what is special about the victim's request."""


class Model:
    """A model whose forward pass can be made to fail."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.before: Callable[[list[list[int]]], None] = lambda _tokens: None
        self.after: Callable[[list[list[int]], Any], Any] = lambda _tokens, logits: logits

    def __call__(self, tokens: Any, cache: Any = None) -> Any:
        self.before(tokens.tolist())
        return self.after(tokens.tolist(), self._model(tokens, cache=cache))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


@pytest.fixture(scope="module")
def room(models: Path) -> Room:
    room = Room(models, prefix_cache_limit=0)
    resident = room.load("tiny")
    resident.weights = replace(resident.weights, model=Model(resident.weights.model))
    return room


@pytest.fixture(scope="module")
def expected(room: Room) -> list[Record]:
    return [
        room.alone("tiny", prompt, TOKENS, sampling=way)
        for prompt, way in zip(PROMPTS, WAYS, strict=True)
    ]


@pytest.fixture(autouse=True)
def healthy(room: Room) -> Iterator[None]:
    model = room.load("tiny").weights.model
    room.scheduler._runners.clear()  # they would remember earlier failures
    yield
    del model.__dict__["before"], model.__dict__["after"]
    model.__init__(model._model)


def model_of(room: Room) -> Any:
    resident = room.engine.cache.get("tiny")
    assert resident is not None
    return resident.weights.model


class BrokenText(PlainText):
    def __init__(self, at: int, where: str) -> None:
        super().__init__()
        self._at, self._where, self._count = at, where, 0

    def push(self, token: int) -> str:
        self._count += 1
        if self._where == "push" and self._count == self._at:
            raise RuntimeError("the detokenizer fails")
        return super().push(token)

    def finish(self) -> str:
        if self._where == "finish":
            raise RuntimeError("the detokenizer fails at the end")
        return super().finish()


def detokenizer(at: int) -> Fault:
    return lambda room, patch, tokens: {"text": BrokenText(at, "push")}


def end_of_text(room: Room, patch: pytest.MonkeyPatch, tokens: list[int]) -> dict[str, Any]:
    return {"text": BrokenText(0, "finish")}


def sampler(room: Room, patch: pytest.MonkeyPatch, tokens: list[int]) -> dict[str, Any]:
    return {"sampling": Sampling(temperature=float("nan"))}


def bias(room: Room, patch: pytest.MonkeyPatch, tokens: list[int]) -> dict[str, Any]:
    return {"sampling": Sampling(logit_bias={10**6: 1.0})}


def prefill(room: Room, patch: pytest.MonkeyPatch, tokens: list[int]) -> dict[str, Any]:
    def before(rows: list[list[int]]) -> None:
        if len(rows[0]) > 1 and rows[0][0] == PROMPTS[VICTIM][0]:
            raise RuntimeError("the prompt cannot be read")

    model_of(room).before = before
    return {}


def token_that_only_the_victim_draws(tokens: list[int], others: set[int]) -> int:
    return next(token for token in tokens[3:] if token not in others)


def forward(room: Room, patch: pytest.MonkeyPatch, tokens: list[int]) -> dict[str, Any]:
    """The whole pass fails, because of one row in it."""

    def before(rows: list[list[int]]) -> None:
        if any(row[0] == poison for row in rows if len(row) == 1):
            raise RuntimeError("this token breaks the model")

    poison = tokens[0]
    model_of(room).before = before
    return {}


def not_a_number(room: Room, patch: pytest.MonkeyPatch, tokens: list[int]) -> dict[str, Any]:
    import mlx.core as mx

    def after(rows: list[list[int]], logits: Any) -> Any:
        broken = mx.array([len(row) == 1 and row[0] == poison for row in rows])
        return mx.where(broken[:, None, None], mx.nan, logits)

    poison = tokens[0]
    model_of(room).after = after
    return {}


def delta(room: Room, patch: pytest.MonkeyPatch, tokens: list[int]) -> dict[str, Any]:
    return {"sink": "delta"}


def finish(room: Room, patch: pytest.MonkeyPatch, tokens: list[int]) -> dict[str, Any]:
    return {"sink": "finish"}


@pytest.mark.parametrize(
    "fault",
    [
        detokenizer(1),
        detokenizer(7),
        detokenizer(TOKENS),
        end_of_text,
        sampler,
        bias,
        prefill,
        forward,
        not_a_number,
        delta,
        finish,
    ],
    ids=lambda fault: getattr(fault, "__name__", "detokenizer"),
)
def test_a_fault_of_one_row_is_that_rows(
    room: Room, expected: list[Record], monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    import mlx.core as mx

    others = {
        token
        for at, record in enumerate(expected)
        if at != VICTIM
        for token in record.tokens + PROMPTS[at]
    }
    poison = token_that_only_the_victim_draws(expected[VICTIM].tokens, others)
    before = mx.get_active_memory()
    special = fault(room, monkeypatch, [poison])
    sink = special.pop("sink", None)
    records = []
    for at, (prompt, way) in enumerate(zip(PROMPTS, WAYS, strict=True)):
        more = special if at == VICTIM else {}
        records.append(room.ask("tiny", prompt, TOKENS, **{"sampling": way, **more}))
    victim = records[VICTIM]
    if sink is not None:

        def fail(*_: Any) -> None:
            raise RuntimeError("the sink fails")

        monkeypatch.setattr(victim, sink, fail)
    room.run()
    assert victim.error is not None
    assert victim.outcome is None
    assert victim.tokens == expected[VICTIM].tokens[: len(victim.tokens)]
    for at, (record, alone) in enumerate(zip(records, expected, strict=True)):
        if at != VICTIM:
            same(record, alone)
    assert room.engine.ledger.reserved_bytes == 0
    resident = room.engine.cache.get("tiny")
    assert resident is not None
    assert resident.users == 0
    assert abs(mx.get_active_memory() - before) < 200_000


@pytest.mark.parametrize("function", ["merge", "extend", "select", "extract"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("rows", [2, len(PROMPTS)])
def test_a_batch_that_fails_as_a_whole_ends_nobody(
    room: Room,
    expected: list[Record],
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    first: bool,
    rows: int,
) -> None:
    """Rows come one by one and end one by one, and each time something else fails."""
    real = getattr(layers, function)
    calls = 0

    def fail(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1 or not first:
            raise RuntimeError(f"{function} fails")
        return real(*arguments)

    monkeypatch.setattr(layers, function, fail)
    records = []
    some = PROMPTS[:rows]
    for at, (prompt, way) in enumerate(zip(some, WAYS, strict=False)):
        records.append(room.ask("tiny", prompt, TOKENS - 4 * at, sampling=way))
        room.ticks(2)
    room.run()
    assert calls or (rows, function) in ((2, "extend"), (2, "select"))
    for at, (record, alone) in enumerate(zip(records, expected, strict=False)):
        assert record.error is None
        assert record.tokens == alone.tokens[: TOKENS - 4 * at]


@pytest.mark.parametrize("when", [1, 3, 6])
def test_a_pass_that_fails_once_is_made_good(room: Room, expected: list[Record], when: int) -> None:
    """Nobody is to blame: all go on, from the tokens that they had."""
    calls = 0

    def before(rows: list[list[int]]) -> None:
        nonlocal calls
        if len(rows) > 1:
            calls += 1
            if calls == when:
                raise MemoryError("no room for this step")

    model_of(room).before = before
    records = [
        room.ask("tiny", prompt, TOKENS, sampling=way)
        for prompt, way in zip(PROMPTS, WAYS, strict=True)
    ]
    room.run()
    assert calls >= when
    for record, alone in zip(records, expected, strict=True):
        same(record, alone)


def same(record: Record, alone: Record) -> None:
    assert record.error is None
    assert record.tokens == alone.tokens
    assert record.text == alone.text
    assert [score.token for score in record.scores] == [score.token for score in alone.scores]
    for score, lonely in zip(record.scores, alone.scores, strict=True):
        assert score.logprob == pytest.approx(lonely.logprob, abs=1e-4)


@pytest.mark.parametrize("function", ["find", "put"])
def test_a_prefix_cache_that_fails_fails_no_request(
    room: Room, expected: list[Record], monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    from mlx_stdio.kv.prefix import PrefixStore

    def fail(*_: Any) -> None:
        raise RuntimeError(f"{function} fails")

    monkeypatch.setattr(PrefixStore, function, fail)
    monkeypatch.setattr(room.engine.prefixes, "_limit", lambda: 10**9)
    records = [
        room.ask("tiny", prompt, TOKENS, sampling=way)
        for prompt, way in zip(PROMPTS, WAYS, strict=True)
    ]
    room.run()
    for record, alone in zip(records, expected, strict=True):
        same(record, alone)
