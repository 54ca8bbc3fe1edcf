"""The prompts of one model that are being read, and which of them gets the next chunk.

Rules:
- by priority, then the shortest rest first, so that a short prompt does not wait for a long one;
- one that later ones were preferred to eight times is next, so that a long one ends too;
- short prompts that fit into one chunk together are read in one pass, padded, unless one could find
  in the prefix cache what another reads;
- what is read in one step takes no longer than `pace.py` allows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from mlx_stdio.engine.pace import Pace
from mlx_stdio.engine.reading import Reading
from mlx_stdio.engine.row import Row
from mlx_stdio.kv import layers
from mlx_stdio.log import Log

_PASSED_OVER = 8
_FAILED = 3
"""After so many passes over several prompts that failed, each is read by itself."""

_PADDING = 16
"""A prompt is read with others that are at most twice as long and so many tokens more."""


class Prompts:
    """See the module. Any thread may look at `readings`."""

    def __init__(self, pace: Pace, can_batch: Callable[[], bool], log: Log) -> None:
        """Args:
        can_batch: whether the model's code takes several prompts in one pass.
        """
        self.readings: list[Reading] = []
        self._pace = pace
        self._can_batch = can_batch
        self._log = log
        self._failed = 0

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
        streams: int,
        on_done: Callable[[Reading], None],
        on_together: Callable[[Sequence[Reading], list[Any]], None],
        on_failed: Callable[[Row, Exception], None],
    ) -> None:
        """Read as much as one step allows.

        Args:
            streams: how many rows decode, of this and of other models.
            on_done: a prompt is read; what this raises is the prompt's own failure.
            on_together: several are read, into one batched cache.
            on_failed: a row's prompt cannot be read.
        """
        now = time.monotonic()
        beside_streams = streams > 0
        more_wait = len(self.readings) > streams
        end = now + self._pace.budget(beside_streams=beside_streams, more_wait=more_wait)
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
                chosen.open()
                together = self._pace.together(end - now, beside_streams=beside_streams)
                if others := self._companions(chosen, together, on_failed):
                    count = self._read_together([chosen, *others], on_together)
                else:
                    count = chosen.read(size)
                    if chosen.done:
                        self.readings.remove(chosen)
                        on_done(chosen)
            except Exception as error:  # noqa: BLE001 - a model's code may raise anything
                if chosen in self.readings:
                    self.readings.remove(chosen)
                on_failed(chosen.row, error)
            was, now = now, time.monotonic()
            if count:
                self._pace.chunk_read(count, now - was)

    def _companions(
        self, chosen: Reading, size: int, on_failed: Callable[[Row, Exception], None]
    ) -> list[Reading]:
        """Other prompts that can be read whole, in one pass with this one."""
        least = (chosen.left - _PADDING) // 2
        if len(self.readings) < 2 or not chosen.fresh or 2 * chosen.left > size:
            return []
        if self._failed >= _FAILED or not self._can_batch():
            return []
        group = [chosen]
        longest = chosen.left
        for reading in sorted(self.readings, key=_order):
            if reading is chosen or reading.row.job.rank != chosen.row.job.rank:
                continue
            longest_now = max(longest, reading.left)
            if not least <= reading.left <= 2 * chosen.left + _PADDING:
                continue
            if (len(group) + 1) * longest_now > size:
                break
            try:
                reading.open()
            except Exception as error:  # noqa: BLE001 - a model's code may raise anything
                self.readings.remove(reading)
                on_failed(reading.row, error)
                continue
            if reading.fresh and not any(other.shares(reading) for other in group):
                group.append(reading)
                longest = longest_now
        return group[1:]

    def _read_together(
        self,
        group: list[Reading],
        on_together: Callable[[Sequence[Reading], list[Any]], None],
    ) -> int:
        """Read whole prompts in one pass; how many tokens that was, with the padding.

        If it fails, nobody knows because of whom: each is read by itself then.
        """
        import mlx.core as mx

        model = group[0].row.resident.weights.model
        chunks = [reading.rest for reading in group]
        try:
            cache = layers.merge([reading.caches[0] for reading in group])
            layers.fill(cache, chunks, lambda tokens: model(tokens, cache=cache))
            layers.own_states(cache)
            mx.eval(layers.arrays(cache))
            for at, reading in enumerate(group):
                reading.was_read(cache, at)
            on_together(group, cache)
        except Exception as error:  # noqa: BLE001 - a model's code may raise anything
            self._failed += 1
            self._log.error("prefill.failed", prompts=len(group), error=repr(error))
            for reading in group:
                reading.start_over()
            return 0
        for reading in group:
            self.readings.remove(reading)
        return len(group) * max(map(len, chunks))

    def _next(self) -> Reading:
        return min(self.readings, key=_order)

    def _pass_over(self, chosen: Reading) -> None:
        for reading in self.readings:
            if reading is chosen:
                reading.passed = 0
            elif reading.row.job.rank == chosen.row.job.rank and _came_later(chosen, reading):
                reading.passed += 1


def _order(reading: Reading) -> tuple[float, ...]:
    job = reading.row.job
    starving = -reading.passed if reading.passed >= _PASSED_OVER else 0
    return (job.rank, starving, reading.left, job.arrived)


def _came_later(chosen: Reading, reading: Reading) -> bool:
    return chosen.row.job.arrived > reading.row.job.arrived
