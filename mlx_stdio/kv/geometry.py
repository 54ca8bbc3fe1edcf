"""How large a cache will be, known before it exists.

The model is run on one token without evaluating anything: MLX knows shapes and types of the graph,
and nothing is allocated. Sizes then follow from how each class grows (`mlx_lm.models.cache`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from mlx_stdio.kv.kinds import Kind, arrays_of, kind_of, leaves

STEP = 256
"""Tokens by which `mlx_lm`'s caches grow."""

_FAR = 1 + 4 * STEP


def run_lazily(model: Any, cache: list[Any], lengths: Sequence[int]) -> None:
    """Build the graphs of reading chunks of these lengths (tokens of id 0) into a cache.

    Nothing is evaluated unless the model's own code asks for a value. Raises whatever it raises.
    """
    import mlx.core as mx

    for length in lengths:
        model(mx.zeros((1, length), dtype=mx.uint32), cache=cache)


def head_dims(model: Any) -> set[int]:
    """The sizes of heads (keys, values) in the plain layers; empty if the model cannot be run."""
    from mlx_lm.models.cache import make_prompt_cache

    cache: list[Any] = make_prompt_cache(model)
    try:
        run_lazily(model, cache, (1,))
    except Exception:  # noqa: BLE001 - a model's code may raise anything
        return set()
    plain = [leaf for leaf in leaves(cache) if kind_of(leaf) == "plain" and leaf.keys is not None]
    return {array.shape[-1] for leaf in plain for array in (leaf.keys, leaf.values)}


def group_size(dims: set[int]) -> int | None:
    """The largest group (64, 32 values) in which heads of all these sizes can be quantised."""
    return next((g for g in (64, 32) if dims and all(d and d % g == 0 for d in dims)), None)


class _Leaf(Struct, frozen=True):
    """One leaf's figures.

    Attributes:
        row: bytes of one token.
        fixed: bytes whatever the number of tokens.
        window: tokens that are kept at most, or 0 for all.
        heads, dims, item: KV heads, values a head (keys, values), bytes of a value.
    """

    kind: Kind
    row: float = 0
    fixed: int = 0
    window: int = 0
    heads: int = 0
    dims: tuple[int, int] = (0, 0)
    item: int = 0

    def quantized_row(self, bits: int, group: int) -> float:
        values = self.heads * sum(self.dims)
        return values * bits / 8 + 2 * self.item * values / group


class Geometry(Struct, frozen=True):
    """What a model's cache takes.

    Attributes:
        known: whether the probe succeeded; if not, every estimate is 0.
    """

    known: bool
    _leaves: tuple[_Leaf, ...] = ()

    @classmethod
    def probe(cls, model: Any) -> Geometry:
        """Look at what the model puts into a fresh cache. Never raises, allocates nothing."""
        from mlx_lm.models.cache import make_prompt_cache

        try:
            near: list[Any] = make_prompt_cache(model)
            run_lazily(model, near, (1,))
            far: list[Any] = []
            if any(kind_of(leaf) == "other" for leaf in leaves(near)):
                far = make_prompt_cache(model)
                run_lazily(model, far, (_FAR,))
            others = iter([leaf for leaf in leaves(far) if kind_of(leaf) == "other"])
            return cls(True, tuple(_measure(leaf, others) for leaf in leaves(near)))
        except Exception:  # noqa: BLE001 - a model's code may raise anything
            return cls(False)

    @property
    def per_token(self) -> int:
        """Bytes of one token in all layers, as long as no window is full and nothing quantised."""
        return round(sum(leaf.row for leaf in self._leaves))

    def estimate(
        self,
        tokens: int,
        kv_bits: int | None = None,
        max_kv_size: int | None = None,
        *,
        chunk: int = 1,
    ) -> int:
        """Bytes of a cache that has seen so many tokens, chunks of a multiple of `STEP`.

        Other chunks (as after a hit in the prefix store) may leave up to `STEP - 1` rows more: a
        buffer is cut to what is used before it grows.

        Args:
            tokens: prompt and answer.
            kv_bits: as for `layers.make`.
            max_kv_size: as for `layers.make`.
            chunk: tokens read at once. While a prompt is read, windows hold up to `chunk - 1`
                tokens more than later; 1 tells the size after the first new token.
        """
        if tokens <= 0:
            return 0
        plain = [leaf for leaf in self._leaves if leaf.kind == "plain"]
        group = group_size({dim for leaf in plain for dim in leaf.dims}) or 32
        total = 0.0
        for leaf in self._leaves:
            row, window = leaf.row, leaf.window
            if leaf.kind == "plain" and kv_bits is not None:
                row = leaf.quantized_row(kv_bits, group)
            if leaf.kind == "plain" and max_kv_size is not None:
                window = max_kv_size
            total += leaf.fixed + row * _rows(leaf.kind, tokens, window, chunk)
        return round(total)


def _rows(kind: Kind, tokens: int, window: int, chunk: int) -> int:
    """Rows of a buffer that has seen so many tokens."""
    if kind in ("concatenating", "other"):
        return tokens
    stepped = -(-tokens // STEP) * STEP
    if kind == "chunked":
        return min(stepped, window + max(STEP, chunk))
    if window:
        # Reading leaves no spare rows; the first new token adds a step.
        return max(min(tokens + STEP - 1, window), min(tokens, window + chunk - 1))
    return stepped


def _measure(leaf: Any, others: Any) -> _Leaf:
    kind = kind_of(leaf)
    size = sum(array.nbytes for array in arrays_of(leaf))
    if kind == "recurrent":
        return _Leaf(kind, fixed=size)
    if kind == "other":
        later = sum(array.nbytes for array in arrays_of(next(others)))
        row = max(0.0, (later - size) / (_FAR - 1))
        return _Leaf(kind, row=row, fixed=round(size - row))
    if leaf.keys is None:  # a layer that reads another one's cache
        return _Leaf(kind)
    keys, values = leaf.keys, leaf.values
    return _Leaf(
        kind,
        row=size / keys.shape[-2],
        window=getattr(leaf, "max_size", 0) or getattr(leaf, "chunk_size", 0),
        heads=keys.shape[1],
        dims=(keys.shape[-1], values.shape[-1]),
        item=keys.dtype.size,
    )
