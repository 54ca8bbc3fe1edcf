"""The single writer: every byte on stdout goes through here.

Rules it keeps:
- items leave in the order in which they were put, and a message is never cut by another one;
- `put` only queues and `flush` writes all that is queued at once, in pieces that a pipe takes
  without blocking, so an engine step costs one write in 4 KiB however many streams it carried;
- the caller never blocks on a slow host: what a pipe takes without blocking is written at once,
  the rest is left to a thread that exists only since the first time it was needed;
- while the host is slow, a stream's later text joins the piece that still waits (`Delta.absorb`),
  so what is queued is bounded by the text itself and nothing is dropped;
- `hold` keeps everything back until `begin` tells the host's framing: what is written in the other
  one would corrupt its stream;
- a descriptor that somebody has made non-blocking (the mode belongs to the pipe's end, not to this
  process) is written all the same.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

_WRITES = 8
"""Pieces that `flush` writes itself; what is left after them goes to the writer's thread."""


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


def _line(message: bytes) -> bytes:
    return message + b"\n"


class Writer:
    """Queues messages from any thread and writes them to one descriptor, each in its frame."""

    def __init__(self, fd: int, on_broken: Callable[[], None]) -> None:
        """Args:
        fd: the private descriptor of stdout; it stays in blocking mode, because its mode is
            shared with every process that has the other copies.
        on_broken: called once, from any thread, when nobody reads any more.
        """
        self._framed: Callable[[bytes], bytes] = _line
        self._held = False
        self._fd = fd
        self._on_broken = on_broken
        self._queue: deque[Item] = deque()
        self._rest = b""  # rendered already, and goes before the queue
        self._last: dict[object, Item] = {}
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._writing = False
        self._thread: threading.Thread | None = None
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self.broken = False
        self._reported = False

    def hold(self) -> None:
        """Write nothing before `begin` or `close`: nobody knows how to frame it yet."""
        with self._lock:
            self._held = True

    def begin(self, framed: Callable[[bytes], bytes] | None = None) -> None:
        """Write from the next `flush` on.

        Args:
            framed: puts a message into its frame; by default each one is a line.
        """
        with self._lock:
            self._framed = framed or _line
            self._held = False

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
            if self._held or self._writing or not (self._queue or self._rest) or self.broken:
                return
            if self._rest or self._may_block():
                self._hand_over()
                return
            data = memoryview(self._drain())
            # Under the lock: the order of messages is the order of writes. As much as cannot block:
            # a pipe that can be written to takes so many bytes, and to wake the writer's thread
            # costs more than a second write.
            for _ in range(_WRITES):
                piece = data[: select.PIPE_BUF]
                rest = self._write(piece)
                data = data[len(piece) - len(rest) :]
                if not data or rest or self.broken or self._may_block():
                    break
            if data:
                self._rest = bytes(data)
                self._hand_over()
                return
        self._report_broken()

    @property
    def backlog(self) -> int:
        """Messages that wait because the host reads slowly; the reader of stdin looks at it."""
        return len(self._queue)

    def close(self, seconds: float | None) -> bool:
        """Flush and wait until all is written; several threads may wait. What was held leaves too.

        Args:
            seconds: how long a slow host is waited for; None: as long as it is there.

        Returns:
            whether everything was written.
        """
        with self._lock:
            self._held = False
        self.flush()
        with self._lock:
            # Under the lock: between the queue and the descriptor, what is taken is in neither.
            return (
                self._work.wait_for(
                    lambda: self.broken or not (self._queue or self._rest or self._writing), seconds
                )
                and not self.broken
            )

    def _may_block(self) -> bool:
        return not self._poll.poll(0)

    def _drain(self) -> bytes:
        items = list(self._queue)
        self._queue.clear()
        self._last.clear()
        return b"".join([self._framed(item.render()) for item in items])

    def _write(self, data: bytes | memoryview) -> bytes:
        """Write it all; what a non-blocking descriptor did not take."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except BlockingIOError:
            return bytes(view)
        except OSError:
            # EPIPE (Python ignores SIGPIPE) or a descriptor that is gone: nobody reads.
            self.broken = True
        return b""

    def _report_broken(self) -> None:
        with self._lock:
            if not self.broken or self._reported:
                return
            self._reported = True
            self._queue.clear()
            self._work.notify_all()
        self._on_broken()

    def _hand_over(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
            self._thread.start()
        self._work.notify_all()

    def _run(self) -> None:
        patience = select.poll()
        patience.register(self._fd, select.POLLOUT)
        while not self.broken:
            with self._lock:
                while not (self._queue or self._rest):
                    self._work.wait()
                data = self._rest or self._drain()
                self._rest = b""
                self._writing = True
            while data := self._write(data):
                patience.poll()
            with self._lock:
                self._writing = False
                self._work.notify_all()
        self._report_broken()
