"""The client of `mlx_lm.server`: one connection and one thread for each stream, as SDKs do it."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import orjson

from bench.processes import spawn, stop
from bench.stream import BenchError, Stream

_HOST = "127.0.0.1"
_PATIENCE = 300.0
_RETRIES = 100
"""A full listen backlog resets connections; each retry comes 20 ms after the last."""


class Server:
    """A server process on a free port of the loopback."""

    def __init__(self, model: Path, concurrency: int, *, env: dict[str, str] | None = None) -> None:
        self._model = str(model)
        with socket.socket() as probe:
            probe.bind((_HOST, 0))
            self._port: int = probe.getsockname()[1]
        arguments = ["--model", self._model, "--host", _HOST, "--port", str(self._port)]
        self._process = spawn(
            [
                *("-m", "mlx_lm", "server", *arguments),
                *("--decode-concurrency", str(concurrency), "--log-level", "ERROR"),
            ],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._wait_ready(120)

    def generate(self, prompt: str, tokens: int) -> Stream:
        """See `Client`."""
        return self._start("/v1/completions", {"prompt": prompt}, tokens)

    def chat(
        self,
        messages: list[dict[str, str]],
        tokens: int,
        *,
        cold: bool,  # noqa: ARG002 - it has no such switch: the prompt must be new
    ) -> Stream:
        """See `Client`."""
        return self._start("/v1/chat/completions", {"messages": messages}, tokens)

    def cancel(self, stream: Stream) -> None:
        """See `Client`: the server notices a closed connection when it writes next."""
        stream.stopped = True
        if not stream.done.wait(60):
            raise BenchError("a cancelled stream did not end")
        time.sleep(0.7)  # its time slice of 0.5 s ends before it takes the request out

    def close(self) -> None:
        """See `Client`."""
        stop(self._process)

    def _connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(_HOST, self._port, timeout=_PATIENCE)
        connection.connect()
        assert connection.sock is not None
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _wait_ready(self, timeout: float) -> None:
        until = time.perf_counter() + timeout
        while self._process.poll() is None and time.perf_counter() < until:
            try:
                connection = self._connect()
                connection.request("GET", "/health")
                connection.getresponse().read()
            except OSError:
                time.sleep(0.02)
            else:
                connection.close()
                return
        self.close()
        raise BenchError("the server did not come up")

    def _start(self, path: str, body: dict[str, Any], tokens: int) -> Stream:
        body |= {
            "model": self._model,
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        stream = Stream()
        data = json.dumps(body).encode()
        threading.Thread(target=self._follow, args=(path, data, stream), daemon=True).start()
        return stream

    def _follow(self, path: str, data: bytes, stream: Stream) -> None:
        error = ""
        for _ in range(_RETRIES):
            try:
                connection = self._connect()
                connection.request("POST", path, data)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as failure:
                error = repr(failure)
                time.sleep(0.02)
                continue
            try:
                error = "" if response.status == 200 else f"status {response.status}"
                for line in response:
                    if line.startswith(b"data: {"):
                        self._handle(orjson.loads(line[6:]), stream, time.perf_counter())
                    if stream.stopped:
                        break
            except (OSError, http.client.HTTPException) as failure:
                error = repr(failure)
            response.close()
            connection.close()
            break
        stream.finish(time.perf_counter(), error)

    @staticmethod
    def _handle(event: dict[str, Any], stream: Stream, now: float) -> None:
        for choice in event["choices"]:
            text = choice.get("text") or choice.get("delta", {}).get("content")
            if text:
                stream.piece(now, text)
        if usage := event.get("usage"):
            stream.tokens = usage["completion_tokens"]
            stream.prompt_tokens = usage["prompt_tokens"]
            stream.cached = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
