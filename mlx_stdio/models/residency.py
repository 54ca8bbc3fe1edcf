"""Which models are in memory: a least-recently-used cache bounded by count and by bytes.

Rules it keeps:
- a model that is in use, pinned, or awaited by an older request is never a victim;
- room is made before a load begins, never after;
- a model that can never fit is refused at once, with the figures, and nothing is evicted for it.

Owned by the engine's thread; `get`, `snapshot` and `weight_bytes` may be read from any thread.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct, field

from mlx_stdio.errors import EngineError
from mlx_stdio.models.card import Card
from mlx_stdio.models.catalog import EMBEDDED
from mlx_stdio.models.ledger import Ledger
from mlx_stdio.models.loader import NO_WEIGHTS, Weights, give_back


class Resident(Struct, eq=False):
    """A model in memory."""

    card: Card
    weights: Weights
    pinned: bool = False
    keep_alive: float | None = None
    users: int = 0
    last_used: float = field(default_factory=time.monotonic)

    @property
    def idle_deadline(self) -> float | None:
        """When it is to be unloaded (`time.monotonic`), if nobody uses it before."""
        if self.pinned or self.users or self.keep_alive is None:
            return None
        return self.last_used + self.keep_alive


class ModelCache:
    """The resident models, least recently used first."""

    def __init__(
        self,
        max_models: int,
        ledger: Ledger,
        on_change: Callable[[str, str, str], None],
    ) -> None:
        """Args:
        on_change: called with model id, new state and reason.
        """
        self.max_models = max_models
        self._ledger = ledger
        self._on_change = on_change
        self._models: OrderedDict[str, Resident] = OrderedDict()
        self.loads = 0
        self.unloads = 0

    def get(self, model_id: str) -> Resident | None:
        """A resident model, without touching its place."""
        return self._models.get(model_id)

    def touch(self, resident: Resident) -> None:
        """It was used now: it becomes the last victim."""
        resident.last_used = time.monotonic()
        self._models.move_to_end(resident.card.id)

    def add(self, card: Card, weights: Weights, keep_alive: float | None) -> Resident:
        """A load has finished."""
        resident = Resident(card, weights, keep_alive=keep_alive)
        self._models[card.id] = resident
        self._ledger.prefixes.know(card)
        self.loads += 1
        self._on_change(card.id, "ready", "request")
        return resident

    @property
    def weight_bytes(self) -> int:
        """Bytes of all resident weights."""
        return sum(resident.weights.bytes for resident in self.snapshot())

    def make_room(self, card: Card, awaited: Iterable[str], beside: str | None = None) -> bool:
        """Evict until one more model fits.

        Args:
            card: the model that is to be loaded.
            awaited: ids that older requests wait for.
            beside: a model that has to stay, because both are needed at once.

        Returns:
            False when it has to wait until a model that is in use becomes idle.

        Raises:
            EngineError: `outOfMemory` when it cannot fit even alone beside the pinned models.
        """
        kept = {*awaited, beside}
        needed = weight_estimate(card)
        limit = self._ledger.limit
        pinned = [r for r in self._models.values() if r.pinned or r.card.id == beside]
        pinned_bytes = sum(r.weights.bytes for r in pinned)
        figures: dict[str, Any] = {
            "model": card.id,
            "neededBytes": needed,
            "limitBytes": limit,
            "pinnedBytes": pinned_bytes,
            "maxModels": self.max_models,
            "pinnedModels": len(pinned),
        }
        if needed + pinned_bytes > limit:
            raise EngineError(
                "outOfMemory",
                f"{needed} bytes of weights do not fit under the limit of {limit} bytes, "
                f"{pinned_bytes} of them pinned",
                **figures,
            )
        if len(pinned) >= self.max_models:
            raise EngineError("outOfMemory", "every place is taken by a pinned model", **figures)
        victims = [
            r
            for r in self._models.values()
            if not r.users and not r.pinned and r.card.id not in kept
        ]
        count, total = len(self._models), self.weight_bytes + self._ledger.reserved_bytes
        chosen: list[tuple[Resident, str]] = []
        for victim in victims:
            over_count = count >= self.max_models
            if not over_count and total + needed <= limit:
                break
            chosen.append((victim, "lru" if over_count else "memory"))
            count -= 1
            total -= victim.weights.bytes
        if count >= self.max_models or total + needed > limit:
            return False
        for victim, reason in chosen:
            self.evict(victim, reason)
        self._ledger.reclaim(self.weight_bytes, needed)
        return True

    def free(self, shortage: int, kept: Iterable[str]) -> bool:
        """Evict idle models, least recently used first, until so many bytes are free.

        Args:
            kept: ids that are no victims.

        Returns:
            False when they do not suffice; nothing is evicted then.
        """
        staying = set(kept)
        chosen: list[Resident] = []
        for victim in self._models.values():
            if shortage <= 0:
                break
            if victim.users or victim.pinned or victim.card.id in staying:
                continue
            chosen.append(victim)
            shortage -= victim.weights.bytes
        if shortage > 0:
            return False
        for victim in chosen:
            self.evict(victim, "memory")
        return True

    def evict(self, resident: Resident, reason: str) -> int:
        """Give a model's memory back to the system.

        Returns:
            bytes of its weights.
        """
        freed = resident.weights.bytes
        del self._models[resident.card.id]
        model_id = resident.card.id
        # The caller may still hold the `Resident`; the arrays must go now.
        resident.weights = NO_WEIGHTS
        self._ledger.prefixes.forget(model_id)
        give_back()
        self.unloads += 1
        self._on_change(model_id, "available", reason)
        return freed

    def evict_idle(self, now: float, awaited: Iterable[str] = ()) -> float | None:
        """Unload models whose keep-alive has run out.

        Args:
            awaited: ids that requests wait for; these stay.

        Returns:
            when to look again (`time.monotonic`), or None if no model has a deadline.
        """
        pending: list[float] = []
        kept = set(awaited)
        for resident in list(self._models.values()):
            deadline = resident.idle_deadline
            if deadline is None or resident.card.id in kept:
                continue
            if deadline <= now:
                self.evict(resident, "idle")
            else:
                pending.append(deadline)
        return min(pending, default=None)

    def snapshot(self) -> list[Resident]:
        """The resident models, most recently used first."""
        # Copied in one go: the engine's thread may reorder them meanwhile.
        return list(self._models.values())[::-1]


def weight_estimate(card: Card) -> int:
    """Bytes that a model's weights will take; the embedded one may be widened to 32 bits."""
    return card.disk_bytes * 2 if card.id == EMBEDDED else card.disk_bytes + card.growth
