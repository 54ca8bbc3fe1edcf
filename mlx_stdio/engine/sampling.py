"""From logits to a token.

The order is `mlx_lm`'s: bias, penalties, then top-p, min-p, XTC and top-k on the untempered log
probabilities, then temperature and the draw. All array functions take rows `[B, V]`.

Randomness is a pure function of a request's seed and a token's position (splitmix64 into a
counter-based generator), so it does not depend on what else runs, or ran before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import mlx.core as mx

_MASK = 2**64 - 1
_DRAW, _XTC = 0, 1
_COLDEST = 1e-6
"""Lower temperatures are this one: a division by less leaves the range of 32 bits."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one request's tokens are drawn; every field is off by default.

    Attributes:
        logprobs: how many likeliest tokens to report at each position; None reports nothing.
    """

    temperature: float = 0.0
    top_p: float = 0.0
    top_k: int = 0
    min_p: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_context: int = 20
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int = 0
    logprobs: int | None = None

    @property
    def penalised(self) -> bool:
        """Whether the latest tokens change the logits."""
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )


class Sampler:
    """Draws one request's tokens. All it gives is lazy: nothing here waits."""

    def __init__(self, sampling: Sampling, prompt: list[int]) -> None:
        import mlx.core as mx

        self._options = sampling
        self._position = 0
        self._recent: mx.array | None = None
        if sampling.penalised:
            self._recent = mx.array(prompt[-sampling.penalty_context :], dtype=mx.uint32)
        self._bias: tuple[mx.array, mx.array] | None = None
        if sampling.logit_bias:
            self._bias = (
                mx.array(list(sampling.logit_bias.keys()), dtype=mx.uint32),
                mx.array(list(sampling.logit_bias.values())),
            )

    def draw(self, logits: mx.array) -> tuple[mx.array, tuple[mx.array, ...]]:
        """Draw the next token.

        Args:
            logits: `[1, V]`.

        Returns:
            the token `[1]`, and what `scores` needs: empty unless log probabilities were asked for.
        """
        import mlx.core as mx

        options = self._options
        raw = logits
        if self._bias is not None:
            logits = logits.at[:, self._bias[0]].add(self._bias[1].astype(logits.dtype))
        if self._recent is not None:
            logits = penalise(logits, self._recent, options)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        if options.temperature == 0.0:
            token = mx.argmax(logprobs, axis=-1)
        else:
            token = self._random(logprobs)
        self._position += 1
        if self._recent is not None:
            recent = mx.concatenate([self._recent, token.astype(mx.uint32)])
            self._recent = recent[-options.penalty_context :]
        if options.logprobs is None:
            return token, ()
        return token, _score_arrays(raw, token, options.logprobs)

    def _random(self, logprobs: mx.array) -> mx.array:
        import mlx.core as mx

        options = self._options
        if 0.0 < options.top_p < 1.0:
            logprobs = keep_top_p(logprobs, options.top_p)
        if options.min_p > 0.0:
            logprobs = keep_min_p(logprobs, options.min_p)
        if options.xtc_probability > 0.0:
            chance = mx.random.uniform(key=self._key(_XTC))
            excluded = exclude_top_choices(logprobs, options.xtc_threshold)
            logprobs = mx.where(chance < options.xtc_probability, excluded, logprobs)
        if options.top_k > 0:
            logprobs = keep_top_k(logprobs, options.top_k)
        # In 32 bits, because 16 leave the draw too few distinct random numbers; and from the best
        # one down, because a small temperature would make minus infinity of everything.
        logprobs = logprobs.astype(mx.float32)
        logprobs = logprobs - mx.max(logprobs, axis=-1, keepdims=True)
        token: mx.array = mx.random.categorical(
            logprobs / max(options.temperature, _COLDEST), key=self._key(_DRAW)
        )
        return token

    def _key(self, use: int) -> mx.array:
        import mlx.core as mx

        key: mx.array = mx.random.key(mix(self._options.seed, 2 * self._position + use))
        return key


def mix(seed: int, counter: int) -> int:
    """splitmix64 of two numbers: neighbouring seeds and positions give unrelated keys."""
    z = (mix_once(seed) + counter * 0x9E3779B97F4A7C15) & _MASK
    return mix_once(z)


def mix_once(z: int) -> int:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014)."""
    z = (z + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def penalise(logits: mx.array, recent: mx.array, options: Sampling) -> mx.array:
    """Repetition (Keskar et al., 2019), presence and frequency penalties, each once per kind.

    Args:
        logits: `[1, V]`.
        recent: the latest tokens, `[n]`.
    """
    import mlx.core as mx

    if recent.size == 0:
        return logits
    if options.repetition_penalty != 1.0:
        chosen = logits[:, recent]
        factor = options.repetition_penalty
        chosen = mx.where(chosen < 0, chosen * factor, chosen / factor)
        logits = mx.put_along_axis(logits, recent[None], chosen, axis=-1)
    if options.presence_penalty != 0.0:
        chosen = logits[:, recent] - options.presence_penalty
        logits = mx.put_along_axis(logits, recent[None], chosen, axis=-1)
    if options.frequency_penalty != 0.0:
        logits = logits.at[:, recent].subtract(options.frequency_penalty)
    return logits


def keep_top_p(logprobs: mx.array, top_p: float) -> mx.array:
    """Nucleus sampling (Holtzman et al., 2020): minus infinity outside the nucleus; `[B, V]`."""
    import mlx.core as mx

    ordered = mx.sort(logprobs, axis=-1)
    mass = mx.exp(ordered.astype(mx.float32))
    above = mx.cumsum(mass, axis=-1, reverse=True, inclusive=False)
    total = above[..., :1] + mass[..., :1]
    dropped = (above >= top_p * total).sum(axis=-1, keepdims=True)
    threshold = mx.take_along_axis(ordered, dropped, axis=-1)
    return mx.where(logprobs < threshold, -float("inf"), logprobs)


def keep_min_p(logprobs: mx.array, min_p: float) -> mx.array:
    """Min-p sampling (Nguyen et al., 2024): drop what is under that share of the best; `[B, V]`."""
    import math

    import mlx.core as mx

    threshold = mx.max(logprobs, axis=-1, keepdims=True) + math.log(min_p)
    return mx.where(logprobs < threshold, -float("inf"), logprobs)


def exclude_top_choices(logprobs: mx.array, threshold: float) -> mx.array:
    """XTC: of the tokens above the threshold only the least likely one stays; `[B, V]`."""
    import mlx.core as mx

    probs = mx.softmax(logprobs, axis=-1)
    least = mx.where(probs > threshold, probs, mx.inf).min(axis=-1, keepdims=True)
    return mx.where(probs > least, -float("inf"), logprobs)


def keep_top_k(logprobs: mx.array, top_k: int) -> mx.array:
    """The k likeliest tokens, `0 < k < V`; `[B, V]`."""
    import mlx.core as mx

    rest = mx.argpartition(-logprobs, kth=top_k - 1, axis=-1)[..., top_k:]
    nothing = mx.array(-float("inf"), dtype=logprobs.dtype)
    return mx.put_along_axis(logprobs, rest, nothing, axis=-1)


def _score_arrays(logits: mx.array, token: mx.array, top: int) -> tuple[mx.array, ...]:
    import mlx.core as mx

    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    own = mx.take_along_axis(logprobs, token[:, None], axis=-1)
    if top == 0:
        return (own,)
    top = min(top, logits.shape[-1])
    best = mx.argsort(-logprobs, axis=-1)[:, :top]
    return (own, best, mx.take_along_axis(logprobs, best, axis=-1))


def read_scores(arrays: tuple[mx.array, ...]) -> tuple[float, list[tuple[int, float]]]:
    """The log probability of a token and the likeliest ones, as plain numbers.

    Args:
        arrays: what `Sampler.draw` gave with the token.
    """
    # MLX's own annotations say "a number or nested lists"; the shapes are known here.
    own: Any = arrays[0].item()
    if len(arrays) == 1:
        return _finite(own), []
    ids: Any = arrays[1].tolist()
    values: Any = arrays[2].tolist()
    return _finite(own), [(i, _finite(v)) for i, v in zip(ids[0], values[0], strict=True)]


def _finite(value: float) -> float:
    """JSON has no infinities; -9999 is the field's usual stand-in for an impossible token."""
    return max(-9999.0, value)  # of NaN, too, `max` keeps the first
