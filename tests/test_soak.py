"""A long conversation at random: every rule of the protocol holds at its end, whatever was said.

The seed is printed; `MLX_STDIO_SOAK_SEED` repeats a conversation (as far as time allows, since the
engine's own pace is part of it), and `MLX_STDIO_SOAK_SECONDS` makes it longer.
"""

from __future__ import annotations

import json
import os
import queue
import random
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.host import Host
from tests.ledger import Ledger

SECONDS = float(os.environ.get("MLX_STDIO_SOAK_SECONDS", "12"))
MODELS = ("tiny", "other")
MOST_IN_FLIGHT = 24
FIRST_ID = 2**40

ASKS: list[tuple[str, dict[str, Any]]] = [
    ("generate", {"prompt": "hello", "maxTokens": 12, "ignoreEos": True}),
    ("generate", {"prompt": "the quick brown fox " * 8, "maxTokens": 5}),
    ("generate", {"prompt": [7] * 300, "maxTokens": 8}),
    ("generate", {"prompt": "a", "maxTokens": 90, "ignoreEos": True}),
    ("generate", {"prompt": "ab", "maxTokens": 20, "stop": ["e", "qu"], "logprobs": 1}),
    ("generate", {"prompt": "ab", "maxTokens": 20, "temperature": 1, "seed": 11}),
    ("chat", {"messages": [{"role": "user", "content": "hello"}], "maxTokens": 10}),
    ("infill", {"prefix": "def add(a, b):", "suffix": "return", "maxTokens": 6}),
]
"""Each gives one text for each model, whatever happens beside it."""


def text_of(result: dict[str, Any]) -> str:
    text: str = result["message"]["content"] if "message" in result else result["text"]
    return text


class Chatter:
    """A host that says anything at any time, and remembers what it said.

    Attributes:
        asked: for each request, which of `ASKS` it was and of which model; else None.
        garbage: lines sent that nobody could read.
    """

    def __init__(self, host: Host, chance: random.Random) -> None:
        self.host = host
        self.chance = chance
        self.asked: dict[Any, tuple[int, str] | None] = {}
        self.garbage = 0
        self._open: set[Any] = set()

    def talk(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._say()
            self._listen(self.chance.choice((0, 0, 0, 0.001, 0.01)))
            while len(self._open) > MOST_IN_FLIGHT:
                self._listen(0.01)
        while self._open:
            self._hear(self.host.next())

    def _listen(self, seconds: float) -> None:
        try:
            while True:
                self._hear(self.host.next(max(seconds, 1e-4)))
        except queue.Empty:
            return

    def _hear(self, message: Any) -> None:
        assert message is not None, f"the engine ended: {self.host.stderr.decode()[-2000:]}"
        for one in message if isinstance(message, list) else [message]:
            if "method" not in one:
                self._open.discard(one.get("id"))

    def _say(self) -> None:
        kind = self.chance.choices(("call", "batch", "cancel", "garbage"), (10, 1, 6, 2))[0]
        if kind == "call":
            self.host.send(self._call())
        elif kind == "batch":
            self.host.send([self._call() for _ in range(self.chance.randint(1, 5))])
        elif kind == "cancel":
            known = [*self._open, "unknown", -1] if self.chance.random() < 0.9 else [*self.asked, 0]
            self.host.cancel(self.chance.choice(known))
        else:
            self.garbage += 1
            self.host.write(self._garbage() + b"\n")

    def _call(self) -> dict[str, Any]:
        number = len(self.asked)
        request_id = FIRST_ID + number if number % 2 else f"id {number}"
        model = self.chance.choice(MODELS)
        method: str
        params: dict[str, Any]
        self.asked[request_id] = None
        if self.chance.random() < 0.7:
            which = self.chance.randrange(len(ASKS))
            method, params = ASKS[which]
            self.asked[request_id] = which, model
            params = {**params, "model": model, "stream": self.chance.random() < 0.8}
            params["priority"] = self.chance.choice((None, "interactive", "normal", "background"))
            if self.chance.random() < 0.2:
                params["timeoutMs"] = self.chance.randint(1, 60)
        else:
            method, params = self.chance.choice(
                (
                    ("models/load", {"model": model, "keepAliveSeconds": 0.01}),
                    ("models/load", {"model": model, "timeoutMs": self.chance.randint(1, 20)}),
                    ("models/unload", {"model": model}),
                    ("models/list", {}),
                    ("tokenize", {"text": "the quick brown fox " * 500, "model": model}),
                    ("applyTemplate", {"messages": [{"role": "user", "content": "x"}]}),
                    ("engine/status", {}),
                    ("ping", {}),
                    ("generate", {"prompt": [9999]}),
                    ("generate", {"prompt": "x", "model": "nowhere"}),
                )
            )
        self._open.add(request_id)
        return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}

    def _garbage(self) -> bytes:
        line = json.dumps(
            {
                "jsonrpc": "2.0",
                "id": "x",
                "method": "generate",
                "params": {"prompt": "é🎉\u2028" * 9},
            },
            ensure_ascii=self.chance.random() < 0.5,
        ).encode()
        if self.chance.random() < 0.3:
            return line[: self.chance.randrange(1, len(line))]
        spoilt = bytearray(line)
        for _ in range(self.chance.randint(1, 40)):
            spoilt[self.chance.randrange(len(spoilt))] = self.chance.randrange(256)
        # Whatever became of it: no JSON text holds this byte.
        return bytes(spoilt).replace(b"\n", b" ") + b"\xff"


@contextmanager
def seeded() -> Iterator[random.Random]:
    seed = int(os.environ.get("MLX_STDIO_SOAK_SEED", secrets.randbits(32)))
    print(f"MLX_STDIO_SOAK_SEED={seed}")  # pytest shows it when the test fails
    yield random.Random(seed)


@pytest.mark.soak
@pytest.mark.timeout(SECONDS * 2 + 120)
@pytest.mark.parametrize("most_models", [1, 2])
def test_whatever_a_host_says_the_rules_hold(models: Path, most_models: int) -> None:
    with (
        seeded() as chance,
        Host(
            *("--models-dir", str(models), "--model", "tiny", "--max-models", str(most_models)),
            *("--max-concurrent", "4", "--max-queued", "12", "--prefill-step", "16"),
        ) as host,
    ):
        alone = {
            (which, model): text_of(host.call(method, **params, model=model))
            for model in MODELS
            for which, (method, params) in enumerate(ASKS)
        }
        chatter = Chatter(host, chance)
        chatter.talk(SECONDS / 2)

        # Nothing is left of it: no request, and no memory but that of the models.
        for model in MODELS:
            host.call("models/load", model=model, keepAliveSeconds=1000)
        status = host.call("engine/status")
        assert status["requests"] == {"running": 0, "queued": 0}
        memory = status["memory"]
        known = memory["weightsBytes"] + memory["prefixCacheBytes"]
        assert memory["weightsBytes"] > 0
        assert memory["kvBytes"] == 0
        assert 0.95 * known <= memory["activeBytes"] <= 1.05 * known + 100_000
        for (which, model), text in alone.items():
            method, params = ASKS[which]
            assert text_of(host.call(method, **params, model=model)) == text
        host.close_stdin()
        host.rest()
        assert host.wait() == 0
        check(Ledger(host.lines), chatter, alone)
        assert b"Traceback" not in host.stderr


def check(ledger: Ledger, chatter: Chatter, alone: dict[tuple[int, str], str]) -> None:
    assert ledger.answered == ledger.accounts.keys() >= chatter.asked.keys()
    assert {m["error"]["code"] for m in ledger.nameless} <= {-32700}
    assert len(ledger.nameless) == chatter.garbage
    whole = 0
    for request_id, ask in chatter.asked.items():
        account = ledger[request_id]
        assert account.code in {None, -32800, -32602, 1001, 1004, 1007}, account.reply
        if ask is not None and account.code is None:
            assert text_of(account.result) == alone[ask]
            whole += 1
        elif ask is not None and account.code != 1004:
            assert alone[ask].startswith(account.partial["text"])
    assert whole > 20
