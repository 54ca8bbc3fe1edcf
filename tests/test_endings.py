"""The end of the engine in the middle of its work: asked for, by a signal, with its parent."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.host import COMMAND, Host
from tests.ledger import Ledger
from tests.phases import (
    ENDLESS,
    LONG_TEXT,
    PHASES,
    begin,
    start_neighbour,
    told,
    wait_until,
)


@pytest.fixture
def arguments(slow: Path) -> list[str]:
    return ["--models-dir", str(slow), "--model", "roomy", "--prefill-step", "16"]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("how", ["SIGTERM", "exit"])
def test_whatever_it_does_the_engine_answers_and_leaves(
    phase: str, how: str, arguments: list[str]
) -> None:
    with Host(*arguments, "--max-concurrent", "2") as host:
        neighbour = start_neighbour(host)
        request_id = begin(host, phase, neighbour)
        if how == "exit":
            late = [host.start("shutdown")]
            late += [host.start("generate", **ENDLESS) for _ in range(50)]
            host.notify("exit")
        else:
            late = []
            host.process.send_signal(signal.SIGTERM)
        assert host.wait() == (0 if how == "exit" else 143)
        host.rest()
        ledger = Ledger(host.lines)
        assert ledger.answered == set(range(1, host._ids + 1)) - {0}
        for one in (neighbour, request_id, *late[1:]):
            assert ledger[one].code == 1009
        assert ledger[neighbour].partial["completionTokens"] > 0


@pytest.mark.parametrize(
    ("phase", "method", "params"),
    [
        ("preparing", "tokenize", {"text": LONG_TEXT}),
        ("loading", "models/load", {"model": "big"}),
        ("loading", "generate", {"model": "big", "prompt": "ab", "maxTokens": 2}),
        ("prefill", "generate", {"prompt": [7] * 2000, "maxTokens": 2}),
    ],
)
def test_the_end_of_input_ends_no_request(
    phase: str, method: str, params: dict[str, Any], arguments: list[str]
) -> None:
    with Host(*arguments) as host:
        request_id = host.start(method, **params)
        if phase != "preparing":
            wait_until(lambda: told(host, "$/progress", request_id))
        host.close_stdin()
        assert host.reply(request_id)
        assert host.wait() == 0


PARENT = f"import subprocess, time; subprocess.Popen({COMMAND!r} + ARGUMENTS); time.sleep(1000)"


@pytest.mark.parametrize("phase", ["preparing", "loading", "prefill", "decoding unseen"])
def test_the_engine_dies_with_its_parent_in_every_phase(phase: str, arguments: list[str]) -> None:
    """This process holds the other ends of both pipes, and goes on reading."""
    parent = PARENT.replace("ARGUMENTS", repr(arguments))
    with Host(command=[sys.executable, "-c", parent]) as host:
        neighbour = start_neighbour(host)
        request_id = begin(host, phase, neighbour)
        host.process.kill()
        messages = host.rest()  # to the end of stdout: only the engine had it
        assert not any("method" not in message for message in messages), "it ended first"
        assert request_id


def test_the_engine_dies_with_its_parent_in_the_middle_of_a_step(slow: Path) -> None:
    arguments = ["--models-dir", str(slow), "--prefill-step", "2000", "--blas", "bundled"]
    parent = PARENT.replace("ARGUMENTS", repr(arguments))
    with Host(command=[sys.executable, "-c", parent]) as host:
        host.call("models/load", model="big")
        host.start("generate", model="big", prompt=[7] * 1500, maxTokens=1)
        wait_until(lambda: host.call("engine/status")["requests"]["running"])
        host.process.kill()
        assert not any(message.get("method") == "stream/delta" for message in host.rest())
