"""Rows sampled together: each gets the token that it gets alone, whoever comes and goes.

They import MLX into the tests' own process, for what the wire cannot show.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest

from mlx_stdio.engine.draws import Draws
from mlx_stdio.engine.filters import (
    Filters,
    exclude_top_choices,
    keep_min_p,
    keep_top_k,
    keep_top_p,
)
from mlx_stdio.engine.randomness import mix
from mlx_stdio.engine.sampling import SamplerBatch, Sampling

Score = tuple[float, list[tuple[int, float]]]


def some_options(random_: random.Random, size: int) -> Sampling:
    """Any mix; every option is off about as often as on."""
    choose = random_.choice
    return Sampling(
        temperature=choose([0.0, 0.0, 0.3, 1.0, 2.5]),
        top_p=choose([0.0, 0.2, 0.9, 1.0]),
        top_k=choose([0, 0, 1, 7, 40, 10**9]),
        min_p=choose([0.0, 0.0, 0.02, 1.0]),
        xtc_probability=choose([0.0, 0.0, 0.5, 1.0]),
        xtc_threshold=choose([0.02, 0.1, 0.4]),
        repetition_penalty=choose([1.0, 1.0, 0.7, 1.6]),
        presence_penalty=choose([0.0, 0.0, 0.8, -0.8]),
        frequency_penalty=choose([0.0, 0.0, 1.1]),
        penalty_context=choose([1, 4, 20, 10**15]),
        logit_bias={random_.randrange(size): random_.uniform(-6, 6) for _ in range(choose([0, 3]))},
        seed=random_.randrange(2**53),
        logprobs=choose([None, None, 0, 2, 9]),
    )


class Request:
    """One text: its options, its prompt, and the same logits at a position wherever it is drawn."""

    def __init__(self, mx: Any, seed: int, size: int, dtype: str) -> None:
        random_ = random.Random(seed)
        self.sampling = some_options(random_, size)
        self.prompt = [random_.randrange(size) for _ in range(random_.choice([0, 1, 6, 30]))]
        self.drawn: list[int] = []
        self.scores: list[Score | None] = []
        key = mx.random.key(seed)
        # Halves, so that there are ties.
        raw = mx.random.normal((20, size), scale=3, key=key) * 2
        self.logits = (mx.round(raw) / 2 if seed % 2 else raw).astype(getattr(mx, dtype))
        mx.eval(self.logits)

    def batch(self, position: int = 0) -> SamplerBatch:
        tokens = self.prompt + self.drawn[:position]
        return SamplerBatch([(self.sampling, position, tokens)])

    def draw_alone(self, steps: int) -> None:
        batch = self.batch()
        for step in range(steps):
            draws = batch.draw(self.logits[step : step + 1])
            tokens: Any = draws.tokens.tolist()
            self.drawn += tokens
            self.scores.append(draws.read_scores().get(0))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("seed", range(8))
def test_a_row_draws_in_any_company_what_it_draws_alone(mx: Any, seed: int, dtype: str) -> None:
    random_ = random.Random(seed)
    size = random_.choice([11, 50, 257])
    steps = 9
    requests = [Request(mx, 100 * seed + at, size, dtype) for at in range(12)]
    for request in requests:
        request.draw_alone(steps)

    # They join and leave between steps; nothing is read before the end.
    batch = SamplerBatch([])
    present: list[tuple[Request, int]] = []
    waiting = list(requests)
    drawn: list[tuple[Draws, list[tuple[Request, int]]]] = []
    while waiting or present:
        for _ in range(random_.randrange(1, 4)):
            if waiting:
                request = waiting.pop()
                # Some come from elsewhere, in the middle of their text.
                position = random_.choice([0, 0, 4])
                batch.join(request.batch(position))
                present.append((request, position))
        if random_.random() < 0.5:
            order = random_.sample(range(len(present)), len(present))
            stay = [at for at in order if present[at][1] < steps - 1 or random_.random() < 0.5]
            gone = [at for at in range(len(present)) if at not in stay]
            if gone and random_.random() < 0.5:  # one goes on alone, without having been read
                request, position = present[gone[0]]
                lone = batch.pick(gone[0])
                draws = lone.draw(request.logits[position : position + 1])
                drawn.append((draws, [(request, position)]))
            batch.take(stay)
            present = [present[at] for at in stay]
        if not present:
            continue
        assert len(batch) == len(present)
        rows = mx.stack([request.logits[position] for request, position in present])
        drawn.append((batch.draw(rows), present))
        moved = [(request, position + 1) for request, position in present]
        left = [at for at, (_, position) in enumerate(moved) if position < steps]
        batch.take(left)
        present = [moved[at] for at in left]

    count = 0
    for draws, members in drawn:
        tokens: Any = draws.tokens.tolist()
        scores = draws.read_scores()
        assert draws.healthy.tolist() == [True] * len(members)
        for place, (request, position) in enumerate(members):
            assert tokens[place] == request.drawn[position], (request.sampling, position)
            assert scores.get(place) == request.scores[position]
            count += 1
    assert count > 60


@pytest.mark.parametrize("seed", range(10))
def test_each_row_keeps_what_mlx_lm_keeps(mx: Any, seed: int) -> None:
    from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p, apply_xtc

    random_ = random.Random(seed)
    size = random_.choice([50, 300])
    options: list[Sampling] = []
    while len(options) < 9:
        each = some_options(random_, size)
        if each.xtc_probability != 0.5 and each.top_k < size:
            options.append(each)
    logits = mx.random.normal((9, size), scale=3, key=mx.random.key(seed))
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    filters = Filters(options)
    chances = mx.full((len(filters.chancy), 1), 0.5) if filters.chancy else None
    filtered = filters.apply(logprobs, chances)
    for at, each in enumerate(options):
        row = logprobs[at : at + 1]
        if 0 < each.top_p < 1:
            row = apply_top_p(row, each.top_p)
        if each.min_p > 0:
            row = apply_min_p(row, each.min_p)
        if each.xtc_probability > 0:
            row = apply_xtc(row, each.xtc_probability, each.xtc_threshold, [])
        if each.top_k > 0:
            row = apply_top_k(row, each.top_k)
        assert mx.array_equal(filtered[at], row[0]), each


def test_parameters_may_be_numbers_or_columns(mx: Any) -> None:
    logprobs = mx.random.normal((3, 40), key=mx.random.key(1))
    cases: list[tuple[Any, list[Any]]] = [
        (keep_top_p, [0.2, 0.5, 0.9]),
        (keep_min_p, [0.1, 0.5, 1.0]),
        (keep_top_k, [1, 7, 39]),
        (exclude_top_choices, [0.01, 0.03, 0.3]),
    ]
    for function, values in cases:
        together = function(logprobs, mx.array(values)[:, None])
        for at, value in enumerate(values):
            assert mx.array_equal(together[at], function(logprobs, value)[at])


@pytest.mark.parametrize("k", [1, 3, 4, 6, 60])
def test_top_k_keeps_exactly_k_of_equal_ones(mx: Any, k: int) -> None:
    row = [0.0, 2.0, 1.0, 1.0, 1.0, 0.0]
    ranked = [1, 2, 3, 4, 0, 5]
    alone: Any = keep_top_k(mx.array([row]), k)[0].tolist()
    assert [at for at in range(6) if alone[at] > -math.inf] == sorted(ranked[:k])
    company = keep_top_k(mx.array([row, row]), mx.array([[k], [5]]))[0].tolist()
    assert company == alone


def test_draws_of_a_batch_follow_each_rows_distribution(mx: Any) -> None:
    logits = [0.0, 1.0, 2.0, -1.0, 0.5, -3.0]
    temperatures = [0.4, 1.0, 3.0]
    options = [Sampling(temperature=t, seed=s) for t in temperatures for s in range(20)]
    batch = SamplerBatch([(each, 0, []) for each in options])
    counts: dict[float, Counter[int]] = {t: Counter() for t in temperatures}
    draws = [batch.draw(mx.array([logits] * len(options))).tokens for _ in range(200)]
    mx.eval(draws)
    for step in draws:
        tokens: Any = step.tolist()
        for each, token in zip(options, tokens, strict=True):
            counts[each.temperature][token] += 1
    for temperature, count in counts.items():
        weights = [math.exp(x / temperature) for x in logits]
        wanted = [20 * 200 * weight / sum(weights) for weight in weights]
        chi2 = sum((count[at] - e) ** 2 / e for at, e in enumerate(wanted))
        assert chi2 < 20.5  # 5 degrees of freedom, one in a thousand; the seeds are fixed


def test_equal_seeds_at_equal_positions_are_mlxs_keys(mx: Any) -> None:
    row = mx.random.normal((1, 33), key=mx.random.key(4))
    for seed, position in ((0, 0), (7, 3), (2**53 - 1, 10**6)):
        batch = SamplerBatch([(Sampling(temperature=1.0, seed=seed), position, [])])
        noise = mx.random.gumbel((1, 33), key=mx.random.key(mix(seed, 2 * position)))
        assert batch.draw(row).tokens.item() == mx.argmax(row + noise).item()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("size", [3, 50, 2051])
def test_a_row_that_is_not_a_distribution_is_flagged_and_harms_no_other(
    mx: Any, size: int, dtype: str
) -> None:
    random_ = random.Random(size)
    options = [some_options(random_, size) for _ in range(10)]
    good = mx.random.normal((10, size), key=mx.random.key(size)).astype(getattr(mx, dtype))
    bad = mx.array(good)
    bad[1, random_.randrange(size)] = math.nan
    bad[4] = math.nan
    bad[6] = -math.inf
    bad[7, 1:] = -math.inf  # one token is left: that is a distribution
    bad[9, 0] = math.inf
    one, other = (SamplerBatch([(each, 0, [0, 1, 2]) for each in options]) for _ in range(2))
    for _ in range(3):
        calm, upset = one.draw(good), other.draw(bad)
        calm_scores, upset_scores = calm.read_scores(), upset.read_scores()
        assert all(calm.healthy.tolist())  # type: ignore[arg-type]
        healthy = [at not in (1, 4, 6, 9) for at in range(10)]
        assert upset.healthy.tolist() == healthy
        calm_tokens: Any = calm.tokens.tolist()
        upset_tokens: Any = upset.tokens.tolist()
        for at in range(10):
            if at in (1, 4, 6, 7, 9):
                assert upset_tokens[at] == 0
            else:
                assert upset_tokens[at] == calm_tokens[at]
                assert upset_scores.get(at) == calm_scores.get(at)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"top_p": math.nan},
        {"top_k": -1},
        {"min_p": -0.1},
        {"min_p": 1.5},
        {"xtc_probability": 2.0},
        {"xtc_threshold": math.nan},
        {"repetition_penalty": 0.0},
        {"presence_penalty": math.inf},
        {"frequency_penalty": math.nan},
        {"penalty_context": 0},
        {"logit_bias": {-1: 1.0}},
        {"logit_bias": {2**40: 1.0}},
        {"logit_bias": {1: math.nan}},
        {"logprobs": -1},
    ],
)
def test_an_illegal_option_is_refused_when_its_row_begins(mx: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        SamplerBatch([(Sampling(**options), 0, [1])])


def test_a_bias_beyond_the_vocabulary_never_reaches_memory(mx: Any) -> None:
    batch = SamplerBatch([(Sampling(logit_bias={5: 1.0}), 0, [1])])
    with pytest.raises(ValueError, match="token 5"):
        batch.draw(mx.zeros((1, 5)))
