"""Bad input and load: a thousand requests at once, and cancels at random in every phase.

`MLX_STDIO_SOAK_SECONDS` and `MLX_STDIO_SOAK_SEED` as in `test_soak.py`.
"""

from __future__ import annotations

import queue
import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.host import Host
from tests.ledger import Ledger
from tests.phases import wait_until
from tests.residents import memory
from tests.test_many import answers, send_all
from tests.test_soak import SECONDS, seeded

WAYS: list[dict[str, Any]] = [
    {"prompt": "ab", "maxTokens": 6, "ignoreEos": True},
    {"prompt": "the quick brown fox " * 12, "maxTokens": 4},
    {"prompt": "hello", "maxTokens": 9, "temperature": 1, "seed": 5, "topP": 0.9},
    {"prompt": [7] * 200 + [8, 9], "maxTokens": 5, "priority": "background"},
    {"prompt": [7] * 200 + [11], "maxTokens": 5, "priority": "interactive"},
    {"prompt": "one two one two one two", "maxTokens": 12, "numDraftTokens": 4},
    {"prompt": "one two", "maxTokens": 8, "draftModel": "other", "temperature": 1, "seed": 1},
    {"prompt": "a bounded one", "maxTokens": 8, "maxKvSize": 64},
    {"prompt": "of the other model", "maxTokens": 8, "model": "other", "logprobs": 1},
    {"prompt": "not kept", "maxTokens": 5, "cachePrompt": False, "repetitionPenalty": 1.3},
]


def text_alone(host: Host) -> list[str]:
    return [host.call("generate", **way, stream=False)["text"] for way in WAYS]


def check_nothing_is_left(host: Host) -> None:
    """No request, no KV; of memory, the weights and the prefixes; without models, nothing."""
    wait_until(lambda: host.call("engine/status")["requests"] == {"running": 0, "queued": 0})
    wait_until(lambda: memory(host)["kvBytes"] == 0)
    figures = memory(host)
    known = figures["weightsBytes"] + figures["prefixCacheBytes"]
    assert 0.95 * known <= figures["activeBytes"] <= 1.05 * known + 100_000
    for model in ("tiny", "other"):
        host.call("models/unload", model=model)
    figures = memory(host)
    assert figures["weightsBytes"] == figures["prefixCacheBytes"] == 0
    assert figures["activeBytes"] < 100_000


def test_a_thousand_requests_at_once(models: Path) -> None:
    with Host("--models-dir", str(models), "--model", "tiny") as host:
        alone = text_alone(host)
        calls = [("generate", WAYS[number % len(WAYS)]) for number in range(1000)]
        ids = send_all(host, calls)
        ledger = answers(host, ids)
        for number, request_id in enumerate(ids):
            account = ledger[request_id]
            assert account.code is None, account.reply
            assert account.result["text"] == alone[number % len(WAYS)]
            speculates = bool(calls[number][1].keys() & {"numDraftTokens", "draftModel"})
            assert (account.result["usage"]["draftedTokens"] > 0) == speculates
        check_nothing_is_left(host)


def test_a_prompt_longer_than_the_context_is_refused_beside_others(models: Path) -> None:
    with Host("--models-dir", str(models), "--model", "tiny") as host:
        alone = text_alone(host)
        calls: list[tuple[str, dict[str, Any]]] = []
        for way in WAYS:
            calls += [("generate", way), ("generate", {**way, "prompt": [7] * 2048})]
        ids = send_all(host, calls)
        ledger = answers(host, ids)
        for number, request_id in enumerate(ids):
            account = ledger[request_id]
            if number % 2:
                assert account.code == 1003
            else:
                assert account.result["text"] == alone[number // 2]


@pytest.mark.soak
@pytest.mark.timeout(SECONDS * 2 + 120)
def test_cancels_at_random_leave_nothing_and_hurt_nobody(models: Path) -> None:
    with (
        seeded() as chance,
        Host(
            *("--models-dir", str(models), "--model", "tiny"),
            *("--max-concurrent", "6", "--prefill-step", "64"),
        ) as host,
    ):
        alone = text_alone(host)
        asked = converse(host, alone, chance)
        check_nothing_is_left(host)
        host.close_stdin()
        host.rest()
        assert host.wait() == 0
        ledger = Ledger(host.lines)
        assert ledger.answered >= asked.keys()
        for request_id, which in asked.items():
            account = ledger[request_id]
            if account.code is None:
                assert account.result["text"] == alone[which]
            else:
                assert account.code in (-32800, 1007)
                assert alone[which].startswith(account.partial["text"])
        codes = [ledger[request_id].code for request_id in asked]
        assert codes.count(None) > 10
        assert codes.count(-32800) > 10
        assert b"Traceback" not in host.stderr
        assert b'"error"' not in host.stderr


def converse(host: Host, alone: list[str], chance: random.Random) -> dict[Any, int]:
    """Ask and cancel until the time is over; what was asked, and which of `WAYS` it was."""
    asked: dict[Any, int] = {}
    open_: set[Any] = set()
    end = time.monotonic() + SECONDS / 2
    number = 0
    while time.monotonic() < end or open_:
        going = time.monotonic() < end
        if going and len(open_) < 16 and chance.random() < 0.7:
            which = chance.randrange(len(WAYS))
            more = {"timeoutMs": chance.randint(1, 80)} if chance.random() < 0.15 else {}
            request_id = host.start("generate", f"r{number}", **WAYS[which], **more)
            number += 1
            asked[request_id] = which
            open_.add(request_id)
        if open_ and chance.random() < 0.3:
            host.cancel(chance.choice(sorted(open_)))
        try:
            while open_:
                message = host.next(chance.choice((0.0001, 0.0001, 0.002, 0.02)))
                if "method" not in message:
                    open_.discard(message["id"])
        except queue.Empty:  # nothing more for now
            pass
    return asked
