"""`engine/status` and the rows of `models/list`: read from outside the engine's thread, at once."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from mlx_stdio.engine.device import rss
from mlx_stdio.errors import EngineError
from mlx_stdio.models.card import Card, read_card
from mlx_stdio.models.catalog import Catalog
from mlx_stdio.models.residency import Resident
from mlx_stdio.protocol.lifecycle import Device, Memory, RequestCounts, StatusResult
from mlx_stdio.protocol.models import ModelState, State
from mlx_stdio.session.registry import Registry
from mlx_stdio.text.model import TextStore
from mlx_stdio.text.tokenizer import Kind

if TYPE_CHECKING:
    from mlx_stdio.engine.engine import Engine


def status(
    engine: Engine, registry: Registry, texts: TextStore, limit: int, started: float
) -> StatusResult:
    """The engine at this moment; figures of MLX are 0 before it is loaded.

    Args:
        limit: `--memory-limit`, or 0.
        started: `time.monotonic` of the start.
    """
    device = engine.device
    facts = Device(type="none", name="MLX is not loaded yet")
    pool = active = peak = 0
    if device is not None:
        mx = sys.modules["mlx.core"]
        pool, active, peak = mx.get_cache_memory(), mx.get_active_memory(), mx.get_peak_memory()
        facts = Device(
            type=device.type, name=device.name, mlx_version=device.mlx_version, blas=device.blas
        )
    running = engine.scheduler.running
    return StatusResult(
        device=facts,
        memory=Memory(
            limit_bytes=engine.memory_limit if device is not None else limit,
            weights_bytes=engine.cache.weight_bytes,
            kv_bytes=engine.scheduler.kv_bytes,
            prefix_cache_bytes=engine.prefixes.bytes,
            pool_bytes=pool,
            active_bytes=active,
            peak_bytes=peak,
            rss_bytes=rss(),
        ),
        requests=RequestCounts(running=running, queued=max(0, registry.generating - running)),
        counters=registry.counters(engine.cache.loads, engine.cache.unloads),
        models=[resident_state(r, texts) for r in engine.cache.snapshot()],
        uptime_seconds=round(time.monotonic() - started, 3),
    )


def resident_state(resident: Resident, texts: TextStore) -> ModelState:
    """A model in memory."""
    return ModelState(
        id=resident.card.id,
        state="ready",
        path=str(resident.card.path),
        model_type=resident.card.model_type,
        context_length=resident.card.context_length,
        vocabulary_size=resident.weights.vocabulary_size,
        bytes=resident.weights.bytes,
        pinned=resident.pinned,
        running=resident.users,
        last_used_seconds_ago=round(time.monotonic() - resident.last_used, 3),
        keep_alive_seconds=resident.keep_alive,
        tokenizer=_tokenizer(resident.card.id, texts),
    )


def list_models(engine: Engine, catalog: Catalog, texts: TextStore) -> list[ModelState]:
    """Resident models, the one that is loading, then what the catalogue knows.

    Broken folders are left out: they could not be loaded.
    """
    # Asked first: a model that is loaded meanwhile is in the snapshot.
    loading = engine.scheduler.loading_card
    rows = [resident_state(resident, texts) for resident in engine.cache.snapshot()]
    listed = {row.id for row in rows}
    if loading is not None and loading.id not in listed:
        rows.append(_card_state(loading, "loading", texts))
        listed.add(loading.id)
    for model_id, folder in catalog.known():
        if model_id in listed:
            continue
        try:
            rows.append(_card_state(read_card(model_id, folder), "available", texts))
        except EngineError:
            continue
    return rows


def _card_state(card: Card, state: State, texts: TextStore) -> ModelState:
    return ModelState(
        id=card.id,
        state=state,
        path=str(card.path),
        model_type=card.model_type,
        context_length=card.context_length,
        vocabulary_size=card.vocabulary_size,
        bytes=card.disk_bytes,
        tokenizer=_tokenizer(card.id, texts),
    )


def _tokenizer(model_id: str, texts: TextStore) -> Kind | None:
    """Which library reads its texts, if its tokenizer is loaded."""
    text = texts.ready(model_id)
    return text.tokenizer.kind if text is not None else None
