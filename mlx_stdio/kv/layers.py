"""The cache of one text: copying, trimming and measuring it.

With `kv.making` (new ones), `kv.rows` (those of several texts in one) and `kv.geometry` (their
size before they exist), whose names this module hands on, it is the one place that knows `mlx_lm`'s
cache classes.

Rules it keeps:
- nothing here evaluates an array, so building and trimming cost no device time;
- a copy shares its arrays with the original until one of them is written to;
- where upstream's answer is wrong (see `trimmable`), this module's is right.
"""

from __future__ import annotations

import copy as _copy
from typing import TYPE_CHECKING, Any

from mlx_stdio.kv.geometry import Geometry
from mlx_stdio.kv.kinds import arrays_of, kind_of, leaves
from mlx_stdio.kv.making import KEEP, make
from mlx_stdio.kv.rows import batchable, extend, extract, fill, merge, mergeable, select

if TYPE_CHECKING:
    import mlx.core as mx

__all__ = [
    "KEEP",
    "Geometry",
    "arrays",
    "batchable",
    "compact",
    "copy",
    "extend",
    "extract",
    "fill",
    "length",
    "make",
    "merge",
    "mergeable",
    "nbytes",
    "own_states",
    "select",
    "stays_trimmable",
    "trim",
    "trimmable",
]


def copy(cache: list[Any]) -> list[Any]:
    """A cache of the same content; changing either leaves the other as it is.

    Copies no array: MLX writes into a buffer only if nobody else holds it. (`mx.array(x)` would
    copy.)
    """
    return _copy.deepcopy(cache)


def trimmable(cache: list[Any]) -> bool:
    """Whether tokens can be taken from the end, now; a window that has slid takes that away.

    `ChunkedKVCache.is_trimmable` is always true upstream, but tokens that left its chunk are
    lost, and an earlier position may need them: only an untouched front is trimmable.
    """
    return all(_leaf_trimmable(leaf) for leaf in leaves(cache))


def _leaf_trimmable(leaf: Any) -> bool:
    kind = kind_of(leaf)
    if kind == "chunked":
        return bool(leaf.start_position == 0)
    if kind in ("recurrent", "other"):
        return False
    return bool(leaf.is_trimmable())


def stays_trimmable(cache: list[Any], tokens: int) -> bool:
    """Whether tokens can be taken from the end even when the cache has seen so many in all."""
    return trimmable(cache) and all(
        tokens < (getattr(leaf, "max_size", 0) or getattr(leaf, "chunk_size", 0))
        for leaf in leaves(cache)
        if kind_of(leaf) in ("rotating", "chunked")
    )


def trim(cache: list[Any], n: int) -> None:
    """Take exactly `n` tokens from the end.

    Raises:
        ValueError: it cannot be done; nothing has been changed.
    """
    if n == 0:
        return
    used = [leaf for leaf in leaves(cache) if getattr(leaf, "keys", None) is not None]
    if n < 0 or not trimmable(cache) or not used or any(leaf.offset < n for leaf in used):
        raise ValueError(f"{n} tokens cannot be taken from this cache")
    for leaf in used:
        leaf.trim(n)
        if kind_of(leaf) == "concatenating":
            # Upstream only moves the offset and would append behind the trimmed tokens.
            leaf.keys = leaf.keys[..., : leaf.offset, :]
            leaf.values = leaf.values[..., : leaf.offset, :]


def length(cache: list[Any]) -> int | None:
    """Tokens that the cache has seen; None if it holds recurrent state only, or several texts."""
    for leaf in leaves(cache):
        offset = getattr(leaf, "offset", None)
        if isinstance(offset, int):
            return offset
    return None


def arrays(cache: list[Any]) -> list[mx.array]:
    """All arrays of a cache, for `mx.eval`."""
    return [array for leaf in leaves(cache) for array in arrays_of(leaf)]


def nbytes(cache: list[Any]) -> int:
    """Bytes of all arrays. Only looks at shapes, so any thread may ask at any time."""
    return sum(array.nbytes for array in arrays(cache))


def compact(cache: list[Any], *, exact: bool = False) -> list[Any]:
    """Give back the part of preallocated buffers that is not in use, in place.

    Without `exact`, room up to the next step stays, and buffers are only replaced where that
    saves more than a quarter of them. What an attention reads is the same afterwards.

    Args:
        exact: leave no unused row at all (for a file).

    Returns:
        the same cache; its arrays wait to be evaluated, and until then keep the old buffers.
    """
    for leaf in leaves(cache):
        if kind_of(leaf) in ("plain", "quantized", "rotating", "chunked", "concatenating"):
            _compact_leaf(leaf, exact=exact)
        elif type(leaf).__name__ == "BatchKVCache":
            _cut(leaf, leaf._idx, exact=exact)
    own_states(cache)
    return cache


def own_states(cache: list[Any]) -> None:
    """Cut recurrent states loose from the pass that gave them, in place and lazily.

    A state may be a slice of what a whole chunk gave, and would hold all of it.
    """
    import mlx.core as mx

    for leaf in leaves(cache):
        if kind_of(leaf) == "recurrent":
            leaf.cache = [state if state is None else mx.array(state) for state in leaf.cache]


def _compact_leaf(leaf: Any, *, exact: bool) -> None:
    if leaf.keys is None:
        return
    kind = kind_of(leaf)
    if kind == "rotating":
        over = leaf.keys.shape[2] - leaf.max_size
        if over > 0 and leaf._idx == leaf.keys.shape[2]:
            # Left over from reading a chunk; the next token would drop it in the same way.
            leaf.keys = leaf._trim(over, leaf.keys)
            leaf.values = leaf._trim(over, leaf.values)
            leaf._idx = leaf.max_size
        elif leaf.offset == leaf._idx:
            _cut(leaf, leaf._idx, exact=exact)
    elif kind == "chunked":
        _cut(leaf, leaf.offset - leaf.start_position, exact=exact)
    else:
        _cut(leaf, leaf.offset, exact=exact)


def _cut(leaf: Any, used: int, *, exact: bool) -> None:
    """Shorten a leaf's buffers (…, rows, values) to the `used` rows, in steps unless `exact`."""
    import mlx.core as mx

    if leaf.keys is None:
        return
    quantized = isinstance(leaf.keys, (list, tuple))
    rows = (leaf.keys[0] if quantized else leaf.keys).shape[-2]
    step = 1 if exact else getattr(leaf, "step", 1)
    wanted = min(rows, -(-used // step) * step)
    if rows == wanted or not (exact or rows - wanted > rows / 4):
        return

    def shorter(array: mx.array) -> mx.array:
        return mx.contiguous(array[..., :wanted, :])

    for name in ("keys", "values"):
        value = getattr(leaf, name)
        setattr(leaf, name, [shorter(a) for a in value] if quantized else shorter(value))
