"""The fake engine's `engine/status`: true counts, and the memory of weights alone."""

from __future__ import annotations

import time

from mlx_stdio.fake.places import Places
from mlx_stdio.fake.shelf import Shelf
from mlx_stdio.protocol.lifecycle import Device, Memory, RequestCounts, StatusResult
from mlx_stdio.session.registry import Registry


def status(
    shelf: Shelf, places: Places, registry: Registry, limit: int, started: float
) -> StatusResult:
    """What there is now.

    Args:
        limit: of memory, in bytes; 0 for none.
        started: when the engine did, by the monotonic clock.
    """
    running = places.running
    resident = shelf.resident()
    weights = sum(row.bytes or 0 for row in resident)
    return StatusResult(
        device=Device(type="none", name="the fake engine has none"),
        memory=Memory(
            limit_bytes=limit,
            weights_bytes=weights,
            kv_bytes=0,
            prefix_cache_bytes=0,
            pool_bytes=0,
            active_bytes=weights,
            peak_bytes=weights,
            rss_bytes=0,
        ),
        requests=RequestCounts(running=running, queued=max(0, registry.generating - running)),
        counters=registry.counters(shelf.loads, shelf.unloads),
        models=resident,
        uptime_seconds=round(time.monotonic() - started, 3),
    )
