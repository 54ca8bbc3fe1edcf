"""The one ledger of memory: weights, KV, the prefix cache and MLX's pool, under one limit.

Rules it keeps:
- memory is asked for before it is allocated, from estimates: a model's weights by its files, a
  request's KV by its prompt and `maxTokens`; a model that is being loaded counts in full;
- room is made in this order: MLX's pool of freed buffers, the prefix cache, idle models;
- what can never fit is refused with `outOfMemory` and the figures, and nothing is given up for it;
  what does not fit now waits.

Owned by the engine's thread; the figures may be read from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING

from mlx_stdio.errors import EngineError

if TYPE_CHECKING:
    from mlx_stdio.kv.prefixes import Prefixes
    from mlx_stdio.models.residency import ModelCache, Resident


class Ledger:
    """See the module."""

    def __init__(self, limit: Callable[[], int], prefixes: Prefixes) -> None:
        """Args:
        limit: bytes that everything together may take; asked late, because MLX knows the device.
        """
        self._limit = limit
        self.prefixes = prefixes
        self._reserved: dict[Hashable, int] = {}
        self.reserved_bytes = 0

    @property
    def limit(self) -> int:
        """Bytes that everything together may take."""
        return self._limit()

    def reserve(
        self,
        owner: Hashable,
        needed: int,
        models: ModelCache,
        used: Iterable[Resident],
        awaited: Iterable[str],
        promised: int = 0,
    ) -> bool:
        """Set bytes aside for a request's KV.

        Args:
            needed: the estimate.
            used: the resident models that the request runs on.
            awaited: ids of models that older requests wait for.
            promised: bytes of weights that an older request waits for room for.

        Returns:
            False when it has to wait until others end.

        Raises:
            EngineError: `outOfMemory` when it could not run even alone.
        """
        own = {resident.card.id: resident for resident in used}
        pinned = {r.card.id: r for r in models.snapshot() if r.pinned}
        staying = own | pinned
        weights = sum(resident.weights.bytes for resident in staying.values())
        limit = self.limit
        if needed + weights > limit:
            raise EngineError(
                "outOfMemory",
                f"{needed} bytes of KV cache do not fit beside {weights} bytes of weights under "
                f"the limit of {limit} bytes",
                neededBytes=needed,
                limitBytes=limit,
                weightsBytes=weights,
            )
        if promised:
            firm = sum(resident.weights.bytes for resident in pinned.values())
            if firm + promised + self.reserved_bytes + needed > limit:
                return False
        shortage = models.weight_bytes + self.reserved_bytes + needed - limit
        if shortage > 0 and not models.free(shortage, {*own, *awaited}):
            return False
        self.claim(owner, needed)
        self.reclaim(models.weight_bytes)
        return True

    def claim(self, owner: Hashable, needed: int) -> None:
        """Set bytes aside that there is room for: KV, or weights that are being loaded."""
        self._reserved[owner] = needed
        self.reserved_bytes += needed

    def release(self, owner: Hashable) -> None:
        """What was set aside is given back, or counts elsewhere now; nothing if nothing was."""
        self.reserved_bytes -= self._reserved.pop(owner, 0)

    def reclaim(self, weights: int, coming: int = 0) -> None:
        """Give up the pool, then prefixes, until all fits.

        Args:
            weights: bytes of resident weights.
            coming: bytes that are about to be allocated.
        """
        import mlx.core as mx

        limit = self.limit
        firm = weights + self.reserved_bytes + coming
        if firm + self.prefixes.bytes + mx.get_cache_memory() <= limit:
            return
        mx.clear_cache()
        over = firm + self.prefixes.bytes - limit
        if over > 0:
            self.prefixes.evict(over)
            mx.clear_cache()

    def spare(self, weights: int) -> int:
        """Bytes that nobody has set aside; prefixes and the pool would give way.

        Args:
            weights: bytes of resident weights.
        """
        return max(0, self.limit - weights - self.reserved_bytes)

    def relieve(self) -> None:
        """Give up the pool where it does not fit beside what is in use."""
        import mlx.core as mx

        pool = mx.get_cache_memory()
        if pool and mx.get_active_memory() + pool > self.limit:
            mx.clear_cache()
