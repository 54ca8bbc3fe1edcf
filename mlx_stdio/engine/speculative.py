"""Speculative decoding of one row: several tokens proposed, verified in one forward pass.

Proposals come from a draft model, or without one from the row's own text: what followed the last
occurrence of its latest tokens (prompt lookup, Saxena 2023).

Each position's token is drawn by the row's own sampler from the model's own logits, with the
randomness of that position, exactly as without speculation; a proposal is accepted where it is the
token that was drawn. So neither greedy nor sampled output is changed by it. A draft model draws its
proposals with the same randomness, so the two agree as often as their distributions allow (Gumbel
coupling; Daliri, Musco, Suresh 2024). The only difference is that of a forward pass of several
positions to one of a single position, in the last bits of a float.

Invariant between two steps: the model's cache has seen all of the history but its last token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlx_stdio.engine.batch import Ended, Kept, UnhealthyError
from mlx_stdio.engine.draws import Draws
from mlx_stdio.engine.job import TokenScore
from mlx_stdio.engine.row import Row
from mlx_stdio.engine.sampling import SamplerBatch
from mlx_stdio.errors import EngineError
from mlx_stdio.kv import layers

if TYPE_CHECKING:
    import mlx.core as mx

_NGRAM = 3
"""Longest run of latest tokens that is looked up; shorter ones are tried after it."""


class Speculative:
    """See the module. Has the interface of `Batch`, for one row that never joins another."""

    def __init__(self, row: Row, caches: Sequence[list[Any]]) -> None:
        """Args:
        caches: the model's, then the draft model's if there is one; both have read the history
            but for its last token.
        """
        self.rows = [row]
        self._row = row
        self._model = row.resident.weights.model
        self._cache = caches[0]
        self._draft_model = row.draft.weights.model if row.draft is not None else None
        self._draft_cache = caches[1] if len(caches) > 1 else []
        row.fed = len(row.history) - 1
        self._draft_fed = row.fed
        self._started: tuple[list[int] | mx.array, int, Draws] | None = None

    @property
    def kv_bytes(self) -> int:
        """Bytes of the caches; any thread may ask."""
        return layers.nbytes(self._cache) + layers.nbytes(self._draft_cache)

    def launch(self) -> bool:
        """Propose, and start the verification."""
        import mlx.core as mx

        row = self._row
        job = row.job
        assert job.draft is not None
        most = min(job.draft.tokens, row.left - 1)
        history = row.history
        last = mx.array(history[-1:], dtype=mx.uint32)
        proposed: list[int] | mx.array
        if self._draft_model is None:
            proposed = look_up(history, most)
            count = len(proposed)
            fed = mx.array([history[-1], *proposed], dtype=mx.uint32)
        else:
            proposed = self._draft(history, most)
            count = most
            fed = mx.concatenate([last, proposed]) if count else last
        drafted: list[int] = []
        if job.sampling.penalised and count:
            # Each position's penalties look at the proposals before it.
            drafted = proposed if isinstance(proposed, list) else proposed.tolist()  # type: ignore[assignment]
        samplers = SamplerBatch(
            [(job.sampling, len(row.drawn) + at, history + drafted[:at]) for at in range(count + 1)]
        )
        logits = self._model(fed[None], cache=self._cache)
        draws = samplers.draw(logits[0])
        mx.async_eval(draws.arrays())  # type: ignore[no-untyped-call]
        self._started = (proposed, count, draws)
        return True

    def advance(self) -> list[Ended]:
        """Read what was drawn, as far as the proposals were right."""
        if self._started is None:
            return []
        row = self._row
        proposed, count, draws = self._started
        self._started = None
        tokens: list[int] = draws.tokens.tolist()  # type: ignore[assignment]
        healthy: list[bool] = draws.healthy.tolist()  # type: ignore[assignment]
        drafts: list[int] = proposed if isinstance(proposed, list) else proposed.tolist()  # type: ignore[assignment]
        scores = draws.read_scores()
        seen = row.fed + count + 1
        row.drafted += count
        ended: list[Ended] = []
        try:
            for at in range(count + 1):
                if not healthy[at]:
                    raise UnhealthyError
                own = scores.get(at)
                score = TokenScore(tokens[at], own[0], tuple(own[1])) if own else None
                agreed = at < count and drafts[at] == tokens[at]
                row.accepted += agreed
                if row.accept(tokens[at], score):
                    ended.append((row, None))
                    break
                if not agreed:
                    break
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this row's
            # Its traceback holds this frame, and the row's memory with it.
            return [(row, error.with_traceback(None))]
        row.fed = len(row.history) - 1
        layers.trim(self._cache, seen - row.fed)
        if self._draft_model is not None:
            spare = self._draft_fed - row.fed
            if spare > 0:
                layers.trim(self._draft_cache, spare)
                self._draft_fed = row.fed
        return ended

    def settle(self) -> None:
        """Wait for what was started, without reading it."""
        import mlx.core as mx

        if self._started is not None:
            mx.eval(self._started[2].arrays())

    def leave(self, leaving: Sequence[Row], keep: Sequence[Row]) -> list[Kept]:
        """See `Batch.leave`."""
        row = self._row
        if row not in leaving:
            return []
        self.rows = []
        if row not in keep:
            return []
        kept = [Kept(row.cache_key, row.seen, self._cache)]
        if row.draft is not None:
            history = row.history[: self._draft_fed]
            kept.append(Kept(row.draft_key, history, self._draft_cache))
        return kept

    def split(self, row: Row) -> Speculative:
        """See `Batch.split`."""
        assert row is self._row
        return self

    def _draft(self, history: list[int], count: int) -> mx.array:
        """Proposals of the draft model, `[count]`, lazy."""
        import mlx.core as mx

        row = self._row
        # Its log probabilities are nobody's business.
        options = replace(row.job.sampling, logprobs=None)
        sampler = SamplerBatch([(options, len(row.drawn), history)])
        token = mx.array(history[self._draft_fed :], dtype=mx.uint32)
        drawn = []
        assert self._draft_model is not None
        for _ in range(count):
            logits = self._draft_model(token[None], cache=self._draft_cache)
            self._draft_fed += int(token.shape[0])
            token = sampler.draw(logits[:, -1, :]).tokens
            drawn.append(token)
        return mx.concatenate(drawn) if drawn else mx.zeros((0,), dtype=mx.uint32)


def look_up(history: Sequence[int], most: int) -> list[int]:
    """What followed the last earlier occurrence of the latest tokens, at most `most` tokens."""
    for size in range(min(_NGRAM, len(history) - 1), 0, -1):
        latest = history[-size:]
        # From the end: the nearest occurrence is the likeliest to go on the same way.
        for at in range(len(history) - size - 1, -1, -1):
            if history[at] == latest[0] and history[at : at + size] == latest:
                return list(history[at + size : at + size + most])
    return []


def check(row: Row) -> None:
    """Refuse, before any work, what cannot be undone or compared.

    Raises:
        EngineError: `unsupported`.
    """
    length = len(row.prompt.tokens) + row.budget
    assert row.job.draft is not None
    path = "$.draftModel" if row.draft is not None else "$.numDraftTokens"
    _check_cache(
        layers.make(row.resident.weights.model, row.job.kv_bits, row.job.max_kv_size),
        length + row.job.draft.tokens,
        "model",
        path,
    )
    if row.draft is not None:
        weights = row.draft.weights
        _check_cache(layers.make(weights.model), length + row.job.draft.tokens, "draft model", path)
        if weights.vocabulary_size != row.resident.weights.vocabulary_size:
            raise EngineError(
                "unsupported",
                f"the draft model's vocabulary ({weights.vocabulary_size}) is not the model's "
                f"({row.resident.weights.vocabulary_size})",
                path=path,
            )


def _check_cache(cache: list[Any], length: int, name: str, path: str) -> None:
    if not layers.trimmable(cache):
        message = f"the {name}'s cache cannot take back tokens, as speculation needs"
        raise EngineError("unsupported", message, path=path)
    window = min((layer.max_size for layer in cache if hasattr(layer, "max_size")), default=None)
    if window is not None and length >= window:
        message = f"beyond its window of {window} tokens the {name}'s cache cannot take back tokens"
        raise EngineError("unsupported", message, path=path)
