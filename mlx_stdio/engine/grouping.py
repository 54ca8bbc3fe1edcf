"""Which batches of a model become one: all that can, unless the padding would cost too much."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mlx_stdio.engine.batch import Batch
from mlx_stdio.engine.row import Row

_PADDING = 256 * 2**20
"""Bytes of padding that a batch may always have; beyond, it may have as much as it has of KV."""


def grouped(batches: Iterable[Any], per_token: int, spare: int) -> list[tuple[Batch, list[Batch]]]:
    """Batches, and those that are to join each of them.

    Args:
        batches: those that cannot be merged are left alone.
        per_token: bytes of KV.
        spare: bytes that may be used for padding at most.
    """
    mergeable = [b for b in batches if isinstance(b, Batch) and b.mergeable]
    mergeable.sort(key=lambda batch: -len(batch.rows))  # the largest takes the others in
    groups: dict[Batch, list[Batch]] = {}
    for batch in mergeable:
        for group, joining in groups.items():
            together = [row for b in (group, *joining, batch) for row in b.rows]
            if _fits(together, per_token, spare):
                joining.append(batch)
                break
        else:
            groups[batch] = []
    return [(group, joining) for group, joining in groups.items() if joining]


def _fits(rows: list[Row], per_token: int, spare: int) -> bool:
    """Whether the padding of these rows in one batch stays within its bounds."""
    used = sum(row.fed for row in rows) * per_token
    padding = max(row.fed for row in rows) * len(rows) * per_token - used
    return padding <= min(max(used, _PADDING), spare)
