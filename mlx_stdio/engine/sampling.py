"""From logits to tokens, for all rows of a batch at once.

The order is `mlx_lm`'s: bias, penalties, then top-p, min-p, XTC and top-k on the untempered log
probabilities, then temperature and the draw. Each stage works on those rows that ask for it, and
is left out where none does.

A row's token is the same in any batch: it depends on the row's logits, options and tokens, and on
its own randomness (`randomness.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct, field
from msgspec.structs import replace

from mlx_stdio.engine.draws import Draws, Scoring
from mlx_stdio.engine.filters import EMPTY, LARGEST, Filters, column, penalise
from mlx_stdio.engine.randomness import DRAW, XTC, keys

if TYPE_CHECKING:
    import mlx.core as mx

_COLDEST, _HOTTEST = 1e-6, 1e6
"""Temperatures beyond are these: a division by less, or more, leaves the range of 32 bits."""


class Sampling(Struct, frozen=True):
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


class _Row(Struct):
    """A row's options and what only the host needs to know of it.

    Attributes:
        seen: how many of its latest tokens the penalties see at present.
    """

    sampling: Sampling
    position: int
    seen: int


class SamplerBatch:
    """Draws the next tokens of all rows. All it gives is lazy: nothing here waits."""

    def __init__(self, rows: Sequence[tuple[Sampling, int, Sequence[int]]]) -> None:
        """Begin with these rows.

        Whatever options cannot be obeyed are refused here, so who makes a batch of each row alone,
        and joins them later, knows which one is to blame.

        Args:
            rows: of each its options, how many of its tokens were drawn already, and all its
                tokens so far, those of the prompt included.

        Raises:
            ValueError: an option outside its range.
        """
        import mlx.core as mx

        self._rows: list[_Row] = []
        self._recent: mx.array | None = None
        histories: list[Sequence[int]] = []
        for sampling, position, tokens in rows:
            check_options(sampling)
            history = tokens[-sampling.penalty_context :] if sampling.penalised else ()
            self._rows.append(_Row(sampling, position, len(history)))
            if sampling.penalised:
                histories.append(history)
        width = max(map(len, histories), default=0)
        if histories:
            padded = [[EMPTY] * (width - len(tokens)) + list(tokens) for tokens in histories]
            self._recent = mx.array(padded, dtype=mx.uint32)
        self._prepare()

    def __len__(self) -> int:
        return len(self._rows)

    def draw(self, logits: mx.array) -> Draws:
        """Draw the next token of each row.

        Args:
            logits: `[B, V]`.

        Raises:
            ValueError: a bias on an id that is not below V; the first draw shows it.
        """
        import mlx.core as mx

        raw = logits
        logits = self._adjust(logits)
        # MLX's maximum of what holds a NaN is NaN; and what is not finite is no zero less itself.
        # (`isfinite` would be eight operations, each a launch on a GPU.)
        best = mx.max(logits, axis=-1)
        healthy = best - best == 0
        if self._hot is None:
            tokens = mx.argmax(logits, axis=-1)
        elif self._hot.size == len(self._rows):
            tokens = self._random(logits)
        else:
            tokens = mx.argmax(logits, axis=-1)
            tokens[self._hot] = self._random(logits[self._hot])
        tokens = mx.where(healthy, tokens, 0).astype(mx.uint32)
        self._remember(tokens)
        draws = Draws(tokens, healthy)
        return draws if self._scoring is None else self._scoring.of(draws, raw)

    def take(self, rows: Sequence[int]) -> None:
        """Keep only these rows, in this order."""
        self._rows, self._recent = self._select(rows)
        self._prepare()

    def pick(self, row: int) -> SamplerBatch:
        """One of the rows as a batch of its own; this one stays as it is."""
        other = SamplerBatch([])
        other._rows, other._recent = self._select([row])
        other._prepare()
        return other

    def join(self, other: SamplerBatch) -> None:
        """Append the other's rows."""
        import mlx.core as mx

        self._rows = self._rows + [replace(row) for row in other._rows]
        parts = [part for part in (self._recent, other._recent) if part is not None]
        if parts:
            width = max(part.shape[1] for part in parts)
            self._recent = mx.concatenate(
                [
                    mx.pad(part, [(0, 0), (width - part.shape[1], 0)], constant_values=EMPTY)
                    for part in parts
                ]
            )
        self._prepare()

    def _select(self, places: Sequence[int]) -> tuple[list[_Row], mx.array | None]:
        import mlx.core as mx

        rows = [replace(self._rows[at]) for at in places]
        if self._recent is None:
            return rows, None
        remembered = [at for at, row in enumerate(self._rows) if row.sampling.penalised]
        wanted = [remembered.index(at) for at in places if at in remembered]
        if not wanted:
            return rows, None
        width = max(row.seen for row in rows)
        first = self._recent.shape[1] - width
        return rows, self._recent[mx.array(wanted)][:, first:]

    def _prepare(self) -> None:
        """Make the arrays of parameters; they stay until rows come or go."""
        import mlx.core as mx

        options = [row.sampling for row in self._rows]
        biases = [
            (at, token, value)
            for at, each in enumerate(options)
            for token, value in each.logit_bias.items()
        ]
        self._most_biased = max((token for _, token, _ in biases), default=-1)
        self._bias: tuple[mx.array, mx.array, mx.array] | None = None
        if biases:
            rows, tokens, values = zip(*biases, strict=True)
            self._bias = (mx.array(rows), mx.array(tokens), mx.array(values, dtype=mx.float32))

        penalised = [at for at, each in enumerate(options) if each.penalised]
        some = [options[at] for at in penalised]
        self._penalised = column(penalised, mx.int32)
        contexts = [min(each.penalty_context, LARGEST) for each in some]
        self._context = column(contexts, mx.int32)
        self._penalties = (
            _column_unless([each.repetition_penalty for each in some], 1.0),
            _column_unless([each.presence_penalty for each in some], 0.0),
            _column_unless([each.frequency_penalty for each in some], 0.0),
        )

        hot = [at for at, each in enumerate(options) if each.temperature > 0.0]
        self._hot_rows = [self._rows[at] for at in hot]
        self._hot = mx.array(hot) if hot else None
        temperatures = [options[at].temperature for at in hot]
        self._temperature = column([min(max(each, _COLDEST), _HOTTEST) for each in temperatures])
        self._filters = Filters([options[at] for at in hot])

        scored = {at: row.logprobs for at, row in enumerate(options) if row.logprobs is not None}
        self._scoring = Scoring(scored, len(options)) if scored else None

    def _adjust(self, logits: mx.array) -> mx.array:
        if self._bias is not None:
            if self._most_biased >= logits.shape[-1]:
                raise ValueError(f"a bias on token {self._most_biased}, of {logits.shape[-1]}")
            rows, tokens, values = self._bias
            logits = logits.at[rows, tokens].add(values.astype(logits.dtype))
        if self._recent is not None:
            logits = penalise(
                logits, self._penalised, self._recent, self._context, *self._penalties
            )
        return logits

    def _random(self, logits: mx.array) -> mx.array:
        import mlx.core as mx

        size = logits.shape[-1]
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        chances = None
        if self._filters.chancy:
            own = self._keys([self._hot_rows[at] for at in self._filters.chancy], XTC)
            chances = mx.vmap(lambda key: mx.random.uniform(shape=(1,), key=key))(own)
        logprobs = self._filters.apply(logprobs, chances)
        # In 32 bits, because 16 leave the draw too few distinct random numbers; and from the best
        # one down, because a small temperature would make minus infinity of everything.
        logprobs = logprobs.astype(mx.float32)
        logprobs = logprobs - mx.max(logprobs, axis=-1, keepdims=True)
        # Gumbel's trick in full, because `mx.random.categorical` takes other ways for one row than
        # for many, which draw other tokens and lose those below a share of 1e-7.
        own = self._keys(self._hot_rows, DRAW)
        noise = mx.vmap(lambda key: mx.random.gumbel(shape=(size,), key=key))(own)
        return mx.argmax(logprobs / self._temperature + noise, axis=-1)

    @staticmethod
    def _keys(rows: Sequence[_Row], use: int) -> mx.array:
        return keys([(row.sampling.seed, row.position) for row in rows], use)

    def _remember(self, tokens: mx.array) -> None:
        """Move on by one position, with tokens `[B]` that nobody has read yet."""
        import mlx.core as mx

        for row in self._rows:
            row.position += 1
            if row.sampling.penalised:
                row.seen = min(row.seen + 1, row.sampling.penalty_context)
        if self._recent is not None:
            recent = mx.concatenate([self._recent, tokens[self._penalised]], axis=1)
            self._recent = recent[:, recent.shape[1] - max(row.seen for row in self._rows) :]


def check_options(options: Sampling) -> None:
    """Refuse what would fail later, or spoil a row without a word.

    Raises:
        ValueError: an option outside its range.
    """
    for name, legal in (
        ("temperature", options.temperature >= 0.0),
        ("top_p", not math.isnan(options.top_p)),
        ("top_k", options.top_k >= 0),
        ("min_p", 0.0 <= options.min_p <= 1.0),
        ("xtc_probability", 0.0 <= options.xtc_probability <= 1.0),
        ("xtc_threshold", 0.0 <= options.xtc_threshold <= 1.0),
        ("repetition_penalty", 0.0 < options.repetition_penalty < math.inf),
        ("presence_penalty", math.isfinite(options.presence_penalty)),
        ("frequency_penalty", math.isfinite(options.frequency_penalty)),
        ("penalty_context", options.penalty_context >= 1),
        ("logit_bias", all(0 <= token <= LARGEST for token in options.logit_bias)),
        ("logit_bias", all(map(math.isfinite, options.logit_bias.values()))),
        ("logprobs", options.logprobs is None or options.logprobs >= 0),
    ):
        if not legal:
            raise ValueError(f"{name} is outside its range: {getattr(options, name)}")


def _column_unless(values: Sequence[float], neutral: float) -> mx.array | None:
    return None if all(value == neutral for value in values) else column(values)
