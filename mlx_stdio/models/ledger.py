"""The one ledger of memory: weights, KV, the prefix cache and MLX's pool, under one limit.

Rules it keeps:
- memory is asked for before it is allocated, from estimates: a model's weights by its files, a
  request's KV by its prompt and `maxTokens`;
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
    ) -> bool:
        """Set bytes aside for a request's KV.

        Args:
            needed: the estimate.
            used: the resident models that the request runs on.
            awaited: ids of models that older requests wait for.

        Returns:
            False when it has to wait until others end.

        Raises:
            EngineError: `outOfMemory` when it could not run even alone.
        """
        own = {resident.card.id: resident for resident in used}
        staying = own | {r.card.id: r for r in models.snapshot() if r.pinned}
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
        shortage = models.weight_bytes + self.reserved_bytes + needed - limit
        if shortage > 0 and not models.free(shortage, {*own, *awaited}):
            return False
        self._reserved[owner] = needed
        self.reserved_bytes += needed
        self.reclaim(models.weight_bytes)
        return True

    def release(self, owner: Hashable) -> None:
        """A request's KV is given back (or is now the prefix cache's)."""
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
