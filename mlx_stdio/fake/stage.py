"""The thread on which the fake engine acts: many works at once, each a generator of its own.

A work yields how many seconds it wants to wait; what it does in between takes no time.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator

Work = Iterator[float]
_LOOK_SECONDS = 0.01
"""How often a work that waits looks whether its request still wants it."""


class Stage:
    """Starts its thread with the first work."""

    def __init__(self, flush: Callable[[], None]) -> None:
        """Args:
        flush: called after each piece of work, which may have written something.
        """
        self._flush = flush
        self._due: list[tuple[float, int, Work]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, work: Work) -> None:
        """Begin a work; it handles its own failures."""
        with self._changed:
            self._push(0.0, work)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="stage", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _push(self, seconds: float, work: Work) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), work))

    def _run(self) -> None:
        while True:
            with self._changed:
                while (delay := self._delay()) is None or delay > 0:
                    self._changed.wait(delay)
                _, _, work = heapq.heappop(self._due)
            seconds = next(work, None)
            self._flush()
            if seconds is not None:
                with self._changed:
                    self._push(seconds, work)

    def _delay(self) -> float | None:
        return self._due[0][0] - time.monotonic() if self._due else None


def pause(seconds: float, is_over: Callable[[], bool]) -> Work:
    """Wait, unless nobody is interested any more."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not is_over():
        yield min(left, _LOOK_SECONDS)
