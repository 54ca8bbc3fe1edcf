"""Whether a request can speculate, found out before any work is done for it."""

from __future__ import annotations

from typing import Any

from mlx_stdio.engine.row import Row
from mlx_stdio.errors import EngineError
from mlx_stdio.kv import layers
from mlx_stdio.kv.kinds import leaves


def check_model(row: Row) -> None:
    """Refuse a model that cannot verify proposals; before its draft model is loaded.

    Raises:
        EngineError: `unsupported`.
    """
    job = row.job
    assert job.draft is not None
    path = "$.draftModel" if job.draft.model_id is not None else "$.numDraftTokens"
    length = len(row.prompt.tokens) + row.budget
    cache = layers.make(row.resident.weights.model, job.kv_bits, job.max_kv_size)
    _check_cache(cache, length, "model", path)


def check(row: Row) -> None:
    """Refuse what cannot be undone or compared, when all models are there.

    Raises:
        EngineError: `unsupported`.
    """
    check_model(row)
    path = "$.draftModel"
    length = len(row.prompt.tokens) + row.budget
    if row.draft is not None:
        weights = row.draft.weights
        _check_cache(layers.make(weights.model), length, "draft model", path)
        if weights.vocabulary_size != row.resident.weights.vocabulary_size:
            raise EngineError(
                "unsupported",
                f"the draft model's vocabulary ({weights.vocabulary_size}) is not the model's "
                f"({row.resident.weights.vocabulary_size})",
                path=path,
            )


def _check_cache(cache: list[Any], length: int, name: str, path: str) -> None:
    """Args:
    length: tokens of the whole text; its last one is never fed.
    """
    if not layers.trimmable(cache):
        message = f"the {name}'s cache cannot take back tokens, as speculation needs"
        raise EngineError("unsupported", message, path=path)
    windows = [
        size
        for leaf in leaves(cache)
        if (size := getattr(leaf, "max_size", None) or getattr(leaf, "chunk_size", None))
    ]
    if windows and length > min(windows):
        message = (
            f"beyond its window of {min(windows)} tokens the {name}'s cache cannot take back tokens"
        )
        raise EngineError("unsupported", message, path=path)
