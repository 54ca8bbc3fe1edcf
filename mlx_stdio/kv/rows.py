"""Caches of several texts in one, so that a forward pass reads a token of each.

A *batched* cache is what `merge` makes; texts of different lengths are padded on the left. Rows
join by `merge` and `extend`, and leave by `select` and `extract`.

Sources: `mlx_lm.models.cache`, `mlx_lm.generate.GenerationBatch`.
"""

from __future__ import annotations

import copy as _copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mlx_stdio.kv.geometry import run_lazily
from mlx_stdio.kv.kinds import kind_of, leaves, map_leaves, zip_leaves

if TYPE_CHECKING:
    import mlx.core as mx


def mergeable(cache: list[Any]) -> bool:
    """Whether `merge` takes this cache: plain, rotating and recurrent layers, and lists of them.

    Quantised, chunked and concatenating caches have no batched form, and that of a rotating one
    drops the tokens that it was told to keep.
    """
    return all(_leaf_mergeable(leaf) for leaf in leaves(cache))


def _leaf_mergeable(leaf: Any) -> bool:
    kind = kind_of(leaf)
    if kind == "rotating":
        return bool(leaf.keep == 0)
    if kind == "recurrent":
        return leaf.lengths is None and leaf.left_padding is None
    return kind == "plain"


_PROBE_ROWS = 11
"""No model has so many heads: a mask that is laid along the heads by mistake does not fit."""


def batchable(model: Any) -> bool:
    """Whether the model's own code takes a batched cache: its offsets and masks are arrays by row.

    Only trying tells: `gpt_bigcode` counts positions in NumPy and fails; `gemma2` lays the mask's
    rows along its heads, which fails, or gives wrong tokens if there are as many of both. Graphs of
    one token are built and not evaluated; it takes a few milliseconds, so ask once a model.
    """
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    caches: list[list[Any]] = [make_prompt_cache(model) for _ in range(2)]
    if not all(map(mergeable, caches)):
        return False
    try:
        for length, cache in enumerate(caches, 1):
            run_lazily(model, cache, (length,))
        batched = merge([*caches[:1] * (_PROBE_ROWS - 1), caches[1]])
        logits = model(mx.zeros((_PROBE_ROWS, 1), dtype=mx.uint32), cache=batched)
    except Exception:  # noqa: BLE001 - a model's code may raise anything
        return False
    return bool(logits.shape[:2] == (_PROBE_ROWS, 1))


def fill(batched: list[Any], chunks: list[list[int]], read: Callable[[mx.array], Any]) -> None:
    """Read a chunk for each row of a batched cache in one pass; the chunks may differ in length.

    They are padded on the right, so that no position attends to nothing, and the cache is rolled
    afterwards, so that its rows are padded on the left as everywhere (`prepare`, `finalize`).

    Args:
        batched: its rows are as many as the chunks.
        read: is given the tokens `[B, length]`, and has the model read them.
    """
    import mlx.core as mx

    lengths = [len(chunk) for chunk in chunks]
    longest = max(lengths)
    padding = [longest - length for length in lengths]
    padded = any(padding)
    if padded:
        for layer in batched:
            layer.prepare(lengths=lengths, right_padding=padding)
    read(mx.array([chunk + [0] * (longest - len(chunk)) for chunk in chunks], dtype=mx.uint32))
    if padded:
        for layer in batched:
            layer.finalize()


def merge(caches: list[list[Any]]) -> list[Any]:
    """One batched cache; its rows are the given caches, in order, which stay as they are.

    Raises:
        ValueError: none given, or one that is not mergeable.
    """
    if not caches or not all(map(mergeable, caches)):
        raise ValueError("these caches cannot be merged")
    return [zip_leaves(list(layer), _merge_leaves) for layer in zip(*caches, strict=True)]


def _merge_leaves(same: list[Any]) -> Any:
    if kind_of(same[0]) == "recurrent":
        return _merge_states(same)
    return type(same[0]).merge([_unused(leaf) for leaf in same])


def _unused(leaf: Any) -> Any:
    """Without its buffer if that is not in use: upstream would take all of it for content."""
    if leaf.offset or leaf.keys is None:
        return leaf
    empty = _copy.copy(leaf)
    empty.keys = empty.values = None
    return empty


def _merge_states(same: list[Any]) -> Any:
    """Upstream's own merge raises `StopIteration` where a state is unset in every row."""
    import mlx.core as mx

    merged = type(same[0])(len(same[0].cache))
    for at, states in enumerate(zip(*(leaf.cache for leaf in same), strict=True)):
        known = next((state for state in states if state is not None), None)
        if known is not None:
            zeros = mx.zeros((1, *known.shape[1:]), known.dtype)
            merged[at] = mx.concatenate([zeros if s is None else s for s in states])
    return merged


def extend(batched: list[Any], other: list[Any]) -> list[Any]:
    """Add another batched cache's rows behind those of the first, in place; `other` is used up.

    Returns:
        the first, changed.
    """
    for layer, new in zip(batched, other, strict=True):
        layer.extend(new)
    return batched


def select(batched: list[Any], rows: list[int], lengths: list[int]) -> list[Any]:
    """Keep only these rows (at least one), in this order, in place; waits for nothing.

    Args:
        lengths: tokens that each of them has seen. What is padding in all of them goes.

    Returns:
        the same batched cache.
    """
    if not rows:
        raise ValueError("a batched cache has at least one row")
    for leaf in leaves(batched):
        if _is_plain(leaf) and leaf.keys is not None:
            _select_keys(leaf, rows, lengths)
        else:
            leaf.filter(rows)
    return batched


def _select_keys(leaf: Any, rows: list[int], lengths: list[int]) -> None:
    """Upstream's own asks the device for the padding, layer by layer, while a step is in flight."""
    import mlx.core as mx

    at = mx.array(rows)
    spare = leaf._idx - max(lengths)
    leaf._idx -= spare
    leaf.offset = leaf.offset[at]
    leaf.left_padding = mx.array([leaf._idx - length for length in lengths])
    leaf.keys, leaf.values = leaf.keys[at], leaf.values[at]
    if spare:
        leaf.keys, leaf.values = leaf.keys[..., spare:, :], leaf.values[..., spare:, :]


def _is_plain(leaf: Any) -> bool:
    cls = type(leaf)
    return cls.__name__ == "BatchKVCache" and cls.__module__ == "mlx_lm.models.cache"


def extract(batched: list[Any], row: int, length: int) -> list[Any]:
    """One row as a cache of its own; the batched cache stays as it is. Waits for nothing.

    Once its arrays are evaluated it holds nothing of the batch's buffers.

    Args:
        length: tokens that the row has seen.
    """
    return [map_leaves(layer, lambda leaf: _extract_leaf(leaf, row, length)) for layer in batched]


def _extract_leaf(leaf: Any, row: int, length: int) -> Any:
    import mlx.core as mx

    if _is_plain(leaf):
        return _extract_keys(leaf, row, length)
    if kind_of(leaf) != "recurrent":
        return leaf.extract(row)
    # Upstream's own gives views of the batch, and fails on a state that is unset.
    alone = type(leaf)(len(leaf.cache))
    for at, state in enumerate(leaf.cache):
        if state is not None:
            alone[at] = mx.contiguous(state[row : row + 1])
    return alone


def _extract_keys(leaf: Any, row: int, length: int) -> Any:
    """Upstream's own asks the device for the padding."""
    import mlx.core as mx
    from mlx_lm.models.cache import KVCache

    alone = KVCache()
    if length and leaf.keys is not None:
        begin, end = leaf._idx - length, leaf._idx
        alone.keys = mx.contiguous(leaf.keys[row : row + 1, :, begin:end])
        alone.values = mx.contiguous(leaf.values[row : row + 1, :, begin:end])
        alone.offset = length
    return alone
