"""What was drawn in one step, and the log probabilities that rows asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

if TYPE_CHECKING:
    import mlx.core as mx


class TokenScore(Struct, frozen=True):
    """Natural-log probabilities at one position, before penalties and sampling.

    Attributes:
        top: the likeliest tokens, best first, with theirs.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


Drawn = tuple[int, TokenScore | None]
"""A token, and its log probabilities if the row asked for them."""


class Draws(Struct, eq=False):
    """One token of each row; lazy.

    Attributes:
        tokens: `[B]`, uint32; always below the size of the vocabulary.
        healthy: `[B]`, bool; False where the row's logits, bias and penalties included, are no
            distribution: one is NaN or plus infinity, or all are minus infinity. Then its token
            is 0.
        scored: the rows that asked for log probabilities, S of them.
        score_arrays: the tokens' own ones `[S, 1]`, then, if any row wants them, the ids and the
            log probabilities of the likeliest tokens, `[S, n]`; empty if no row asked.
        tops: how many of those n each of the `scored` rows asked for.
    """

    tokens: mx.array
    healthy: mx.array
    scored: tuple[int, ...] = ()
    score_arrays: tuple[mx.array, ...] = ()
    tops: tuple[int, ...] = ()

    def arrays(self) -> list[mx.array]:
        """What `mx.async_eval` has to start."""
        return [self.tokens, self.healthy, *self.score_arrays]

    def read(self) -> list[Drawn | None]:
        """What every row drew, None where its logits gave nothing to draw from; waits."""
        tokens: list[int] = self.tokens.tolist()  # type: ignore[assignment]
        healthy: list[bool] = self.healthy.tolist()  # type: ignore[assignment]
        scores = self.read_scores()
        drawn: list[Drawn | None] = []
        for at, (token, well) in enumerate(zip(tokens, healthy, strict=True)):
            own = scores.get(at)
            score = TokenScore(token, own[0], tuple(own[1])) if own else None
            drawn.append((token, score) if well else None)
        return drawn

    def read_scores(self) -> dict[int, tuple[float, list[tuple[int, float]]]]:
        """Of each row that asked: its token's log probability and the likeliest tokens'; waits."""
        if not self.scored:
            return {}
        # MLX's own annotations say "a number or nested lists"; the shapes are known here.
        lists: list[Any] = [array.tolist() for array in self.score_arrays]
        own, *best = lists
        scores: dict[int, tuple[float, list[tuple[int, float]]]] = {}
        for at, (row, top) in enumerate(zip(self.scored, self.tops, strict=True)):
            pairs = zip(*(each[at][:top] for each in best), strict=True)
            scores[row] = (_finite(own[at][0]), [(id_, _finite(value)) for id_, value in pairs])
        return scores


class Scoring:
    """Log probabilities (natural logarithm, before bias and penalties) for the rows that ask."""

    def __init__(self, tops: Mapping[int, int], rows: int) -> None:
        """Args:
        tops: of each row that asks, how many likeliest tokens it wants beside its own.
        rows: how many rows there are in all.
        """
        import mlx.core as mx

        self._scored = tuple(tops)
        self._tops = tuple(tops.values())
        self._some = mx.array(self._scored, dtype=mx.int32) if len(tops) < rows else None

    def of(self, draws: Draws, logits: mx.array) -> Draws:
        """The draws with the arrays of scores, still lazy.

        Args:
            logits: the model's own, `[B, V]`.
        """
        import mlx.core as mx

        tokens = draws.tokens
        if self._some is not None:
            logits, tokens = logits[self._some], tokens[self._some]
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        own = mx.take_along_axis(logprobs, tokens[:, None], axis=-1)
        arrays: tuple[mx.array, ...] = (own,)
        if top := max(self._tops):
            best = mx.argsort(-logprobs, axis=-1)[:, :top]
            arrays = (own, best, mx.take_along_axis(logprobs, best, axis=-1))
        return replace(draws, scored=self._scored, score_arrays=arrays, tops=self._tops)


def _finite(value: float) -> float:
    """JSON has no infinities; -9999 is the field's usual stand-in for an impossible token."""
    return max(-9999.0, value)  # of NaN, too, `max` keeps the first
