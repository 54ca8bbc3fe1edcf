"""The parts of a cache. A *cache* is the list of a model's per-layer objects, as `mlx_lm` makes it.

A layer may be a `CacheList` of several; what is neither a list nor one of them is a *leaf*. Leaves
are told apart here by class, exactly: a model's own subclass may break any promise of its parent.

Sources: `mlx_lm.models.cache`; classes of a model's own (`deepseek_v41.LayerCache`) are leaves of
no kind, of which only the arrays are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import mlx.core as mx

Kind = Literal["plain", "quantized", "rotating", "chunked", "concatenating", "recurrent", "other"]

_KINDS: dict[str, Kind] = {
    "KVCache": "plain",
    "QuantizedKVCache": "quantized",
    "RotatingKVCache": "rotating",
    "ChunkedKVCache": "chunked",
    "ConcatenateKVCache": "concatenating",
    "ArraysCache": "recurrent",
}


def kind_of(leaf: Any) -> Kind:
    """What a leaf is: attention caches by the way they store tokens, or recurrent state."""
    cls = type(leaf)
    if cls.__module__ != "mlx_lm.models.cache":
        return "other"
    return _KINDS.get(cls.__name__, "other")


def is_list(layer: Any) -> bool:
    """Whether a layer is a `CacheList` (of which no model has a subclass)."""
    cls = type(layer)
    return cls.__name__ == "CacheList" and cls.__module__ == "mlx_lm.models.cache"


def leaves(cache: list[Any]) -> Iterator[Any]:
    """All leaves of a cache, in order."""
    for layer in cache:
        if is_list(layer):
            yield from leaves(list(layer.caches))
        else:
            yield layer


def map_leaves(layer: Any, change: Callable[[Any], Any]) -> Any:
    """A layer with each leaf replaced by what `change` makes of it."""
    if not is_list(layer):
        return change(layer)
    return type(layer)(*(map_leaves(part, change) for part in layer.caches))


def zip_leaves(layers: list[Any], combine: Callable[[list[Any]], Any]) -> Any:
    """One layer out of several of the same form, leaf by leaf."""
    first = layers[0]
    if not is_list(first):
        return combine(layers)
    parts = zip(*(layer.caches for layer in layers), strict=True)
    return type(first)(*(zip_leaves(list(part), combine) for part in parts))


def arrays_of(leaf: Any) -> list[mx.array]:
    """All arrays that a leaf holds, whatever its class; evaluates nothing."""
    import mlx.core as mx

    found: list[mx.array] = []
    # A snapshot in one step: another thread may be adding a member. (No nested function that calls
    # itself: it would be a cycle, and keep `found` until Python's collector comes by.)
    rest: list[Any] = list(vars(leaf).values())[::-1]
    while rest:
        value = rest.pop()
        if isinstance(value, mx.array):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            rest += reversed(value)
        elif isinstance(value, dict):
            rest += list(value.values())[::-1]
    return found
