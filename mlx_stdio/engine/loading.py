"""The one load in progress, and what those who wait for it are told."""

from __future__ import annotations

import time
from collections.abc import Iterator

from mlx_stdio.engine.job import Job
from mlx_stdio.marks import mark
from mlx_stdio.models.card import Card
from mlx_stdio.models.loader import Weights, give_back, load_steps


class Loading:
    """A load that the engine advances a slice at a time, between decode steps."""

    def __init__(self, card: Card, *, trust_remote_code: bool) -> None:
        self.card = card
        self._steps: Iterator[tuple[int, int] | Weights] = load_steps(
            card, trust_remote_code=trust_remote_code
        )
        self._began = time.monotonic()

    def advance(self, waiting: list[Job]) -> Weights | None:
        """Read one more slice.

        Args:
            waiting: the jobs that wait for this model; each hears of the bytes.

        Returns:
            the weights when the load is complete, else None.

        Raises:
            EngineError: `modelLoadFailed`.
        """
        step = next(self._steps)
        if isinstance(step, Weights):
            mark("engine: the weights are read")
            now = time.monotonic()
            for job in waiting:
                job.load_seconds = now - max(self._began, job.arrived)
            return step
        done, total = step
        if done:
            mark("engine: the model's code is imported, its first weights are read")
        for job in waiting:
            # A job may see a second load: of a model that had to leave before the job's turn came.
            if done > job.bytes_told:
                job.bytes_told = done
                job.sink.progress("loading", done, total, "bytes")
        return None

    def abandon(self) -> None:
        """Nobody waits any more: drop what was read and give it back."""
        self._steps = iter(())
        give_back()
