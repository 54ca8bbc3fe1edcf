"""An empty cache of the kind that a request asks for, or why the model cannot have it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from mlx_stdio.errors import EngineError, invalid_params
from mlx_stdio.kv.geometry import group_size, head_dims, run_lazily
from mlx_stdio.kv.kinds import kind_of, leaves, map_leaves

KEEP = 4
"""Tokens at the start that a bounded cache never drops, as in `make_prompt_cache`."""

_BITS = (2, 4, 8)

_PROVEN: dict[int, dict[str, int]] = {}
"""By a living model's `id`: what it was found to take, and in groups of which size."""


def make(model: Any, kv_bits: int | None = None, max_kv_size: int | None = None) -> list[Any]:
    """An empty cache for one text.

    Args:
        model: an `mlx_lm` model.
        kv_bits: 2, 4 or 8: keys and values are stored quantised.
        max_kv_size: tokens; at most so many are kept, the first `KEEP` among them.

    Raises:
        EngineError: `unsupported` where the model's attention cannot work so; `invalidParams` for
            figures that no model could use. Both name the parameter as `path`.
    """
    from mlx_lm.models.cache import make_prompt_cache

    cache: list[Any] = make_prompt_cache(model)
    if kv_bits is not None and max_kv_size is not None:
        raise _unsupported("$.maxKvSize", "a bounded KV cache cannot be quantised")
    if kv_bits is not None:
        return _quantized(model, cache, kv_bits)
    if max_kv_size is not None:
        return _bounded(model, cache, max_kv_size)
    return cache


def _quantized(model: Any, cache: list[Any], bits: int) -> list[Any]:
    from mlx_lm.models.cache import QuantizedKVCache

    path = "$.kvBits"
    if bits not in _BITS:
        raise invalid_params(path, "must be 2, 4 or 8")
    proven = _proven(model)
    group = proven.get(path) or _quantized_group(model, cache, path)

    def change(leaf: Any) -> Any:
        return QuantizedKVCache(group, bits) if kind_of(leaf) == "plain" else leaf

    if path not in proven:
        _prove(model, change, path, "quantised")
        proven[path] = group
    return [map_leaves(layer, change) for layer in cache]


def _quantized_group(model: Any, cache: list[Any], path: str) -> int:
    kinds = {kind_of(leaf) for leaf in leaves(cache)}
    if "plain" not in kinds:
        raise _unsupported(path, "the model has no KV cache that could be quantised")
    if others := kinds - {"plain", "recurrent"}:
        raise _unsupported(path, f"the model has {min(others)} KV caches: not to be quantised")
    dims = head_dims(model)
    group = group_size(dims)
    if group is None:
        raise _unsupported(path, f"heads of {sorted(dims)} values do not divide into groups of 32")
    return group


def _bounded(model: Any, cache: list[Any], size: int) -> list[Any]:
    from mlx_lm.models.cache import RotatingKVCache

    path = "$.maxKvSize"
    if size <= KEEP:
        raise invalid_params(path, f"must be above {KEEP}")
    if all(kind_of(leaf) != "plain" for leaf in leaves(cache)):
        raise _unsupported(path, "the model has no KV cache that grows with the text")

    def change(leaf: Any) -> Any:
        return RotatingKVCache(max_size=size, keep=KEEP) if kind_of(leaf) == "plain" else leaf

    proven = _proven(model)
    if path not in proven:
        _prove(model, change, path, "bounded")
        proven[path] = 1
    return [map_leaves(layer, change) for layer in cache]


def _proven(model: Any) -> dict[str, int]:
    """What is known of this model, as long as it lives: trying takes the time of a few tokens."""
    known = _PROVEN.get(id(model))
    if known is None:
        known = _PROVEN[id(model)] = {}
        weakref.finalize(model, _PROVEN.pop, id(model), None).atexit = False
    return known


def _prove(model: Any, change: Callable[[Any], Any], path: str, word: str) -> None:
    """Whether the model's code takes a changed cache only trying tells; nothing is evaluated.

    It is tried with a cache of its own: what is not changed, such as a recurrent state, would keep
    what was tried.
    """
    from mlx_lm.models.cache import make_prompt_cache

    cache: list[Any] = make_prompt_cache(model)
    try:
        # Once more than one token, too: models may take another way for it.
        run_lazily(model, [map_leaves(layer, change) for layer in cache], (1, 2))
    except Exception as error:
        raise _unsupported(
            path, f"the model's attention takes no {word} KV cache ({type(error).__name__})"
        ) from error


def _unsupported(path: str, message: str) -> EngineError:
    return EngineError("unsupported", f"{message} - at `{path}`", path=path)
