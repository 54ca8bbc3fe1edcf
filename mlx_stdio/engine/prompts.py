"""The prompts of one model that are being read, and which of them gets the next chunk.

Rules:
- by priority, then the shortest rest first, so that a short prompt does not wait for a long one;
- one that later ones were preferred to eight times is next, so that a long one ends too;
- what is read in one step takes no longer than `pace.py` allows.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from mlx_stdio.engine.pace import Pace
from mlx_stdio.engine.reading import Reading

_PASSED_OVER = 8


class Prompts:
    """See the module. Any thread may look at `readings`."""

    def __init__(self, pace: Pace) -> None:
        self.readings: list[Reading] = []
        self._pace = pace

    def __len__(self) -> int:
        return len(self.readings)

    def add(self, reading: Reading) -> None:
        """A prompt to read, or to go on reading."""
        self.readings.append(reading)

    def remove(self, reading: Reading) -> None:
        """It is set aside, or its request is gone."""
        self.readings.remove(reading)

    def read(
        self,
        *,
        beside_streams: bool,
        on_done: Callable[[Reading], None],
        on_failed: Callable[[Reading, Exception], None],
    ) -> None:
        """Read as much as one step allows.

        Args:
            beside_streams: whether any row decodes, of this or of another model.
            on_done: a prompt is read; what this raises is the prompt's own failure.
            on_failed: a prompt cannot be read.
        """
        now = time.monotonic()
        end = now + self._pace.budget(beside_streams=beside_streams)
        first = True
        while self.readings:
            size = self._pace.chunk(end - now, beside_streams=beside_streams)
            chosen = self._next()
            if not first and now + self._pace.seconds(min(size, max(1, chosen.left))) > end:
                return
            first = False
            self._pass_over(chosen)
            count = 0
            try:
                count = chosen.read(size)
                if chosen.done:
                    self.readings.remove(chosen)
                    on_done(chosen)
            except Exception as error:  # noqa: BLE001 - a model's code may raise anything
                if chosen in self.readings:
                    self.readings.remove(chosen)
                on_failed(chosen, error)
            was, now = now, time.monotonic()
            if count:
                self._pace.chunk_read(count, now - was)

    def _next(self) -> Reading:
        def order(reading: Reading) -> tuple[float, ...]:
            starving = -reading.passed if reading.passed >= _PASSED_OVER else 0
            return (reading.row.job.rank, starving, reading.left, reading.row.job.arrived)

        return min(self.readings, key=order)

    def _pass_over(self, chosen: Reading) -> None:
        for reading in self.readings:
            if reading is chosen:
                reading.passed = 0
            elif reading.row.job.rank == chosen.row.job.rank and _came_later(chosen, reading):
                reading.passed += 1


def _came_later(chosen: Reading, reading: Reading) -> bool:
    return chosen.row.job.arrived > reading.row.job.arrived
