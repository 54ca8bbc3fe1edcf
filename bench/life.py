"""One life of a contender: spawned, asked one thing at a time, ended.

Here are the engine and the script in process; `bench/web.py` has the servers.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any, Protocol

from bench.engine import Engine
from bench.processes import spawn, stop
from bench.stream import BenchError, Stream


class Life(Protocol):
    """What the footprint suite asks of each.

    Attributes:
        spawned: the clock just before the spawn.
    """

    spawned: float
    process: subprocess.Popen[bytes]

    def ready(self) -> float:
        """Wait until it can take a request; the clock then."""

    def ping(self) -> float | None:
        """Milliseconds of an exchange that does nothing; None if it has no such thing."""

    def request(self, prompt: str, model: str = "") -> float:
        """Milliseconds of a request for one token, in one reply."""

    def stream(self, prompt: str, tokens: int, model: str = "") -> Stream:
        """A streamed text, to its end."""

    def close(self) -> None:
        """End the process."""


class EngineLife:
    """`mlx-stdio`, spoken to through its pipes."""

    def __init__(self, model: Path, *, root: str | None) -> None:
        """Args:
        root: a folder with the `mlx_stdio` to measure; None takes what Python finds.
        """
        self._engine = Engine("--model", str(model), root=root)
        self.spawned = self._engine.spawned
        self.process = self._engine.process

    def ready(self) -> float:
        """See `Life`."""
        self._engine.call("initialize", protocolVersion=1)
        return time.perf_counter()

    def ping(self) -> float | None:
        """See `Life`."""
        begin = time.perf_counter()
        self._engine.call("ping")
        return (time.perf_counter() - begin) * 1000

    def request(self, prompt: str, model: str = "") -> float:
        """See `Life`."""
        begin = time.perf_counter()
        self._engine.call("generate", stream=False, **_params(prompt, 1, model))
        return (time.perf_counter() - begin) * 1000

    def stream(self, prompt: str, tokens: int, model: str = "") -> Stream:
        """See `Life`."""
        stream = Stream()
        request_id = self._engine.send("generate", **_params(prompt, tokens, model))
        while True:
            message = self._engine.receive()
            now = time.perf_counter()
            if message.get("method") == "stream/delta":
                if message["params"]["text"]:
                    stream.piece(now, message["params"]["text"])
            elif message.get("id") == request_id:
                if "error" in message:
                    raise BenchError(str(message["error"]))
                stream.tokens = message["result"]["usage"]["completionTokens"]
                stream.finish(now)
                return stream

    def close(self) -> None:
        """See `Life`."""
        self._engine.close()


class ScriptLife:
    """`mlx_lm` in process. Its times are taken over there, so they hold no wire."""

    def __init__(self, model: Path, *, env: dict[str, str]) -> None:
        self.spawned = time.perf_counter()
        self.process = spawn(
            ["-m", "bench.in_process", str(model)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ready(self) -> float:
        """See `Life`: `mlx_lm` is imported."""
        return float(self._answer()["ready"])

    def ping(self) -> float | None:
        """See `Life`."""
        return None

    def request(self, prompt: str, model: str = "") -> float:
        """See `Life`."""
        stream = self.stream(prompt, 1, model)
        return (stream.ended - stream.sent) * 1000

    def stream(self, prompt: str, tokens: int, model: str = "") -> Stream:
        """See `Life`."""
        assert self.process.stdin is not None
        request = {"prompt": prompt, "tokens": tokens, "model": model}
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        answer = self._answer()
        stream = Stream(sent=answer["sent"], arrivals=answer["arrivals"], tokens=answer["tokens"])
        stream.finish(answer["ended"])
        return stream

    def close(self) -> None:
        """See `Life`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        stop(self.process, patience=10)
        self.process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise BenchError("the script has ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BenchError(answer["error"])
        return answer


def _params(prompt: str, tokens: int, model: str) -> dict[str, Any]:
    params: dict[str, Any] = {"prompt": prompt, "maxTokens": tokens, "temperature": 0}
    return params | ({"model": model} if model else {})
