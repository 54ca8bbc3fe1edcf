"""Cancel and deadlines, in every phase: one reply at once, and the work stops within a step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host import Host, RpcError
from tests.ledger import Account, Ledger
from tests.phases import (
    ENDLESS,
    PHASES,
    begin,
    let_pass,
    make_way,
    start_neighbour,
    told,
    wait_until,
)
from tests.residents import memory, row


@pytest.fixture(scope="module")
def shared_engine(slow: Path) -> Iterator[Host]:
    with Host(
        *("--models-dir", str(slow), "--model", "roomy"),
        *("--max-concurrent", "2", "--prefill-step", "16"),
    ) as host:
        for model in ("roomy", "twin"):
            host.call("models/load", model=model)
        yield host


@pytest.fixture
def engine(shared_engine: Host) -> Iterator[Host]:
    """An engine with two places and nothing to do; afterwards whatever runs is cancelled."""
    yield shared_engine
    for request_id in range(1, shared_engine._ids + 1):
        shared_engine.cancel(request_id)
    idle = {"running": 0, "queued": 0}
    wait_until(lambda: shared_engine.call("engine/status")["requests"] == idle)
    shared_engine.call("models/unload", model="big")


@pytest.fixture
def neighbour(engine: Host) -> Any:
    """A stream that goes on while others come and go."""
    return start_neighbour(engine)


def refused(host: Host, request_id: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        host.reply(request_id)
    return caught.value


def check_all_is_over(engine: Host, neighbour: Any, running: int, before: dict[str, int]) -> None:
    """Nobody but the neighbour (and who fills the other place) is worked for any more."""
    let_pass(engine, neighbour)
    status = engine.call("engine/status")
    assert status["requests"] == {"running": running, "queued": 0}
    assert row(engine, "big")["state"] == "available"
    after = status["memory"]
    used, used_before = (m["activeBytes"] - m["kvBytes"] for m in (after, before))
    assert used < 1.1 * used_before


@pytest.mark.parametrize("phase", PHASES)
def test_a_cancel_ends_a_request_in_every_phase(phase: str, engine: Host, neighbour: int) -> None:
    before = memory(engine)
    request_id = begin(engine, phase, neighbour)
    engine.cancel(request_id)
    error = refused(engine, request_id)
    assert (error.code, error.kind) == (-32800, "cancelled")
    check_all_is_over(engine, neighbour, 2 if phase == "queued" else 1, before)
    account = Ledger(engine.lines)[request_id]  # it checks that nothing came after the reply
    check_partial(account, phase)


def check_partial(account: Account, phase: str) -> None:
    partial = account.partial
    if phase.startswith("decoding"):
        assert partial["completionTokens"] > 2
        assert len(partial["text"]) > 2
        assert bool(account.deltas) == (phase == "decoding")
    else:
        assert partial == {"text": "", "completionTokens": 0}
        assert account.deltas == []


@pytest.mark.parametrize("phase", PHASES)
def test_a_deadline_ends_a_request_in_every_phase(phase: str, engine: Host, neighbour: int) -> None:
    make_way(engine, phase)
    milliseconds = 20
    while True:  # until it falls into the phase, wherever that begins on this machine
        before = memory(engine)
        request_id = engine.start("generate", **PHASES[phase], timeoutMs=milliseconds)
        error = refused(engine, request_id)
        assert (error.code, error.kind) == (1007, "deadlineExceeded")
        if is_in(phase, Ledger(engine.lines)[request_id]):
            break
        too_late = engine.call("models/unload", model="big")["freedBytes"] > 0
        milliseconds = 20 if too_late else milliseconds * 3 // 2
        assert milliseconds < 20_000
    check_all_is_over(engine, neighbour, 2 if phase == "queued" else 1, before)
    check_partial(Ledger(engine.lines)[request_id], phase)


def is_in(phase: str, account: Account) -> bool:
    if phase == "preparing":
        return True
    if phase.startswith("decoding"):
        return bool(account.partial["completionTokens"] > 2)
    return max(account.places.get(phase, [-1])) >= (1 if phase == "loading" else 0)


def test_a_load_that_others_wait_for_goes_on(engine: Host, neighbour: int) -> None:
    loads = engine.call("engine/status")["counters"]["modelLoads"]
    short = {"model": "big", "prompt": "a", "maxTokens": 2, "ignoreEos": True}
    ids = [
        begin(engine, "loading", neighbour),
        engine.start("models/load", model="big"),
        engine.start("generate", **short),
        engine.start("generate", **short),
    ]
    for gone in (ids[0], ids[1], ids[3]):
        engine.cancel(gone)
        assert refused(engine, gone).code == -32800
    assert engine.reply(ids[2])["usage"]["completionTokens"] == 2
    assert engine.call("engine/status")["counters"]["modelLoads"] == loads + 1


def test_who_comes_after_an_unload_does_not_wait_for_the_load_before_it(
    engine: Host, neighbour: int
) -> None:
    loads = engine.call("engine/status")["counters"]["modelLoads"]
    gone = begin(engine, "loading", neighbour)
    unload = engine.start("models/unload", model="big")
    behind = engine.start("generate", model="big", prompt="a", maxTokens=2, ignoreEos=True)
    engine.cancel(gone)
    assert engine.reply(unload) == {"freedBytes": 0}  # the load was abandoned
    assert engine.reply(behind)["usage"]["completionTokens"] == 2
    assert engine.call("engine/status")["counters"]["modelLoads"] == loads + 1


@pytest.mark.parametrize("more", [{}, {"timeoutMs": 1}], ids=["cancel", "deadline"])
def test_a_load_that_nobody_waits_for_any_more_is_abandoned(
    more: dict[str, int], engine: Host, neighbour: int
) -> None:
    before = memory(engine)
    ids = [engine.start("models/load", model="big", **more) for _ in range(2)]
    if not more:
        wait_until(lambda: len(told(engine, "$/progress", ids[0])) > 1)
        for request_id in ids:
            engine.cancel(request_id)
    for request_id in ids:
        assert refused(engine, request_id).code == (1007 if more else -32800)
    check_all_is_over(engine, neighbour, 1, before)
    Ledger(engine.lines)


@pytest.mark.parametrize("more", [{}, {"timeoutMs": 1}], ids=["cancel", "deadline"])
def test_an_unload_that_still_waits_leaves_the_model_where_it_is(
    more: dict[str, int], engine: Host, neighbour: int
) -> None:
    unloads = engine.call("engine/status")["counters"]["modelUnloads"]
    unload = engine.start("models/unload", model="twin", **more)
    behind = engine.start("generate", model="twin", prompt="b", maxTokens=3, ignoreEos=True)
    if not more:
        wait_until(lambda: told(engine, "$/progress", behind))  # it queues behind the unload
        engine.cancel(unload)
    assert refused(engine, unload).code == (1007 if more else -32800)
    assert engine.reply(behind)["timings"]["loadMs"] == 0
    let_pass(engine, neighbour)
    assert engine.call("engine/status")["counters"]["modelUnloads"] == unloads


def test_the_members_of_a_batch_are_cancelled_one_by_one(engine: Host) -> None:
    calls: dict[str, tuple[str, dict[str, Any]]] = {
        "long": ("generate", ENDLESS),
        "unseen": ("generate", {**ENDLESS, "stream": False}),
        "short": ("generate", {**ENDLESS, "maxTokens": 5}),
        "text": ("tokenize", {"text": "ab"}),
        "ping": ("ping", {}),
    }
    batch = [
        {"jsonrpc": "2.0", "id": name, "method": method, "params": params}
        for name, (method, params) in calls.items()
    ]
    before = len(engine.lines)
    engine.send(batch)
    wait_until(lambda: told(engine, "stream/delta", "long", before))
    engine.cancel("long")
    engine.cancel("unseen")
    replies, _ = engine.until(lambda m: isinstance(m, list))
    assert {reply["id"] for reply in replies} == calls.keys()
    codes = {reply["id"]: reply["error"]["code"] for reply in replies if "error" in reply}
    assert codes == {"long": -32800, "unseen": -32800}
    ledger = Ledger(engine.lines[before:])
    assert ledger["long"].partial["text"] == ledger["long"].text != ""
    assert ledger["short"].result["usage"]["completionTokens"] == 5


def test_other_ids_are_passed_over(engine: Host) -> None:
    done = engine.start("generate", prompt="ab", maxTokens=3)
    engine.reply(done)
    running = engine.start("generate", prompt="ab", maxTokens=100, ignoreEos=True)
    before = len(engine.lines)
    others: list[Any] = [done, "unknown", -1, 2**63, "", 1.5, float(running), None, True, [], {}]
    for request_id in others:
        engine.notify("$/cancelRequest", id=request_id)
    for params in ({}, [running], {"requestId": running}, None, "x", {"id": str(running)}):
        engine.send({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": params})
    assert engine.reply(running)["usage"]["completionTokens"] == 100
    ledger = Ledger(engine.lines[before:])
    assert ledger.accounts.keys() == {running}
    # A `params` that is no structure is no notification, but a message that cannot be read.
    assert [m["error"]["code"] for m in ledger.nameless] == [-32600]


def test_a_second_cancel_changes_nothing(engine: Host, neighbour: int) -> None:
    request_id = begin(engine, "decoding", neighbour)
    for _ in range(3):
        engine.cancel(request_id)
    refused(engine, request_id)
    engine.cancel(request_id)
    let_pass(engine, neighbour)
    Ledger(engine.lines)


def test_a_string_and_a_number_are_different_ids(engine: Host) -> None:
    for request_id in (7001, "7001"):
        engine.start("generate", request_id, **ENDLESS)
        let_pass(engine, request_id, 1)
    engine.cancel("7001")
    assert refused(engine, "7001").code == -32800
    let_pass(engine, 7001, 10)
    engine.cancel(7001)
    assert refused(engine, 7001).code == -32800


@pytest.mark.parametrize("more", [{}, {"temperature": 1, "seed": 5, "repetitionPenalty": 1.2}])
def test_neighbours_do_not_notice(more: dict[str, Any], engine: Host) -> None:
    ask = {"prompt": "hello", "maxTokens": 300, "ignoreEos": True, **more}
    alone = engine.call("generate", **ask)["text"]
    request_id = engine.start("generate", **ask)
    for phase in ("prefill", "decoding", "loading") * 2:
        other = engine.start("generate", **PHASES[phase])
        let_pass(engine, request_id)
        engine.cancel(other)
        assert refused(engine, other).code == -32800
    let_pass(engine, request_id)  # all that happened before it was over
    assert engine.reply(request_id)["text"] == alone
