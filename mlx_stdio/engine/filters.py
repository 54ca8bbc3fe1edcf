"""What changes a row of logits before a token is drawn from it: penalties and filters.

All functions take rows, `[B, V]`, and give rows; a filter puts minus infinity where a token is not
to be drawn. A parameter is a number, or an array `[B, 1]` with one of each row.

Invariant: what a row becomes depends on this row and its parameters alone, to the bit, so it does
not matter in whose company it is. Therefore parameters have the type of the logits, as a plain
number would, and where equal logits compete, their ids decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    import mlx.core as mx

    from mlx_stdio.engine.sampling import Sampling

EMPTY = 2**32 - 1
"""Among the latest tokens of a row: no token."""
LARGEST = 2**31 - 1
"""More than any vocabulary or context, and still an index."""

_NOTHING = -math.inf


class _Stage(Struct, frozen=True, eq=False):
    """A filter's parameter, `[n, 1]`, and the rows it is for; None means all."""

    rows: mx.array | None
    value: mx.array

    def __call__(
        self, logprobs: mx.array, change: Callable[[mx.array, mx.array], mx.array]
    ) -> mx.array:
        # Gathering is worth it: to sort or scan a row costs far more than to move it.
        if self.rows is None:
            return change(logprobs, self.value)
        import mlx.core as mx

        changed = mx.array(logprobs)  # an assignment must not reach the argument
        changed[self.rows] = change(logprobs[self.rows], self.value)
        return changed


class Filters:
    """The filters of some rows; a row that does not ask for one keeps its values.

    Attributes:
        chancy: the places of those that need a chance at each step, for XTC.
    """

    def __init__(self, options: Sequence[Sampling]) -> None:
        import mlx.core as mx

        self._top_p = _stage([o.top_p if 0.0 < o.top_p < 1.0 else None for o in options])
        self._min_p = _stage([math.log(o.min_p) if o.min_p > 0.0 else None for o in options])
        self.chancy = [at for at, o in enumerate(options) if o.xtc_probability > 0.0]
        xtc = [options[at] for at in self.chancy]
        self._chance = column([o.xtc_probability for o in xtc])
        self._xtc = _stage([o.xtc_threshold if o.xtc_probability > 0.0 else None for o in options])
        top_k = [min(o.top_k, LARGEST) if o.top_k > 0 else None for o in options]
        self._top_k = _stage(top_k, mx.int32)
        self._most = max((o.top_k for o in options), default=0)

    def apply(self, logprobs: mx.array, chances: mx.array | None) -> mx.array:
        """Filter.

        Args:
            logprobs: `[B, V]`.
            chances: uniform random numbers of the `chancy` rows, `[n, 1]`; None if there are none.
        """
        if self._top_p is not None:
            logprobs = self._top_p(logprobs, keep_top_p)
        if self._min_p is not None:
            logprobs = self._min_p(logprobs, keep_near_best)
        if self._xtc is not None and chances is not None:
            happens = chances < self._chance
            logprobs = self._xtc(logprobs, lambda x, at: _choose(happens, x, at))
        if self._top_k is not None:
            logprobs = self._top_k(logprobs, lambda x, k: keep_top_k(x, k, self._most))
        return logprobs


def _choose(happens: mx.array, logprobs: mx.array, threshold: mx.array) -> mx.array:
    import mlx.core as mx

    return mx.where(happens, exclude_top_choices(logprobs, threshold), logprobs)


def _stage(values: Sequence[float | None], dtype: mx.Dtype | None = None) -> _Stage | None:
    """Of each row its parameter, or None where it does not ask."""
    import mlx.core as mx

    places = [at for at, value in enumerate(values) if value is not None]
    if not places:
        return None
    asked = [value for value in values if value is not None]
    return _Stage(None if len(asked) == len(values) else mx.array(places), column(asked, dtype))


def column(values: Sequence[float], dtype: mx.Dtype | None = None) -> mx.array:
    """`[n, 1]`, of 32 bits."""
    import mlx.core as mx

    return mx.array(list(values), dtype=dtype or mx.float32)[:, None]


def penalise(
    logits: mx.array,
    rows: mx.array,
    recent: mx.array,
    context: mx.array,
    repetition: mx.array | None,
    presence: mx.array | None,
    frequency: mx.array | None,
) -> mx.array:
    """Repetition (Keskar et al., 2019), presence and frequency penalties, in this order.

    Args:
        logits: `[B, V]`.
        rows: which of them to penalise, `[P, 1]`.
        recent: their latest tokens, the last one at the right, `EMPTY` at the left; `[P, n]`.
        context: how many of those tokens count, `[P, 1]`.
        repetition: `[P, 1]`; 1 changes nothing. None where all are that.
        presence: `[P, 1]`; 0 changes nothing, likewise.
        frequency: `[P, 1]`; 0 changes nothing, likewise.
    """
    import mlx.core as mx

    width = recent.shape[1]
    if width == 0:
        return logits
    counts = (recent != EMPTY) & (mx.arange(width) >= width - context)
    # What does not count names the row's last token once more, because writing the same value
    # twice is harmless. A row without any token writes back what its first place holds.
    last = recent[:, -1:]
    some = last != EMPTY
    ids = mx.where(some, mx.where(counts, recent, last), 0)
    logits = mx.array(logits)
    if repetition is not None:
        factor = repetition.astype(logits.dtype)
        old = logits[rows, ids]
        new = mx.where(old < 0, old * factor, old / factor)
        logits[rows, ids] = mx.where(some, new, old)
    if presence is not None:
        old = logits[rows, ids]
        logits[rows, ids] = mx.where(some, old - presence.astype(logits.dtype), old)
    if frequency is not None:
        amount = mx.where(counts, frequency.astype(logits.dtype), 0)
        logits = logits.at[rows, ids].subtract(amount)
    return logits


def keep_top_p(logprobs: mx.array, top_p: float | mx.array) -> mx.array:
    """Nucleus sampling (Holtzman et al., 2020), `0 < top_p < 1`."""
    import mlx.core as mx

    ordered = mx.sort(logprobs, axis=-1)
    mass = mx.exp(ordered.astype(mx.float32))
    above = mx.cumsum(mass, axis=-1, reverse=True, inclusive=False)
    total = above[..., :1] + mass[..., :1]
    dropped = (above >= top_p * total).sum(axis=-1, keepdims=True)
    # Without any mass all are dropped, and there is no token after them.
    dropped = mx.minimum(dropped, logprobs.shape[-1] - 1)
    threshold = mx.take_along_axis(ordered, dropped, axis=-1)
    return mx.where(logprobs < threshold, _NOTHING, logprobs)


def keep_min_p(logprobs: mx.array, min_p: float | mx.array) -> mx.array:
    """Min-p sampling (Nguyen et al., 2024), `0 < min_p <= 1`: drop what is under that share."""
    import mlx.core as mx

    share = math.log(min_p) if isinstance(min_p, (int, float)) else mx.log(min_p)
    return keep_near_best(logprobs, share)


def keep_near_best(logprobs: mx.array, distance: float | mx.array) -> mx.array:
    """Drop what is further from the best one than this (negative) logarithm."""
    import mlx.core as mx

    best = mx.max(logprobs, axis=-1, keepdims=True)
    return mx.where(logprobs < best + _typed(distance, logprobs), _NOTHING, logprobs)


def exclude_top_choices(logprobs: mx.array, threshold: float | mx.array) -> mx.array:
    """XTC: of the tokens above the threshold only the least likely one stays."""
    import mlx.core as mx

    probs = mx.softmax(logprobs, axis=-1)
    likely = probs > _typed(threshold, probs)
    least = mx.where(likely, probs, mx.inf).min(axis=-1, keepdims=True)
    return mx.where(probs > least, _NOTHING, logprobs)


def keep_top_k(logprobs: mx.array, top_k: int | mx.array, most: int | None = None) -> mx.array:
    """The k likeliest tokens, exactly k; of equal ones those with the lowest ids. `0 < k`.

    Args:
        most: no row's k is more. Only that many are sorted.
    """
    import mlx.core as mx

    size = logprobs.shape[-1]
    if most is None:
        most = top_k if isinstance(top_k, int) else size
    most = min(most, size)
    best = mx.sort(mx.topk(logprobs, most, axis=-1), axis=-1)
    k = mx.minimum(mx.array(top_k), most)
    k = mx.broadcast_to(k, (*logprobs.shape[:-1], 1))
    # Which of equal ones a partition leaves out depends on its `most`, so on other rows.
    threshold = mx.take_along_axis(best, most - k, axis=-1)
    equal = logprobs == threshold
    places = k - (logprobs > threshold).sum(axis=-1, keepdims=True)
    late = mx.cumsum(equal.astype(mx.int32), axis=-1) > places
    return mx.where((logprobs < threshold) | (equal & late), _NOTHING, logprobs)


def _typed(parameter: float | mx.array, logits: mx.array) -> float | mx.array:
    return parameter if isinstance(parameter, (int, float)) else parameter.astype(logits.dtype)
