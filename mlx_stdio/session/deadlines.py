"""`timeoutMs`: which requests end when, kept apart from whatever the engine is doing."""

from __future__ import annotations

import heapq
import itertools
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlx_stdio.session.request import Request

_FEW = 64


class Deadlines:
    """Requests by the time at which they expire. Used by the event loop's thread only."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Request]] = []
        self._order = itertools.count()
        self._most = _FEW

    def add(self, request: Request, milliseconds: int) -> None:
        """Let a request end with `deadlineExceeded` so long after its arrival."""
        if len(self._heap) >= self._most:
            # Requests that were answered long before their time must not stay in memory until then.
            self._heap = [entry for entry in self._heap if not entry[2].closed]
            heapq.heapify(self._heap)
            self._most = max(_FEW, 2 * len(self._heap))
        at = request.arrived + milliseconds / 1000
        heapq.heappush(self._heap, (at, next(self._order), request))

    def expire(self) -> bool:
        """End every request whose time has come; whether there was one."""
        expired = False
        while self._heap and (self._heap[0][0] <= time.monotonic() or self._heap[0][2].closed):
            _, _, request = heapq.heappop(self._heap)
            if not request.closed:
                request.interrupt("deadlineExceeded", "the request's `timeoutMs` has passed")
                expired = True
        return expired

    def next_delay(self) -> float | None:
        """Seconds until the next one expires; None when there is none."""
        while self._heap and self._heap[0][2].closed:
            heapq.heappop(self._heap)
        return max(0.0, self._heap[0][0] - time.monotonic()) if self._heap else None
