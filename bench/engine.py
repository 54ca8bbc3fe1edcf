"""A bench's host: as little as possible between the clock and the pipe."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import orjson


class Engine:
    """A spawned engine; `spawned` is the clock just before the spawn."""

    def __init__(
        self, *arguments: str, root: str | None = None, command: list[str] | None = None
    ) -> None:
        """Args:
        root: a folder with the `mlx_stdio` to measure; None takes what Python finds.
        command: what is spawned, if not this Python's `mlx_stdio`.
        """
        command = command or [sys.executable, "-m", "mlx_stdio"]
        self.spawned = time.perf_counter()
        self.process = subprocess.Popen(
            [*command, "--log-level", "error", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd=root,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin = self.process.stdin
        self._stdout = self.process.stdout
        self._buffer = b""
        self._ids = 0

    def send(self, method: str, **params: Any) -> int:
        """Write a request; its id."""
        self._ids += 1
        message = {"jsonrpc": "2.0", "id": self._ids, "method": method, "params": params}
        self._stdin.write(orjson.dumps(message) + b"\n")
        return self._ids

    def receive(self) -> Any:
        """The next message."""
        while b"\n" not in self._buffer:
            chunk = self._stdout.read(65536)
            if not chunk:
                raise EOFError("the engine ended")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return orjson.loads(line)

    def reply(self, request_id: int) -> Any:
        """The result of a request; what comes before it is thrown away."""
        while True:
            message = self.receive()
            if message.get("id") == request_id and "method" not in message:
                if "error" in message:
                    raise RuntimeError(f"{message['error']}")
                return message["result"]

    def call(self, method: str, **params: Any) -> Any:
        """A request and its result."""
        return self.reply(self.send(method, **params))

    def first_delta(self, request_id: int) -> float:
        """The clock when the first text of a request arrives."""
        while True:
            message = self.receive()
            if message.get("method") == "stream/delta":
                return time.perf_counter()
            if message.get("id") == request_id:
                raise RuntimeError(f"no delta before the reply: {message}")

    def close(self) -> None:
        """End of input, and wait."""
        self._stdin.close()
        self.process.wait(30)
        self._stdout.close()
