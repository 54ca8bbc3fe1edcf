"""Many requests at once: each gets its one reply, its share of the steps and its own text."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.host import Host
from tests.ledger import Ledger
from tests.phases import wait_until

HELLO = [{"role": "user", "content": "hello"}]
CALLS: list[tuple[str, dict[str, Any], int | None]] = [
    ("ping", {}, None),
    ("generate", {"prompt": "the quick", "maxTokens": 6}, None),
    ("initialize", {"protocolVersion": 1}, None),
    ("chat", {"messages": HELLO, "maxTokens": 4, "stream": False}, None),
    ("infill", {"prefix": "def f(", "suffix": "return", "maxTokens": 4}, None),
    ("generate", {"prompt": "ab", "maxTokens": 3, "model": "other", "seed": 3}, None),
    ("engine/status", {}, None),
    ("models/list", {}, None),
    ("models/load", {"model": "other"}, None),
    ("models/unload", {"model": "other"}, None),
    ("tokenize", {"text": "the quick brown fox"}, None),
    ("detokenize", {"tokens": [9, 8, 7]}, None),
    ("applyTemplate", {"messages": HELLO}, None),
    ("rpc.discover", {}, None),
    ("generate", {"prompt": "ab", "maxTokens": 2000, "timeoutMs": 1}, 1007),
    ("generate", {"prompt": [1, 320]}, -32602),
    ("generate", {"prompt": [7] * 2048}, 1003),
    ("tokenize", {"text": "a", "model": "nosuchmodel"}, 1001),
    ("embed", {"input": ["a"]}, 1006),
    ("chat", {"messages": HELLO, "tools": []}, 1006),
    ("nosuchmethod", {}, -32601),
]
SAMPLED: list[dict[str, Any]] = [
    {},
    {"temperature": 1, "seed": 1},
    {"temperature": 1, "seed": 2, "topP": 0.9},
    {"temperature": 0.7, "seed": 1, "topK": 20, "repetitionPenalty": 1.3},
    {"model": "other"},
    {"model": "other", "temperature": 1, "seed": 1, "minP": 0.05},
    {"frequencyPenalty": 1.5, "logprobs": 2},
    {"stop": ["e", "a"], "maxTokens": 80},
]


def send_all(host: Host, calls: list[tuple[str, dict[str, Any]]]) -> list[int]:
    """Send requests in one write; their ids."""
    ids = list(range(host._ids + 1, host._ids + 1 + len(calls)))
    host._ids += len(calls)
    host.write(
        b"".join(
            json.dumps(
                {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            ).encode()
            + b"\n"
            for number, (method, params) in zip(ids, calls, strict=True)
        )
    )
    return ids


def answers(host: Host, ids: list[int]) -> Ledger:
    """Wait for the replies; the whole conversation by then."""
    missing = set(ids)
    while missing:
        message = host.next()
        if "method" not in message:
            missing.discard(message["id"])
    return Ledger(host.lines)


def test_hundreds_of_mixed_requests_get_one_reply_each(host: Host) -> None:
    calls = [(method, params) for method, params, _ in CALLS] * 18
    ids = send_all(host, calls)
    assert len(ids) > 350
    host.close_stdin()
    host.rest()
    assert host.wait() == 0
    ledger = Ledger(host.lines)
    assert ledger.answered == ledger.accounts.keys() == set(ids)
    assert ledger.nameless == []
    texts: dict[int, set[str]] = {}
    for number, request_id in enumerate(ids):
        method, params, code = CALLS[number % len(CALLS)]
        account = ledger[request_id]
        assert account.code == code, (method, params, account.reply)
        if method == "generate" and code is None:
            texts.setdefault(number % len(CALLS), set()).add(account.result["text"])
    assert [len(one) for one in texts.values()] == [1, 1]


def test_beyond_the_queue_requests_are_refused_and_the_others_finish(models: Path) -> None:
    limits = ("--max-concurrent", "2", "--max-queued", "4")
    with Host("--models-dir", str(models), "--model", "tiny", *limits) as host:
        host.call("models/load", model="tiny")
        ask = {"prompt": "ab", "maxTokens": 200, "ignoreEos": True}
        ids = send_all(host, [("generate", ask)] * 20 + [("tokenize", {"text": "a"})])
        host.close_stdin()
        host.rest()
        ledger = Ledger(host.lines)
    assert [ledger[request_id].code for request_id in ids] == [None] * 6 + [1004] * 14 + [None]
    for request_id in ids[6:20]:
        reply = ledger[request_id].reply
        assert reply is not None
        assert reply["error"]["data"]["kind"] == "overloaded"
        assert reply["error"]["data"]["retryAfterMs"] > 0
    for request_id in ids[:6]:
        assert ledger[request_id].result["usage"]["completionTokens"] == 200


def test_a_place_in_a_long_queue_is_told_now_and_then(models: Path) -> None:
    """If each were told of each that goes, the news would grow with the square of the queue."""
    with Host("--models-dir", str(models), "--model", "tiny", "--max-concurrent", "1") as host:
        ids = send_all(host, [("generate", {"prompt": "ab", "maxTokens": 1})] * 400)
        host.close_stdin()
        host.rest()
        ledger = Ledger(host.lines)
    assert ledger.answered == set(ids)
    told = [ledger[request_id].places.get("queued", []) for request_id in ids]
    assert max(len(places) for places in told) > 10
    assert sum(len(places) for places in told) < 400 * 40


@pytest.fixture(scope="module")
def alone(shared_host: Host) -> list[str]:
    """The texts of `SAMPLED`, one request at a time."""
    return [
        shared_host.call(
            "generate", **{"prompt": "hello", "maxTokens": 60, "ignoreEos": True, **more}
        )["text"]
        for more in SAMPLED
    ]


def test_side_by_side_every_text_is_what_it_is_alone(shared_host: Host, alone: list[str]) -> None:
    asks = [{"prompt": "hello", "maxTokens": 60, "ignoreEos": True, **more} for more in SAMPLED]
    ids = send_all(shared_host, [("generate", ask) for ask in asks * 4])
    ledger = answers(shared_host, ids)
    assert [ledger[request_id].result["text"] for request_id in ids] == alone * 4
    assert len(set(alone)) > 5


def test_streams_advance_side_by_side(shared_host: Host) -> None:
    shared_host.call("models/load", model="tiny")
    before = len(shared_host.lines)
    ask = {"prompt": "hello", "maxTokens": 120, "ignoreEos": True, "temperature": 1}
    ids = send_all(shared_host, [("generate", {**ask, "seed": n}) for n in range(8)])
    answers(shared_host, ids)
    done = dict.fromkeys(ids, 0)
    for message in map(json.loads, shared_host.lines[before:]):
        if message.get("method") == "stream/delta":
            done[message["params"]["requestId"]] += len(message["params"]["tokens"])
        elif message.get("id") == ids[0]:
            break
        # Prompts are read one a step, so the last one begins eight steps after the first; and as
        # many tokens can wait for the rest of a character.
        assert max(done.values()) - min(done.values()) <= 20
    assert min(done.values()) >= 100


def test_every_method_can_stand_in_one_batch(shared_host: Host) -> None:
    calls = [call for call in CALLS * 2 if call[0] != "models/unload"]
    batch = [
        {"jsonrpc": "2.0", "id": f"b{number}", "method": method, "params": params}
        for number, (method, params, _) in enumerate(calls)
    ]
    before = len(shared_host.lines)
    shared_host.send(batch)
    replies, _ = shared_host.until(lambda m: isinstance(m, list))
    assert len(replies) == len(calls)
    ledger = Ledger(shared_host.lines[before:])
    for number, (_, _, code) in enumerate(calls):
        assert ledger[f"b{number}"].code == code


def test_whatever_crosses_the_reply_there_is_one(shared_host: Host) -> None:
    chance = random.Random(1)
    before = len(shared_host.lines)
    ids = []
    for number in range(150):
        more = {"timeoutMs": chance.randint(1, 40)} if number % 3 else {}
        ids.append(
            shared_host.start("generate", prompt="ab", maxTokens=chance.randint(1, 9), **more)
        )
        if number % 2:
            shared_host.cancel(chance.choice(ids[-6:]))
        if number % 10 == 0:
            wait_until(lambda: Ledger(shared_host.lines[before:]).answered >= set(ids))
    wait_until(lambda: Ledger(shared_host.lines[before:]).answered >= set(ids))
    codes = {account.code for account in Ledger(shared_host.lines[before:]).accounts.values()}
    assert codes == {None, -32800, 1007}
