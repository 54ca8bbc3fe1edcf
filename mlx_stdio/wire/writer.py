"""The single writer: every byte on stdout goes through here.

Rules it keeps:
- items leave in the order in which they were put, and a message is never cut by another one;
- `put` only queues and `flush` writes all that is queued with one system call, so an engine step
  costs one write however many streams it carried;
- the caller never blocks on a slow host: what a pipe takes without blocking is written at once,
  the rest is left to a thread that exists only since the first time it was needed;
- while the host is slow, a stream's later text joins the piece that still waits (`Delta.absorb`),
  so what is queued is bounded by the text itself and nothing is dropped.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol


class Item(Protocol):
    """Something that becomes one message when its turn has come."""

    def render(self) -> bytes:
        """The message's bytes, without a frame; called once, just before it is written."""

    def absorb(self, later: Item) -> bool:
        """Take over what a later item says; False if it has to be a message of its own."""


class Frame:
    """A message that is complete."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def render(self) -> bytes:
        """The bytes as given."""
        return self._data

    def absorb(self, later: Item) -> bool:  # noqa: ARG002
        """A complete message takes nothing more."""
        return False


class Writer:
    """Queues messages from any thread and writes them to one descriptor, newline framed."""

    def __init__(self, fd: int, on_broken: Callable[[], None]) -> None:
        """Args:
        fd: the private descriptor of stdout; it stays in blocking mode, because its mode is
            shared with every process that has the other copies.
        on_broken: called once, from any thread, when nobody reads any more.
        """
        self._fd = fd
        self._on_broken = on_broken
        self._queue: deque[Item] = deque()
        self._last: dict[object, Item] = {}
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._writing = False
        self._thread: threading.Thread | None = None
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self.broken = False

    def put(self, item: Item, lane: object = None) -> None:
        """Queue one message.

        Args:
            item: the message.
            lane: items of one lane may be merged with the lane's last one, if that still waits.
        """
        with self._lock:
            if self.broken:
                return
            if lane is not None:
                waiting = self._last.get(lane)
                if waiting is not None and waiting.absorb(item):
                    return
                self._last[lane] = item
            self._queue.append(item)

    def flush(self) -> None:
        """Write what is queued, now if that cannot block, else by the writer's thread."""
        with self._lock:
            if self._writing or not self._queue or self.broken:
                return
            if self._may_block():
                self._hand_over()
                return
            data = self._drain()
            if len(data) > select.PIPE_BUF:
                self._queue.append(Frame(data[:-1]))
                self._hand_over()
                return
            # Under the lock: the order of messages is the order of writes.
            broken = not self._write(data)
        if broken:
            self._on_broken()

    @property
    def backlog(self) -> int:
        """Messages that wait because the host reads slowly; the reader of stdin looks at it."""
        return len(self._queue)

    def close(self, seconds: float) -> bool:
        """Flush and wait until all is written.

        Args:
            seconds: how long a slow host is waited for.

        Returns:
            whether everything was written.
        """
        self.flush()
        end = time.monotonic() + seconds
        while (self._queue or self._writing) and not self.broken:
            if time.monotonic() > end:
                return False
            time.sleep(0.001)
        return not self.broken

    def _may_block(self) -> bool:
        events = self._poll.poll(0)
        return not events

    def _drain(self) -> bytes:
        items = list(self._queue)
        self._queue.clear()
        self._last.clear()
        return b"".join([item.render() + b"\n" for item in items])

    def _write(self, data: bytes) -> bool:
        """Write it all, blocking; whether somebody still reads."""
        view = memoryview(data)
        try:
            while view:
                try:
                    view = view[os.write(self._fd, view) :]
                except BlockingIOError:
                    # The host has put the pipe, which it shares with us, into non-blocking mode.
                    select.select([], [self._fd], [])
        except OSError:
            # EPIPE (Python ignores SIGPIPE) or a descriptor that is gone: nobody reads.
            self.broken = True
            self._queue.clear()
        return not self.broken

    def _hand_over(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
            self._thread.start()
        self._work.notify()

    def _run(self) -> None:
        while not self.broken:
            with self._lock:
                while not self._queue:
                    self._work.wait()
                data = self._drain()
                self._writing = True
            self._write(data)
            with self._lock:
                self._writing = False
        self._on_broken()
