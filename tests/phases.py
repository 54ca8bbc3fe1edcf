"""Requests that are in a known phase of their life, and how long a step of the engine is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from tests.host import PATIENCE, Host

ENDLESS: dict[str, Any] = {"prompt": "ab", "maxTokens": 20_000, "ignoreEos": True}
"""Of a model with a context that long."""

LONG_TEXT = "the quick brown fox " * 15_000
"""It takes a while to tokenize."""

PHASES: dict[str, dict[str, Any]] = {
    "preparing": {"prompt": LONG_TEXT},
    "queued": {**ENDLESS},
    "loading": {**ENDLESS, "model": "big", "maxTokens": 2000},
    "prefill": {**ENDLESS, "prompt": [7] * 20_000},
    "decoding": {**ENDLESS},
    "decoding unseen": {**ENDLESS, "stream": False},
}
"""Parameters of a generation that stays in the phase for long."""


def wait_until(condition: Callable[[], Any]) -> None:
    """Wait until something is the case; fails if that never comes."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.002)


def told(host: Host, method: str, request_id: Any, since: int = 0) -> list[dict[str, Any]]:
    """The notifications of one kind that were sent for a request.

    Args:
        since: how many lines of the conversation are passed over.
    """
    notes = [json.loads(line) for line in host.lines[since:] if method.encode() in line]
    return [note["params"] for note in notes if note["params"]["requestId"] == request_id]


def let_pass(host: Host, neighbour: Any, steps: int = 3) -> None:
    """Let the engine make at least so many steps: as many deltas of a stream come, from now on.

    The step in which an event falls, and one delta of it that was on its way, count too: what is
    to be done "within one step" is done after three.
    """
    now = len(host.lines)
    wait_until(lambda: len(told(host, "stream/delta", neighbour, now)) >= steps)


def start_neighbour(host: Host) -> Any:
    """Start a stream whose steps take so long that a load beside it can be seen; its id."""
    request_id = host.start("generate", model="twin", prompt="a", maxTokens=2000, ignoreEos=True)
    wait_until(lambda: told(host, "stream/delta", request_id))
    return request_id


def make_way(host: Host, phase: str) -> None:
    """Before a request that is to wait in the queue: the second of the two places is taken."""
    if phase == "queued":
        host.start("generate", **ENDLESS, stream=False)


def begin(host: Host, phase: str, neighbour: Any) -> Any:
    """Start a request and wait until it is in that phase; its id.

    Args:
        neighbour: a stream that runs already, in an engine of two places.
    """
    make_way(host, phase)
    request_id = host.start("generate", **PHASES[phase])
    if phase == "decoding":
        wait_until(lambda: len(told(host, "stream/delta", request_id)) > 2)
    elif phase == "decoding unseen":
        let_pass(host, neighbour, 10)
    elif phase != "preparing":
        least = 1 if phase == "loading" else 0  # one slice of the weights is there
        wait_until(
            lambda: any(
                note["phase"] == phase and note["completed"] >= least
                for note in told(host, "$/progress", request_id)
            )
        )
    return request_id
