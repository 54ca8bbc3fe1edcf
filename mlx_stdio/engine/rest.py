"""What is given back while the engine rests: MLX's pool of freed buffers, then the C heap.

Not at once: the next request may come in a moment, a GPU's driver takes its time to hand out
memory, and a heap is faulted in again page by page.
"""

from __future__ import annotations

import time

from mlx_stdio.models.loader import give_back

_KEEP_POOL = 1.0
"""Seconds without work after which the pool is given back."""

_KEEP_HEAP = 30.0
"""The same for the heap; what a load leaves behind there goes with the pool."""


class Rest:
    """Since when nothing runs, and what is still to be given back. Owned by the engine's thread."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._pool_kept = False
        self._heap_kept = _KEEP_HEAP

    def begins(self, *, loaded: bool = False) -> None:
        """Nothing runs any more.

        Args:
            loaded: a model was read just now.
        """
        self._since = time.monotonic()
        self._pool_kept = True
        if loaded:
            self._heap_kept = _KEEP_POOL

    def deadline(self, now: float) -> float | None:
        """Give back what is due by now; when something will be (`time.monotonic`)."""
        if self._since is None:
            return None
        heap = self._since + self._heap_kept
        if now >= heap:
            give_back()
            self._heap_kept = _KEEP_HEAP
            self._since = None
            return None
        if not self._pool_kept:
            return heap
        pool = self._since + _KEEP_POOL
        if now < pool:
            return min(pool, heap)
        import mlx.core as mx

        mx.clear_cache()
        self._pool_kept = False
        return heap
