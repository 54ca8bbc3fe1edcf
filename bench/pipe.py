"""The client of `mlx-stdio`: one thread reads the pipe, and puts a clock beside each message."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import orjson

from bench.processes import spawn, stop
from bench.stream import BenchError, Stream


class Pipe:
    """An engine, its requests in flight, and the thread that reads for them."""

    def __init__(self, model: Path, concurrency: int, *, root: str | None = None) -> None:
        """Args:
        root: a folder with the `mlx_stdio` to measure; None takes what Python finds.
        """
        arguments = ["--model", str(model), "--max-concurrent", str(concurrency)]
        self._process = spawn(
            ["-m", "mlx_stdio", *arguments, "--log-level", "error"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=root,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin = self._process.stdin
        self._stdout = self._process.stdout
        self._streams: dict[int, Stream] = {}
        self._ids = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def generate(self, prompt: str, tokens: int) -> Stream:
        """See `Client`."""
        return self._send("generate", {"prompt": prompt}, tokens)[1]

    def chat(self, messages: list[dict[str, str]], tokens: int, *, cold: bool) -> Stream:
        """See `Client`."""
        params: dict[str, Any] = {"messages": messages}
        if cold:
            params["cachePrompt"] = False
        return self._send("chat", params, tokens)[1]

    def cancel(self, stream: Stream) -> None:
        """See `Client`."""
        for request_id, running in list(self._streams.items()):
            if running is stream:
                self._write({"method": "$/cancelRequest", "params": {"id": request_id}})
        if not stream.done.wait(30):
            raise BenchError("a cancelled stream did not end")

    def close(self) -> None:
        """See `Client`."""
        self._stdin.close()
        stop(self._process, patience=10)
        self._reader.join(5)
        self._stdout.close()

    def _send(self, method: str, params: dict[str, Any], tokens: int) -> tuple[int, Stream]:
        self._ids += 1
        generation = {"maxTokens": tokens, "temperature": 0, "ignoreEos": True}
        stream = self._streams[self._ids] = Stream()
        self._write({"id": self._ids, "method": method, "params": {**params, **generation}})
        return self._ids, stream

    def _write(self, message: dict[str, Any]) -> None:
        try:
            self._stdin.write(orjson.dumps({"jsonrpc": "2.0", **message}) + b"\n")
            self._stdin.flush()
        except (OSError, ValueError) as error:
            raise BenchError(f"the engine is gone: {error}") from error

    def _read(self) -> None:
        rest = b""
        descriptor = self._stdout.fileno()
        while chunk := os.read(descriptor, 1 << 20):
            now = time.perf_counter()
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._handle(orjson.loads(line), now)
        for stream in list(self._streams.values()):
            stream.finish(time.perf_counter(), "the engine ended")

    def _handle(self, message: dict[str, Any], now: float) -> None:
        if message.get("method") == "stream/delta":
            params = message["params"]
            stream = self._streams.get(params["requestId"])
            if stream is not None:
                stream.piece(now, params["text"])
        elif (stream := self._streams.pop(message.get("id", -1), None)) is not None:
            usage = message.get("result", {}).get("usage", {})
            stream.tokens = usage.get("completionTokens", 0)
            stream.prompt_tokens = usage.get("promptTokens", 0)
            stream.cached = usage.get("cachedTokens", 0)
            error = message.get("error")
            stream.finish(now, f"{error['code']} {error['message']}" if error else "")
