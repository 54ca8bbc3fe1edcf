"""Rows of one model that decode in one forward pass.

Decoding is pipelined as in `mlx_lm.generate`: the graph of the next tokens is built and started
before the present ones are read, so Python works while the device computes. The price is one token
computed in vain for each row that ends.

A batch of one row keeps the row's plain cache: attention without a mask over padding is faster.
A second row that joins turns it into a merged one, and back when only one is left.

A row that has left keeps its place in the arrays, empty, until an eighth of them is: taking it out
copies everybody's KV, which costs more than computing a few places in vain.

Invariant between two steps: each row's cache has seen exactly `row.fed` tokens of its history.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from mlx_stdio.engine.draws import Drawn, Draws
from mlx_stdio.engine.row import Row
from mlx_stdio.engine.sampling import SamplerBatch
from mlx_stdio.errors import EngineError
from mlx_stdio.kv import layers

if TYPE_CHECKING:
    import mlx.core as mx

    from mlx_stdio.kv.prefixes import Key

Ended = tuple[Row, Exception | None]
"""A row that is over, and what it failed with if it did."""


class Kept(Struct, frozen=True, eq=False):
    """KV of a row that has left: what the prefix cache may keep."""

    key: Key
    tokens: list[int]
    cache: list[Any]


def healthy(drawn: Drawn | None) -> Drawn:
    """What a row drew.

    Raises:
        EngineError: its logits are not numbers.
    """
    if drawn is None:
        raise EngineError("internalError", "the model's logits are not numbers")
    return drawn


_EMPTY_SHARE = 8
"""Empty places are taken out when there is more than one in so many."""


class _Segment(Struct, eq=False):
    """The present tokens of some rows: drawn and not read yet, or the last ones of their prompts.

    Attributes:
        tokens: `[n]`.
        draws: None where the tokens are known already.
        places: which of the tokens belong to the batch's rows, in the order of the cache.
        rows: whose they are; None where the row has left.
    """

    tokens: mx.array
    draws: Draws | None
    places: list[int]
    rows: list[Row | None]


class Batch:
    """See the module. `launch` and `advance` alternate; rows join and leave between them."""

    def __init__(
        self, rows: Sequence[Row], cache: list[Any], *, merged: bool = False, wait: bool = False
    ) -> None:
        """Start with rows whose prompts are read but for the last token.

        Args:
            rows: of one model; several if `cache` is merged from theirs.
            wait: draw the first tokens in the next `launch`, for it is likely to be that of a
                batch that takes these rows in: one forward pass less.

        Raises:
            Exception: what a row's sampler or the model raises; the row's own fault if it is one.
        """
        import mlx.core as mx

        self._places: list[Row | None] = list(rows)  # in the order of the cache
        self._model = rows[0].resident.weights.model
        self._cache = cache
        self._merged = merged
        self.mergeable = merged or (not rows[0].alone and layers.mergeable(cache))
        last = []
        for row in rows:
            row.fed = len(row.prompt.tokens) + len(row.drawn) - 1
            last.append(row.drawn[-1] if row.drawn else row.prompt.tokens[-1])
        self._samplers = SamplerBatch(
            [(row.job.sampling, len(row.drawn), row.history) for row in rows]
        )
        tokens = mx.array(last, dtype=mx.uint32)
        draws = None
        if not wait:
            draws = self._forward(tokens)
            tokens = draws.tokens
            mx.async_eval(draws.arrays())  # type: ignore[no-untyped-call]
        self._current = [_Segment(tokens, draws, list(range(len(rows))), list(rows))]
        self._next: Draws | None = None

    @property
    def rows(self) -> list[Row]:
        """Those that have not left."""
        return [row for row in self._places if row is not None]

    @property
    def kv_bytes(self) -> int:
        """Bytes of the cache; only looks at shapes, so any thread may ask."""
        return layers.nbytes(self._cache)

    def launch(self) -> bool:
        """Build and start the graph of the tokens after the present ones.

        Returns:
            whether any row wants a further token.
        """
        import mlx.core as mx

        if not any(
            row.left > (segment.draws is not None)
            for segment in self._current
            for row in segment.rows
            if row is not None
        ):
            return False
        self._next = self._forward(self._tokens())
        mx.async_eval(self._next.arrays())  # type: ignore[no-untyped-call]
        return True

    def advance(self) -> list[Ended]:
        """Wait for the present tokens and hand them to their rows.

        Returns:
            the rows that have ended, well or not; the caller takes them out with `leave`.
        """
        ended: list[Ended] = []
        for segment in self._current:
            if segment.draws is None:
                continue
            drawn = segment.draws.read()
            for row, place in zip(segment.rows, segment.places, strict=True):
                if row is None:
                    continue
                try:
                    if row.accept(*healthy(drawn[place])):
                        ended.append((row, None))
                except Exception as error:  # noqa: BLE001 - whatever it is, it is this row's
                    # Its traceback holds this frame, and the batch's memory with it.
                    ended.append((row, error.with_traceback(None)))
        self._current = []
        if self._next is not None:
            places = list(range(len(self._places)))
            self._current = [_Segment(self._next.tokens, self._next, places, list(self._places))]
            self._next = None
        return ended

    def settle(self) -> None:
        """Wait for what was started, without reading it."""
        import mlx.core as mx

        started = [segment.draws for segment in self._current if segment.draws is not None]
        mx.eval([array for draws in started for array in draws.arrays()])

    def join(self, others: Sequence[Batch]) -> None:
        """Take over the rows of other batches."""
        plain = [other for other in others if not other._merged]
        merged = [other for other in others if other._merged]
        if not self._merged:
            self._cache = layers.merge([self._cache, *(other._cache for other in plain)])
            self._merged = True
        elif plain:
            cache = layers.merge([other._cache for other in plain])
            self._cache = layers.extend(self._cache, cache)
        for other in merged:
            self._cache = layers.extend(self._cache, other._cache)
        for other in [*plain, *merged]:
            self._places += other._places
            self._current += other._current
            self._samplers.join(other._samplers)

    def leave(self, leaving: Sequence[Row], keep: Sequence[Row]) -> list[Kept]:
        """Take rows out.

        Args:
            keep: those of them whose cache is wanted.

        Returns:
            the wanted KV, lazy.
        """
        wanted = [
            Kept(row.cache_key, row.seen, self._extract(row)) for row in leaving if row in keep
        ]
        self._places = [None if row in leaving else row for row in self._places]
        for segment in self._current:
            segment.rows = [None if row in leaving else row for row in segment.rows]
        left, empty = len(self.rows), self._places.count(None)
        if left and (left == 1 or empty * _EMPTY_SHARE > len(self._places)):
            self._close_up()
        return wanted

    def _close_up(self) -> None:
        """Take the empty places out of all arrays."""
        places = [at for at, row in enumerate(self._places) if row is not None]
        if len(places) == len(self._places):
            return
        if len(places) == 1:
            self._cache = layers.extract(self._cache, places[0], self.rows[0].fed)
            self._merged = False
        else:
            lengths = [row.fed for row in self.rows]
            self._cache = layers.select(self._cache, places, lengths)
        self._samplers.take(places)
        self._places = [self._places[at] for at in places]
        for segment in self._current:
            pairs = zip(segment.places, segment.rows, strict=True)
            some = [(at, row) for at, row in pairs if row is not None]
            segment.places, segment.rows = [at for at, _ in some], [row for _, row in some]
        self._current = [segment for segment in self._current if segment.rows]

    def copy_of(self, row: Row) -> list[Any]:
        """A copy of one row's cache, lazy."""
        return self._extract(row) if self._merged else layers.copy(self._cache)

    def split(self, row: Row) -> Batch:
        """Take one row out as a batch of its own, to go on later."""
        if len(self.rows) == 1:
            return self
        place = self._places.index(row)
        other: Batch = object.__new__(Batch)
        other._places = [row]
        other._model, other.mergeable, other._merged = self._model, self.mergeable, False
        other._cache = self._extract(row)
        other._samplers = self._samplers.pick(place)
        other._next = None
        other._current = [
            _Segment(segment.tokens, segment.draws, [at], [row])
            for segment in self._current
            for member, at in zip(segment.rows, segment.places, strict=True)
            if member is row
        ]
        self.leave([row], [])
        return other

    def _extract(self, row: Row) -> list[Any]:
        if not self._merged:
            return self._cache
        return layers.extract(self._cache, self._places.index(row), row.fed)

    def _tokens(self) -> mx.array:
        """The present tokens in the order of the places, `[B]`, read or not."""
        import mlx.core as mx

        parts = []
        for segment in self._current:
            whole = len(segment.places) == segment.tokens.shape[0]
            parts.append(segment.tokens if whole else segment.tokens[mx.array(segment.places)])
        return parts[0] if len(parts) == 1 else mx.concatenate(parts)

    def _forward(self, tokens: mx.array) -> Draws:
        logits = self._model(tokens[:, None], cache=self._cache)
        draws = self._samplers.draw(logits[:, -1, :])
        for row in self.rows:
            row.fed += 1
        return draws
