"""`priority` and fairness within a model: who is admitted, who is read, and who is set aside.

In the room, with chunks of 16 tokens and one chunk a step, so that steps can be counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from mlx_stdio.engine.job import LoadJob, Rank
from mlx_stdio.engine.pace import Pace
from mlx_stdio.engine.scheduler import Scheduler
from mlx_stdio.kv import layers
from tests.host import Host, RpcError
from tests.ledger import Ledger
from tests.phases import let_pass, told, wait_until
from tests.room import Record, Room

CHUNK = 16
INTERACTIVE: Rank = 0
NORMAL: Rank = 1
BACKGROUND: Rank = 2


class Counting:
    """A model that counts the tokens that it is fed."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.fed = 0

    def __call__(self, tokens: Any, cache: Any = None) -> Any:
        self.fed += tokens.size
        return self._model(tokens, cache=cache)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


@pytest.fixture
def make_room(models: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Room]:
    monkeypatch.setattr(Pace, "chunk", lambda *_, **__: CHUNK)
    monkeypatch.setattr(Pace, "budget", lambda *_, **__: 0.0)

    def make(**settings: Any) -> Room:
        room = Room(models, **{"prefix_cache_limit": 0, **settings})
        resident = room.load("tiny")
        resident.weights = replace(resident.weights, model=Counting(resident.weights.model))
        return room

    return make


def fed(room: Room) -> int:
    resident = room.engine.cache.get("tiny")
    assert resident is not None
    count: int = resident.weights.model.fed
    return count


def prompt(length: int, seed: int = 0) -> list[int]:
    return [1 + (seed * 31 + at * 7) % 290 for at in range(length)]


def nothing_is_left(room: Room) -> None:
    assert room.engine.ledger.reserved_bytes == 0
    assert all(resident.users == 0 for resident in room.engine.cache.snapshot())
    assert room.scheduler.running == 0
    assert room.scheduler.kv_bytes == 0


def steps_until(room: Room, condition: Callable[[], object], most: int = 2000) -> int:
    for count in range(most):
        if condition():
            return count
        room.scheduler.tick()
    raise AssertionError("it never came")


def test_a_short_prompt_does_not_wait_for_a_long_one(make_room: Callable[..., Room]) -> None:
    room = make_room()
    stream = room.ask("tiny", prompt(3), 1500)
    long = room.ask("tiny", prompt(1600, 1), 5)
    room.ticks(10)
    short = room.ask("tiny", prompt(12, 2), 5)
    before = len(stream.tokens)
    assert steps_until(room, lambda: short.tokens) <= 3
    assert len(stream.tokens) >= before + 1
    assert not long.tokens
    assert steps_until(room, lambda: long.tokens) >= 80  # it was in the middle


def test_a_stream_goes_on_at_every_step_of_a_long_prompt(make_room: Callable[..., Room]) -> None:
    room = make_room()
    stream = room.ask("tiny", prompt(3), 1500)
    steps_until(room, lambda: len(stream.tokens) > 2)
    long = room.ask("tiny", prompt(1600, 1), 5)
    before = len(stream.tokens)
    steps = steps_until(room, lambda: long.tokens)
    assert steps >= 1600 / CHUNK
    assert len(stream.tokens) - before >= steps - 1


@pytest.mark.parametrize(("flow", "each"), [(1, 9), (2, 40)], ids=["as many", "too many"])
def test_a_long_prompt_is_not_starved_by_short_ones(
    make_room: Callable[..., Room], flow: int, each: int
) -> None:
    """One short prompt a step leaves the long one every ninth; with more than can be read, all wait
    about as long.
    """
    room = make_room()
    chunks = 10
    long = room.ask("tiny", prompt(chunks * CHUNK, 1), 2)
    shorts: list[Record] = []
    for step in range(each * chunks + 10):
        if long.tokens:
            break
        for number in range(flow):
            shorts.append(room.ask("tiny", prompt(12, 2 * step + number), 1))
        room.scheduler.tick()
    assert long.tokens
    assert sum(bool(short.tokens) for short in shorts) >= 7 * chunks  # nor are they


def test_the_queue_is_in_the_order_of_priority_then_arrival(
    make_room: Callable[..., Room],
) -> None:
    room = make_room(max_concurrent=1)
    ended: list[str] = []
    running = room.ask("tiny", prompt(3), 20)
    room.ticks(3)
    ranks: list[Rank] = [BACKGROUND, NORMAL, INTERACTIVE, BACKGROUND, NORMAL, INTERACTIVE]
    records = [room.ask("tiny", prompt(4, n), 3, rank=rank) for n, rank in enumerate(ranks)]
    while not all(record.closed for record in records):
        room.scheduler.tick()
        for number, record in enumerate(records):
            if record.closed and str(number) not in ended:
                ended.append(str(number))
    assert running.outcome is not None  # a normal one is not set aside
    assert "".join(ended) == "251403"
    nothing_is_left(room)


def test_prompts_are_read_in_the_order_of_priority(make_room: Callable[..., Room]) -> None:
    room = make_room()
    ranks: list[Rank] = [BACKGROUND, NORMAL, INTERACTIVE]
    records = [room.ask("tiny", prompt(5 * CHUNK, rank), 40, rank=rank) for rank in ranks]
    order: list[int] = []
    while len(order) < 3:
        room.scheduler.tick()
        order += [n for n, record in enumerate(records) if record.tokens and n not in order]
    assert order == [2, 1, 0]
    room.run()


@pytest.mark.parametrize("ticks", [3, 12], ids=["in its prompt", "in its text"])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("way", [{}, {"max_kv_size": 64}], ids=["plain", "bounded"])
def test_who_is_set_aside_goes_on_from_its_tokens(
    make_room: Callable[..., Room], ticks: int, count: int, way: dict[str, Any]
) -> None:
    room = make_room(max_concurrent=count)
    asks = [(prompt(6 * CHUNK, n), 60) for n in range(count)]
    urgent = [(prompt(40, 50 + n), 30) for n in range(count)]
    alone = [room.alone("tiny", *ask, **way).tokens for ask in asks]
    urgent_alone = [room.alone("tiny", *ask).tokens for ask in urgent]
    for_all = fed(room)
    for number in range(2):  # whether rows can be batched is tried out once
        room.ask("tiny", prompt(5, number), 20)
    room.run()
    start = fed(room)
    records = [room.ask("tiny", *ask, rank=BACKGROUND, **way) for ask in asks]
    room.ticks(ticks * count)
    assert not any(record.closed for record in records)
    before = [len(record.tokens) for record in records]
    assert all(before) == (ticks == 12) or count > 1
    newcomers = [room.ask("tiny", *ask, rank=INTERACTIVE) for ask in urgent]
    room.ticks(2)
    held = [len(record.tokens) for record in records]
    room.ticks(10)
    assert [len(record.tokens) for record in records] == held  # all places are taken from them
    room.run()
    assert [record.tokens for record in newcomers] == urgent_alone
    assert [record.tokens for record in records] == alone
    # Nothing was read twice; a row that ends beside others is fed a token in vain.
    assert abs(fed(room) - start - for_all) < CHUNK
    nothing_is_left(room)


def test_new_background_work_does_not_overtake_what_was_set_aside(
    make_room: Callable[..., Room],
) -> None:
    room = make_room(max_concurrent=1)
    first = room.ask("tiny", prompt(5), 40, rank=BACKGROUND)
    room.ticks(6)
    urgent = room.ask("tiny", prompt(6, 1), 10, rank=INTERACTIVE)
    others = [room.ask("tiny", prompt(5, 2 + n), 40, rank=BACKGROUND) for n in range(3)]
    normal = room.ask("tiny", prompt(5, 9), 10)
    steps_until(room, lambda: first.closed)
    assert urgent.closed
    assert normal.closed
    assert not any(other.tokens for other in others)
    room.run()
    assert all(other.outcome is not None for other in others)


@pytest.mark.parametrize("ticks", [3, 12], ids=["in its prompt", "in its text"])
def test_who_is_cancelled_while_set_aside_leaves_nothing(
    make_room: Callable[..., Room], ticks: int
) -> None:
    room = make_room(max_concurrent=1)
    aside = room.ask("tiny", prompt(6 * CHUNK), 60, rank=BACKGROUND)
    room.ticks(ticks)
    urgent = room.ask("tiny", prompt(6, 1), 50, rank=INTERACTIVE)
    room.ticks(4)
    resident = room.engine.cache.get("tiny")
    assert resident is not None
    reserved = room.engine.ledger.reserved_bytes
    assert resident.users == 2
    aside.closed = True  # cancelled, or out of time
    room.scheduler.tick()
    assert resident.users == 1
    assert room.engine.ledger.reserved_bytes < reserved
    assert not urgent.closed
    room.run()
    assert len(urgent.tokens) == 50
    nothing_is_left(room)


def test_the_model_of_who_is_set_aside_stays(make_room: Callable[..., Room]) -> None:
    room = make_room(max_concurrent=1, max_models=2)
    room.load("other")
    alone = room.alone("tiny", prompt(20), 60).tokens
    aside = room.ask("tiny", prompt(20), 60, rank=BACKGROUND)
    room.ticks(6)
    urgent = room.ask("other", prompt(6, 1), 60, rank=INTERACTIVE)
    room.ticks(3)
    load = Record()
    third = replace(room.card("tiny"), id="third")
    room.scheduler.add(LoadJob(load, "third", third))
    room.ticks(20)
    assert not load.closed
    resident = room.engine.cache.get("tiny")
    assert resident is not None
    assert resident.users == 1
    room.run()
    assert urgent.outcome is not None
    assert aside.tokens == alone
    assert room.engine.cache.get("third") is not None
    nothing_is_left(room)


def test_who_cannot_be_set_aside_leaks_nothing(
    make_room: Callable[..., Room], monkeypatch: pytest.MonkeyPatch
) -> None:
    room = make_room(max_concurrent=2)
    records = [room.ask("tiny", prompt(5, n), 40, rank=BACKGROUND) for n in range(2)]
    room.ticks(8)
    with monkeypatch.context() as patch:

        def fail(*_: Any) -> Any:
            raise RuntimeError("extract fails")

        patch.setattr(layers, "extract", fail)
        room.ask("tiny", prompt(6, 5), 10, rank=INTERACTIVE)
        room.scheduler.tick()
    room.run()
    assert all(record.outcome is not None for record in records)
    nothing_is_left(room)


def test_a_queue_in_which_nothing_has_changed_is_not_looked_through(
    make_room: Callable[..., Room], monkeypatch: pytest.MonkeyPatch
) -> None:
    room = make_room(max_concurrent=1)
    looked = 0
    real = Scheduler._begin

    def count(self: Scheduler, *arguments: Any) -> bool:
        nonlocal looked
        looked += 1
        return real(self, *arguments)

    monkeypatch.setattr(Scheduler, "_begin", count)
    running = room.ask("tiny", prompt(5), 200)
    room.ticks(2)
    waiting = [room.ask("tiny", prompt(5), 2) for _ in range(300)]
    looked = 0
    steps_until(room, lambda: running.closed)
    assert looked < 10
    room.run()
    assert all(record.outcome is not None for record in waiting)
    assert looked < 10 * len(waiting)


# Over the pipe.


def test_a_deadline_holds_while_a_request_is_set_aside(slow: Path) -> None:
    options = ("--models-dir", str(slow), "--model", "roomy", "--max-concurrent", "1")
    with Host(*options) as host:
        host.call("models/load", model="roomy")
        ask = {"prompt": "ab", "maxTokens": 30_000, "ignoreEos": True}
        milliseconds = 200
        while True:  # until it has begun by then, however slow this machine is
            aside = host.start("generate", **ask, priority="background", timeoutMs=milliseconds)
            begun(host, aside)
            urgent = host.start("generate", **ask, priority="interactive")
            begun(host, urgent)
            with pytest.raises(RpcError) as caught:
                host.reply(aside)
            assert caught.value.code == 1007
            now = len(told(host, "stream/delta", urgent))
            let_pass(host, urgent)
            partial = Ledger(list(host.lines))[aside].partial["completionTokens"]
            host.cancel(urgent)
            with pytest.raises(RpcError):
                host.reply(urgent)
            if partial > 0:
                break
            milliseconds *= 2
            assert milliseconds < 30_000
        assert now > 0
        after = host.call("generate", prompt="ab", maxTokens=3, ignoreEos=True)
        assert after["usage"]["completionTokens"] == 3
        wait_until(lambda: host.call("engine/status")["memory"]["kvBytes"] == 0)


def begun(host: Host, request_id: int) -> None:
    wait_until(lambda: told(host, "stream/delta", request_id) or replied(host, request_id))


def replied(host: Host, request_id: int) -> bool:
    account = Ledger(list(host.lines)).accounts.get(request_id)
    return account is not None and account.reply is not None


def test_interactive_work_overtakes_background_which_goes_on(slow: Path) -> None:
    options = ("--models-dir", str(slow), "--model", "roomy", "--max-concurrent", "1")
    with Host(*options) as host:
        ask = {"prompt": "hello", "maxTokens": 600, "ignoreEos": True}
        alone = host.call("generate", **ask, cachePrompt=False)["text"]
        aside = host.start("generate", **ask, priority="background", cachePrompt=False)
        wait_until(lambda: told(host, "stream/delta", aside))
        later = host.start("generate", **{**ask, "maxTokens": 3}, priority="background")
        urgent = host.start("generate", **{**ask, "maxTokens": 30}, priority="interactive")
        for request_id in (aside, later, urgent):
            host.reply(request_id)
        ledger = Ledger(host.lines)
        order = [one for one in map(_answered, host.lines) if one in (aside, later, urgent)]
        assert order == [urgent, aside, later]
        assert ledger[aside].text == alone
        assert alone.startswith(ledger[urgent].text)


def _answered(line: bytes) -> int | None:
    message = json.loads(line)
    found: int | None = message.get("id") if "method" not in message else None
    return found
