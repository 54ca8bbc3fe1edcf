"""A host for the tests: it spawns the real engine and talks to it over real pipes."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "mlx_stdio"]
PATIENCE = 60.0
"""Seconds that a test waits for a message before it fails; never a measure of speed."""


class RpcError(Exception):
    """An error reply."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.code: int = error["code"]
        self.message: str = error["message"]
        self.data: dict[str, Any] = error.get("data", {})

    @property
    def kind(self) -> str:
        """The stable name of the error."""
        kind: str = self.data["kind"]
        return kind


class Host:
    """One engine process. Every line that it writes is kept, in order, in `lines`."""

    def __init__(
        self,
        *arguments: str,
        command: list[str] | None = None,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.process = subprocess.Popen(
            [*(command or COMMAND), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            cwd=cwd,
        )
        self.lines: list[bytes] = []
        self.stderr = b""
        self._messages: queue.Queue[Any] = queue.Queue()
        self._held: list[Any] = []
        self._ids = 0
        self._readers = [
            threading.Thread(target=self._read_stdout, daemon=True),
            threading.Thread(target=self._read_stderr, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _read_stdout(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            try:
                self._messages.put(json.loads(line))
            except ValueError:
                self._messages.put({"corrupted": line})
        self._messages.put(None)

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.stderr += line

    # Sending.

    def write(self, data: bytes) -> None:
        """Write bytes as they are."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def send(self, message: Any) -> None:
        """Write one message."""
        self.write(json.dumps(message).encode() + b"\n")

    def start(self, method: str, request_id: Any = None, **params: Any) -> Any:
        """Send a request and return its id without waiting."""
        if request_id is None:
            self._ids += 1
            request_id = self._ids
        message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
        self.send(message)
        return request_id

    def notify(self, method: str, **params: Any) -> None:
        """Send a notification."""
        self.send({"jsonrpc": "2.0", "method": method, "params": params})

    def cancel(self, request_id: Any) -> None:
        """Send `$/cancelRequest`."""
        self.notify("$/cancelRequest", id=request_id)

    # Receiving.

    def next(self, timeout: float = PATIENCE) -> Any:
        """The next message, in order; None at the end of the stream."""
        if self._held:
            return self._held.pop(0)
        return self._messages.get(timeout=timeout)

    def until(self, wanted: Any, timeout: float = PATIENCE) -> tuple[Any, list[Any]]:
        """Read up to the first message for which `wanted` is true.

        Returns:
            that message, and all that came before it.
        """
        before: list[Any] = []
        end = time.monotonic() + timeout
        while True:
            message = self.next(max(0.01, end - time.monotonic()))
            if message is None:
                raise EOFError(f"the engine ended; stderr: {self.stderr.decode()[-2000:]}")
            if wanted(message):
                return message, before
            before.append(message)

    def reply(self, request_id: Any, timeout: float = PATIENCE) -> Any:
        """The result of a request; other messages stay readable in their order.

        Raises:
            RpcError: an error reply.
        """
        message, before = self.until(
            lambda m: isinstance(m, dict) and "method" not in m and m.get("id") == request_id,
            timeout,
        )
        self._held = before + self._held
        if "error" in message:
            raise RpcError(message["error"])
        return message["result"]

    def call(self, method: str, **params: Any) -> Any:
        """Send a request and wait for its result."""
        return self.reply(self.start(method, **params))

    def stream(self, method: str, **params: Any) -> tuple[Any, list[dict[str, Any]]]:
        """Send a request; its result, and the params of its `stream/delta` notifications."""
        request_id = self.start(method, **params)
        result = self.reply(request_id)
        return result, self.take_deltas(request_id)

    def take_deltas(self, request_id: Any) -> list[dict[str, Any]]:
        """Remove and return the deltas of one request from what has been read so far."""
        return self.take("stream/delta", request_id)

    def take(self, method: str, request_id: Any = None) -> list[dict[str, Any]]:
        """Remove and return the params of notifications that have been read so far."""
        taken: list[dict[str, Any]] = []
        kept: list[Any] = []
        for message in self._held:
            mine = isinstance(message, dict) and message.get("method") == method
            if mine and request_id in (None, message["params"].get("requestId")):
                taken.append(message["params"])
            else:
                kept.append(message)
        self._held = kept
        return taken

    def rest(self) -> list[Any]:
        """Everything until the end of the stream, what was passed over so far included."""
        messages = list(self._held)
        self._held = []
        return messages + self.later()

    def later(self) -> list[Any]:
        """What comes, until the end of the stream, after all that was looked at so far."""
        messages: list[Any] = []
        while (message := self._messages.get(timeout=PATIENCE)) is not None:
            messages.append(message)
        return messages

    # Ending.

    def close_stdin(self) -> None:
        """End of input."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def wait(self, timeout: float = PATIENCE) -> int:
        """The exit code."""
        return self.process.wait(timeout)

    def close(self) -> None:
        """End the process whatever it does, and its pipes."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


class LateHost(Host):
    """A host that does not read stdout before it is told to, by its event `reading`."""

    def __init__(self, *arguments: str) -> None:
        self.reading = threading.Event()
        super().__init__(*arguments)

    def _read_stdout(self) -> None:
        self.reading.wait()
        super()._read_stdout()

    def close(self) -> None:
        """See `Host`; the reader has to end too."""
        self.process.kill()
        self.reading.set()
        super().close()


def run_python(*arguments: str, data: str = "") -> Any:
    """Run a fresh interpreter with these arguments; the JSON value that it prints last.

    Args:
        data: what it reads on stdin.
    """
    done = subprocess.run(
        [sys.executable, *arguments],
        input=data,
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def tokens_of(deltas: Iterable[dict[str, Any]]) -> list[int]:
    """The tokens of deltas."""
    return [token for delta in deltas for token in delta.get("tokens", [])]


def joined(deltas: Iterable[dict[str, Any]]) -> str:
    """The text of deltas, which must be numbered without a gap."""
    listed = list(deltas)
    assert [delta["seq"] for delta in listed] == list(range(len(listed)))
    return "".join(delta["text"] for delta in listed)
