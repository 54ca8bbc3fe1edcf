"""Speculative decoding of one row: several tokens proposed, verified in one forward pass.

Proposals come from a draft model, or without one from the row's own text: what followed an earlier
occurrence of its latest tokens (prompt lookup, Saxena 2023).

Each position's token is drawn by the row's own sampler from the model's own logits, with the
randomness of that position, exactly as without speculation; a proposal is accepted where it is the
token that was drawn. So neither greedy nor sampled output is changed by it. A draft model draws its
proposals with the same randomness, so the two agree as often as their distributions allow (Gumbel
coupling; Daliri, Musco, Suresh 2024). The only difference is that of a forward pass of several
positions to one of a single position, in the last bits of a float.

Where the text gives no proposals, decoding is pipelined as in `batch.py`: the next pass is started
before the present token is read. What is found meanwhile is proposed one position later.

Invariant between two steps: the model's cache has seen `row.fed` tokens of the history, then
proposals of a pass that is not read yet, if there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from mlx_stdio.engine.batch import Ended, Kept, healthy
from mlx_stdio.engine.draws import Draws
from mlx_stdio.engine.lookup import Text
from mlx_stdio.engine.row import Row
from mlx_stdio.engine.sampling import SamplerBatch
from mlx_stdio.kv import layers

if TYPE_CHECKING:
    import mlx.core as mx


class _Pass(Struct, eq=False):
    """A forward pass that is not read yet.

    Attributes:
        proposed: the tokens at its positions but the first; lazy from a draft model.
        sampler: what drew the tokens.
        draws: one more than was proposed.
    """

    proposed: list[int] | mx.array
    count: int
    sampler: SamplerBatch
    draws: Draws


class Speculative:
    """See the module. Has the interface of `Batch`, for one row that never joins another."""

    def __init__(self, row: Row, caches: Sequence[list[Any]]) -> None:
        """Args:
        caches: the model's, then the draft model's if there is one; both have read the history
            but for its last token.
        """
        assert row.job.draft is not None
        self.rows = [row]
        self._row = row
        self._most = row.job.draft.tokens
        self._model = row.resident.weights.model
        self._cache = caches[0]
        self._draft_model = row.draft.weights.model if row.draft is not None else None
        self._draft_cache = caches[1] if len(caches) > 1 else []
        self._text = Text(row.history)
        row.fed = len(self._text.tokens) - 1
        self._seen = row.fed  # by the model's cache, proposals included
        self._draft_fed = row.fed
        self._present: _Pass | None = None
        self._next: _Pass | None = None

    @property
    def kv_bytes(self) -> int:
        """Bytes of the caches; any thread may ask."""
        return layers.nbytes(self._cache) + layers.nbytes(self._draft_cache)

    def launch(self) -> bool:
        """Propose, and start the verification; or what comes after it, if that is certain.

        Returns:
            whether anything was started.
        """
        started = False
        if self._present is None:
            self._present = self._start()
            started = True
        # How far a pass with proposals comes is not known before it is read; and a draft model
        # needs the tokens that it goes on from.
        if self._present.count or self._draft_model is not None or self._row.left <= 1:
            return started
        proposed = self._text.look_up(min(self._most, self._row.left - 2) + 1)[1:]
        if proposed and self._row.job.sampling.penalised:
            return started  # penalties look at the token that is not read yet
        self._next = self._start_after(self._present, proposed)
        return True

    def advance(self) -> list[Ended]:
        """Read what was drawn, as far as the proposals were right."""
        present, self._present, self._next = self._present, self._next, None
        if present is None:
            return []
        row = self._row
        drawn = present.draws.read()
        proposed = present.proposed
        drafts: list[int] = proposed if isinstance(proposed, list) else proposed.tolist()  # type: ignore[assignment]
        row.drafted += present.count
        ended: list[Ended] = []
        try:
            for at, one in enumerate(drawn):
                token, score = healthy(one)
                agreed = at < present.count and drafts[at] == token
                row.accepted += agreed
                self._text.push(token)
                if row.accept(token, score):
                    ended.append((row, None))
                    break
                if not agreed:
                    break
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this row's
            # Its traceback holds this frame, and the row's memory with it.
            return [(row, error.with_traceback(None))]
        if self._present is not None:  # it begins with the token that was read just now
            row.fed = len(self._text.tokens)
            return ended
        row.fed = len(self._text.tokens) - 1
        self._trim()
        return ended

    def settle(self) -> None:
        """Wait for what was started, without reading it."""
        import mlx.core as mx

        if self._present is not None:
            mx.eval(self._present.draws.arrays())

    def leave(self, leaving: Sequence[Row], keep: Sequence[Row]) -> list[Kept]:
        """See `Batch.leave`."""
        row = self._row
        if row not in leaving:
            return []
        self.rows = []
        if row not in keep:
            return []
        self._trim()
        kept = [Kept(row.cache_key, row.seen, self._cache)]
        if row.draft is not None:
            history = self._text.tokens[: self._draft_fed]
            kept.append(Kept(row.draft_key, history, self._draft_cache))
        return kept

    def split(self, row: Row) -> Speculative:
        """See `Batch.split`."""
        assert row is self._row
        return self

    def _trim(self) -> None:
        """Take from the caches the proposals that were wrong."""
        row = self._row
        layers.trim(self._cache, self._seen - row.fed)
        self._seen = row.fed
        if self._draft_fed > row.fed:
            layers.trim(self._draft_cache, self._draft_fed - row.fed)
            self._draft_fed = row.fed

    def _start(self) -> _Pass:
        """The pass that goes on from what is known."""
        import mlx.core as mx

        options = self._row.job.sampling
        history = self._text.tokens
        most = min(self._most, self._row.left - 1)
        proposed: list[int] | mx.array
        if self._draft_model is None:
            proposed = self._text.look_up(most)
            count = len(proposed)
            fed = mx.array([history[-1], *proposed], dtype=mx.uint32)
        else:
            proposed, count = self._draft(most), most
            fed = mx.concatenate([mx.array(history[-1:], dtype=mx.uint32), proposed])
        latest: list[int] = []
        if options.penalised:
            # Each position's penalties look at the proposals before it.
            drafts: list[int] = proposed if isinstance(proposed, list) else proposed.tolist()  # type: ignore[assignment]
            latest = history[-options.penalty_context :] + drafts
        known = len(latest) - count
        position = len(self._row.drawn)
        sampler = SamplerBatch(
            [(options, position + at, latest[: known + at]) for at in range(count + 1)]
        )
        return self._verify(fed, proposed, count, sampler)

    def _start_after(self, present: _Pass, proposed: list[int]) -> _Pass:
        """The pass that goes on from the one token of `present`, which is not read yet."""
        import mlx.core as mx

        fed, sampler = present.draws.tokens, present.sampler
        if proposed:
            fed = mx.concatenate([fed, mx.array(proposed, dtype=mx.uint32)])
            first = len(self._row.drawn) + 1
            options = self._row.job.sampling
            sampler = SamplerBatch(
                [(options, first + at, ()) for at in range(len(proposed) + 1)],
            )
        return self._verify(fed, proposed, len(proposed), sampler)

    def _verify(
        self, fed: mx.array, proposed: list[int] | mx.array, count: int, sampler: SamplerBatch
    ) -> _Pass:
        import mlx.core as mx

        logits = self._model(fed[None], cache=self._cache)
        self._seen += count + 1
        draws = sampler.draw(logits[0])
        mx.async_eval(draws.arrays())  # type: ignore[no-untyped-call]
        return _Pass(proposed, count, sampler, draws)

    def _draft(self, count: int) -> mx.array:
        """Proposals of the draft model, `[count]`, lazy."""
        import mlx.core as mx

        row = self._row
        history = self._text.tokens
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
