"""What one thread is busy with holds nobody up, and who has gone costs nothing."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_stdio.session.deadlines import Deadlines
from mlx_stdio.session.request import Request
from mlx_stdio.wire.writer import Writer
from tests.host import Host, RpcError
from tests.phases import LONG_TEXT, told, wait_until


@pytest.fixture
def engine(slow: Path) -> Iterator[Host]:
    """An engine to which the first chunk of a prompt is a long step: it has no fast BLAS."""
    with Host("--models-dir", str(slow), "--model", "roomy", "--blas", "bundled") as host:
        host.call("models/load", model="roomy")
        host.call("models/load", model="big")
        yield host


@pytest.fixture
def long_step(engine: Host) -> int:
    """A request of whose prompt the first chunk is read just now."""
    request_id: int = engine.start("generate", model="big", prompt=[7] * 2000, maxTokens=1)
    wait_until(lambda: engine.call("engine/status")["requests"]["running"])
    return request_id


def is_over(host: Host, long_step: int) -> bool:
    """Whether the step has come to its end, which is told."""
    return any(note["phase"] == "prefill" for note in told(host, "$/progress", long_step))


def refused(host: Host, request_id: int) -> RpcError:
    with pytest.raises(RpcError) as caught:
        host.reply(request_id)
    return caught.value


def test_a_long_step_holds_up_no_answer(engine: Host, long_step: int) -> None:
    for _ in range(20):
        engine.call("ping")
        assert engine.call("engine/status")["requests"] == {"running": 1, "queued": 0}
    assert engine.call("tokenize", text="ab")["tokens"]
    engine.cancel(long_step)
    assert refused(engine, long_step).code == -32800
    # None of it waited for the step, which cannot be cut short: it still lasts.
    assert engine.call("engine/status")["requests"]["running"] == 1
    assert not is_over(engine, long_step)


def test_a_refusal_after_tokenizing_does_not_wait_for_a_long_step(
    engine: Host, long_step: int
) -> None:
    too_long = engine.start("generate", prompt="0" * 40_000)
    assert refused(engine, too_long).code == 1003
    time.sleep(0.1)
    assert not is_over(engine, long_step), "the refusal came with the end of the step"


def test_a_conversation_of_very_many_messages_holds_nobody_up(engine: Host) -> None:
    """It is rendered and tokenized beside the reader of stdin, however empty its messages are."""
    long = engine.start("chat", messages=[{"role": "user"}] * 20_000, maxTokens=1)
    engine.call("ping")
    engine.cancel(long)
    assert refused(engine, long).code == -32800


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_is_prepared_for_who_has_gone(engine: Host) -> None:
    def used() -> float:
        fields = Path(f"/proc/{engine.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def burst(cancel: bool) -> float:
        began = used()
        ids = []
        for _ in range(6):
            ids.append(engine.start("tokenize", text=LONG_TEXT[:200_000]))
            ids.append(engine.start("generate", prompt=LONG_TEXT[:200_000]))
        for request_id in ids if cancel else ():
            engine.cancel(request_id)
        for request_id in ids:
            with contextlib.suppress(RpcError):
                engine.reply(request_id)
        engine.call("tokenize", text="x")  # the workers have come to the end of the queue
        return used() - began

    assert burst(cancel=True) < burst(cancel=False) / 2


def test_an_answered_request_is_not_kept_until_its_deadline() -> None:
    reading, writing = os.pipe()
    try:
        writer = Writer(writing, on_broken=lambda: None)
        deadlines = Deadlines()
        kept = weakref.WeakSet[Request]()
        for number in range(1000):
            request = Request(number, lambda _: None, writer, lambda *_: None)
            kept.add(request)
            deadlines.add(request, 1_000_000_000)
            if number != 5:
                request.succeed({})
        assert 1 <= len(kept) < 200
        assert deadlines.next_delay() is not None, "one still waits"
    finally:
        os.close(reading)
        os.close(writing)
