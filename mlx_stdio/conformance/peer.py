"""A program under test: spawned, spoken to over its pipes, and never waited for without bound.

One thread does all: it writes and reads as the pipes allow, so that a program that does not read,
or writes without end, costs no more than the transcript's time. Its stderr goes to a file.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import subprocess
import tempfile
import time
from collections import deque
from typing import Any, Final, NamedTuple

_CHUNK: Final = 64 * 1024
_LOG_SHOWN: Final = 2000


class Stalled(Exception):  # noqa: N818 - an outcome
    """The time is up."""


class NotAMessage(NamedTuple):
    """Bytes on stdout that are no message, and why."""

    reason: str
    data: bytes


class Peer:
    """One process, for one transcript.

    Attributes:
        reading: whether its stdout is read; what it writes stays in the pipe else.
    """

    def __init__(self, command: list[str], framing: str, seconds: float) -> None:
        """Args:
        framing: of what it writes and reads.
        seconds: all that it is given.
        """
        self.ends_at = time.monotonic() + seconds
        self.reading = True
        self._framing = framing
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `end`
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, bufsize=0
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdin.fileno(), False)
        self._unwritten = memoryview(b"")
        self._held = b""
        self._messages: deque[Any] = deque()
        self._over = False  # nothing more will come

    def write(self, data: bytes) -> None:
        """Write bytes as they are; a program that is gone takes none."""
        self._add(data)
        while self._unwritten:
            self._wait()

    def offer(self, data: bytes, seconds: float) -> bool:
        """The same, but only until nothing was taken for so long; whether all of it was.

        What was not is written when the program takes it.
        """
        self._add(data)
        while self._unwritten:
            if not self._wait(seconds):
                return False
        return True

    def send(self, message: Any) -> None:
        """Write one message in its frame."""
        self.write(self.framed(message))

    def framed(self, message: Any) -> bytes:
        """A message in its frame."""
        body = json.dumps(message, ensure_ascii=False).encode()
        if self._framing == "newline":
            return body + b"\n"
        return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)

    def peek(self) -> Any:
        """The next message, a `NotAMessage`, or None at the end of the stream.

        Raises:
            Stalled: the time is up.
        """
        while not self._messages:
            if self._over:
                return None
            self._wait()
        return self._messages[0]

    def take(self) -> Any:
        """As `peek`, and the message is passed."""
        message = self.peek()
        if self._messages:
            self._messages.popleft()
        return message

    def close_stdin(self) -> None:
        """End of input."""
        self.write(b"")
        with contextlib.suppress(OSError):
            self._stdin.close()

    def close_stdout(self) -> None:
        """Nobody reads any more."""
        self._stdout.close()
        self._over = True
        self._messages.clear()

    def signal(self, name: str) -> None:
        """Send a signal by its name."""
        self._process.send_signal(signal.Signals[name])

    def exit_code(self) -> int:
        """Wait for the end; a signal that ended it is a negative number.

        Raises:
            Stalled: the time is up.
        """
        try:
            return self._process.wait(max(0.0, self.ends_at - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise Stalled("the process does not end") from None

    def end(self) -> str:
        """End it, whatever it does; the last that it wrote to stderr."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            self._stdin.close()
        self._stdout.close()
        with self._log:
            self._log.seek(0)
            return self._log.read().decode(errors="replace")[-_LOG_SHOWN:]

    def _add(self, data: bytes) -> None:
        if not self._stdin.closed:
            self._unwritten = memoryview(bytes(self._unwritten) + data)

    def _wait(self, most: float = math.inf) -> bool:
        """Wait until something can be done, and write and read what can be; False if nothing.

        Args:
            most: seconds.
        """
        left = self.ends_at - time.monotonic()
        if left <= 0:
            raise Stalled("it takes no more" if self._unwritten else "nothing came in time")
        reading = [self._stdout] if self.reading and not self._over else []
        writing = [self._stdin] if self._unwritten else []
        readable, writable, _ = select.select(reading, writing, [], min(left, most))
        if readable:
            data = os.read(self._stdout.fileno(), _CHUNK)
            self._held += data
            self._over = not data
            self._cut_lines() if self._framing == "newline" else self._cut_frames()
        if writable:
            self._write_some()
        return bool(readable or writable)

    def _write_some(self) -> None:
        try:
            written = os.write(self._stdin.fileno(), self._unwritten[:_CHUNK])
        except BlockingIOError:
            return
        except OSError:  # it is gone
            written = len(self._unwritten)
        self._unwritten = self._unwritten[written:]

    def _cut_lines(self) -> None:
        *lines, self._held = self._held.split(b"\n")
        for line in lines:
            self._read(line)
        if self._over and self._held:
            self._messages.append(NotAMessage("a line that does not end", self._held))

    def _cut_frames(self) -> None:
        while b"\r\n\r\n" in self._held:
            head, body = self._held.split(b"\r\n\r\n", 1)
            names = [line.partition(b":") for line in head.split(b"\r\n")]
            lengths = [value for name, _, value in names if name.lower() == b"content-length"]
            if len(lengths) != 1 or not lengths[0].strip().isdigit():
                self._messages.append(NotAMessage("no frame", self._held))
                self._over = True
                return
            length = int(lengths[0])
            if len(body) < length:
                break
            self._held = body[length:]
            self._read(body[:length])
        if self._over and self._held:
            self._messages.append(NotAMessage("a frame that does not end", self._held))

    def _read(self, body: bytes) -> None:
        try:
            self._messages.append(json.loads(body.decode()))
        except ValueError as error:
            self._messages.append(NotAMessage(f"not JSON: {error}", body))
