"""The servers' lives: one client that asks one thing at a time, on a connection that stays open.

`mlx_lm.server` closes its connection after each reply, so there each request opens another. All
listen on the loopback, or on a socket in a folder that only this user may enter.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson

from bench.processes import spawn, stop
from bench.stream import BenchError, Stream

_HOST = "127.0.0.1"
_PATIENCE = 60.0
_POLL = 0.002
"""Seconds between two looks at a server that is not up yet; they delay the row about it."""


class WebLife:
    """What the servers have in common; see `bench.life.Life`."""

    paths = ("/generate", "/stream")

    def __init__(
        self,
        arguments: list[str],
        connection: http.client.HTTPConnection,
        *,
        env: dict[str, str],
    ) -> None:
        self._connection = connection
        self.spawned = time.perf_counter()
        self.process = spawn(
            ["-m", *arguments],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def ready(self) -> float:
        """See `Life`: the first good reply about its health."""
        while self.process.poll() is None and time.perf_counter() < self.spawned + _PATIENCE:
            try:
                self._exchange("GET", "/health", None).read()
            except (BenchError, OSError, http.client.HTTPException):
                self._connection.close()
                time.sleep(_POLL)
            else:
                return time.perf_counter()
        raise BenchError("the server did not come up")

    def ping(self) -> float | None:
        """See `Life`."""
        begin = time.perf_counter()
        self._exchange("GET", "/health", None).read()
        return (time.perf_counter() - begin) * 1000

    def request(self, prompt: str, model: str = "") -> float:
        """See `Life`."""
        body = self.body(prompt, 1, model)
        begin = time.perf_counter()
        orjson.loads(self._exchange("POST", self.paths[0], body).read())
        return (time.perf_counter() - begin) * 1000

    def stream(self, prompt: str, tokens: int, model: str = "") -> Stream:
        """See `Life`."""
        body = self.body(prompt, tokens, model) | self.streaming()
        stream = Stream()
        for line in self._exchange("POST", self.paths[1], body):
            if line.startswith(b"data: {"):
                now = time.perf_counter()
                event = orjson.loads(line[6:])
                if text := self.text(event):
                    stream.piece(now, text)
                stream.tokens = self.tokens(event) or stream.tokens
        stream.finish(time.perf_counter())
        return stream

    def close(self) -> None:
        """See `Life`."""
        self._connection.close()
        stop(self.process)

    def body(self, prompt: str, tokens: int, model: str) -> dict[str, Any]:
        """A request."""
        return {"prompt": prompt, "max_tokens": tokens, "model": model}

    def streaming(self) -> dict[str, Any]:
        """What is added to a request that is to be streamed."""
        return {}

    def text(self, event: dict[str, Any]) -> str:
        """An event's text."""
        return str(event.get("text", ""))

    def tokens(self, event: dict[str, Any]) -> int:
        """The number of tokens, in an event that says it."""
        return int(event.get("tokens", 0))

    def _exchange(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> http.client.HTTPResponse:
        data = None if body is None else json.dumps(body).encode()
        self._connection.request(method, path, data, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        if response.status != 200:
            raise BenchError(f"status {response.status}: {response.read()[:200]!r}")
        return response


class MlxLmServer(WebLife):
    """`mlx_lm.server`."""

    paths = ("/v1/completions", "/v1/completions")

    def __init__(self, model: Path, *, env: dict[str, str]) -> None:
        self._model = str(model)
        port = _free_port()
        place = ["--host", _HOST, "--port", str(port), "--log-level", "ERROR"]
        super().__init__(
            ["mlx_lm", "server", "--model", self._model, *place],
            http.client.HTTPConnection(_HOST, port, timeout=_PATIENCE),
            env=env,
        )

    def body(self, prompt: str, tokens: int, model: str) -> dict[str, Any]:
        """See `WebLife`."""
        return super().body(prompt, tokens, model or self._model) | {"temperature": 0}

    def streaming(self) -> dict[str, Any]:
        """See `WebLife`."""
        return {"stream": True, "stream_options": {"include_usage": True}}

    def text(self, event: dict[str, Any]) -> str:
        """See `WebLife`."""
        return "".join(choice.get("text") or "" for choice in event["choices"])

    def tokens(self, event: dict[str, Any]) -> int:
        """See `WebLife`."""
        return int((event.get("usage") or {}).get("completion_tokens", 0))


class FastApiTcp(WebLife):
    """The proposal's server on the loopback."""

    def __init__(self, model: Path, *, env: dict[str, str]) -> None:
        port = _free_port()
        super().__init__(
            ["bench.proposal", "--model", str(model), "--port", str(port)],
            http.client.HTTPConnection(_HOST, port, timeout=_PATIENCE),
            env=env,
        )


class FastApiUnix(WebLife):
    """The proposal's server on a Unix domain socket, with uvloop."""

    def __init__(self, model: Path, *, env: dict[str, str]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="bench-"))  # a socket's path must be short
        path = str(self._folder / "socket")
        super().__init__(
            ["bench.proposal", "--model", str(model), "--uds", path],
            _UnixConnection(path),
            env=env,
        )

    def close(self) -> None:
        """See `Life`."""
        super().close()
        with contextlib.suppress(OSError):
            shutil.rmtree(self._folder)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_PATIENCE)
        self.sock.connect(self._path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port
