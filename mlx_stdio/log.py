"""Logs: one JSON object a line on stderr, never on stdout, and never in the way.

A host that does not read our stderr fills its pipe after some 64 KiB. A log line that would block
is dropped and counted; the next one that fits says how many were lost. Where the system tells how
full a pipe is (Linux), half of it is left to what else writes to stderr: a warning or a `print`
of some library would block its thread for good.
"""

from __future__ import annotations

import array
import fcntl
import os
import select
import stat
import termios
import threading
import time
from typing import Any

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

# A pipe that polls as writable takes this many bytes without blocking (POSIX).
_LINE_LIMIT = select.PIPE_BUF
_PIPE_SHARE = 32 * 1024


class Log:
    """Structured log lines at or above one level, to one file descriptor."""

    def __init__(self, level: str = "info", fd: int = 2) -> None:
        self.threshold = LEVELS[level]
        self.dropped = 0
        self._fd = fd
        self._lock = threading.Lock()
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._is_pipe = stat.S_ISFIFO(os.fstat(fd).st_mode)

    def write(self, level: str, event: str, **fields: Any) -> None:
        """Write one line, or drop it if the reader of stderr is not keeping up.

        Args:
            level: a key of `LEVELS`.
            event: a short stable name, such as `model.loaded`.
            fields: what else is known; JSON types, or anything with a `str`.
        """
        if LEVELS[level] < self.threshold:
            return
        import orjson

        record: dict[str, Any] = {"time": round(time.time(), 3), "level": level, "event": event}
        if self.dropped:
            record["dropped"] = self.dropped
        try:
            line = orjson.dumps({**record, **fields}, default=str)
        except TypeError as error:  # nested too deep, an integer too long: what a host sent
            line = orjson.dumps({**record, "unreadable": str(error)})
        if len(line) >= _LINE_LIMIT:
            # A quarter, because each byte may need an escape of its own.
            record["truncated"] = line[: _LINE_LIMIT // 4].decode(errors="ignore")
            line = orjson.dumps(record)
        with self._lock:  # a poll object serves one thread at a time
            if not self._has_room():
                self.dropped += 1
                return
            try:
                os.write(self._fd, line + b"\n")
                self.dropped = 0
            except OSError:
                self.dropped += 1

    def _has_room(self) -> bool:
        if not any(events & select.POLLOUT for _, events in self._poll.poll(0)):
            return False
        if not self._is_pipe:
            return True
        unread = array.array("i", [0])
        fcntl.ioctl(self._fd, termios.FIONREAD, unread)
        return unread[0] <= _PIPE_SHARE

    def debug(self, event: str, **fields: Any) -> None:
        """For the developer of the engine."""
        self.write("debug", event, **fields)

    def info(self, event: str, **fields: Any) -> None:
        """What a host's author wants to see in normal running."""
        self.write("info", event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something was worked around."""
        self.write("warning", event, **fields)

    def error(self, event: str, **fields: Any) -> None:
        """Something failed."""
        self.write("error", event, **fields)
