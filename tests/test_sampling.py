"""From logits to a token: the filters, the penalties, the seeds and the log probabilities.

Tests that import MLX into the tests' own process, for what the wire cannot show; and what it can.
`test_batch_sampling.py` has the rows in company.
"""

from __future__ import annotations

import json
import math
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_stdio.engine.filters import keep_min_p, keep_top_k, keep_top_p
from mlx_stdio.engine.randomness import mix
from mlx_stdio.engine.sampling import SamplerBatch, Sampling
from mlx_stdio.models import lean
from tests.host import Host, joined, tokens_of


def some_logits(seed: int, size: int = 50) -> list[float]:
    random_ = random.Random(seed)
    return [random_.gauss(0, 2) for _ in range(size)]


def softmax(logits: list[float]) -> list[float]:
    weights = [math.exp(x - max(logits)) for x in logits]
    return [weight / sum(weights) for weight in weights]


def alone(prompt: list[int] | None = None, /, **options: Any) -> SamplerBatch:
    return SamplerBatch([(Sampling(**options), 0, prompt or [])])


def kept(mx: Any, filtered: Any) -> set[int]:
    return {at for at, value in enumerate(filtered.tolist()[0]) if value > -math.inf}


@pytest.mark.parametrize("seed", range(8))
def test_filters_keep_exactly_the_right_set(mx: Any, seed: int) -> None:
    probabilities = softmax(some_logits(seed))
    logprobs = mx.log(mx.array([probabilities]))
    ranked = sorted(range(50), key=lambda at: -probabilities[at])
    for k in (1, 2, 17, 49):
        assert kept(mx, keep_top_k(logprobs, k)) == set(ranked[:k])
    for p in (0.01, 0.3, 0.9, 0.999):
        nucleus: set[int] = set()
        for at in ranked:
            nucleus.add(at)
            if sum(probabilities[i] for i in nucleus) > p:
                break
        assert kept(mx, keep_top_p(logprobs, p)) == nucleus
    for p in (0.01, 0.2, 0.7, 1.0):
        wanted = {at for at in ranked if probabilities[at] >= p * probabilities[ranked[0]] * 0.9999}
        assert kept(mx, keep_min_p(logprobs, p)) == wanted
    # A filter after a filter sees minus infinities.
    assert kept(mx, keep_top_k(keep_top_p(logprobs, 0.3), 49)) == kept(
        mx, keep_top_p(logprobs, 0.3)
    )


@pytest.mark.parametrize("seed", range(6))
def test_penalties_and_bias_are_mlx_lms(mx: Any, seed: int) -> None:
    from mlx_lm.sample_utils import make_logits_processors

    random_ = random.Random(seed)
    prompt = [random_.randrange(50) for _ in range(random_.randrange(1, 40))]
    bias = {random_.randrange(50): random_.uniform(-9, 9) for _ in range(3)}
    repetition, presence, frequency = (
        random_.choice([1.0, 0.7, 1.8]),
        random_.choice([0.0, 0.5, -1.0]),
        random_.choice([0.0, 1.5]),
    )
    context = random_.choice([1, 5, 20])
    processors = make_logits_processors(
        bias, repetition, context, presence, context, frequency, context
    )
    sampler = alone(
        prompt,
        logit_bias=bias,
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
        penalty_context=context,
    )
    tokens = list(prompt)
    for step in range(10):
        logits = mx.array([some_logits(100 * seed + step)])
        expected = mx.array(logits)
        for processor in processors:
            expected = processor(mx.array(tokens), expected)
        token: Any = sampler.draw(logits).tokens.item()
        assert token == mx.argmax(expected, axis=-1).item()
        tokens.append(token)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_distribution(mx: Any, temperature: float, dtype: str) -> None:
    logits = [0.0, 1.0, 2.0, -1.0, 0.5, -3.0]
    row = mx.array([logits]).astype(getattr(mx, dtype))
    draws = 4000
    sampler = alone(temperature=temperature, seed=11)
    drawn = [sampler.draw(row).tokens for _ in range(draws)]
    mx.eval(drawn)
    counts = Counter(token.item() for token in drawn)
    wanted = [p * draws for p in softmax([x / temperature for x in logits])]
    chi2 = sum((counts[at] - e) ** 2 / e for at, e in enumerate(wanted) if e > 0)
    assert chi2 < 20.5  # 5 degrees of freedom, one in a thousand; the seed is fixed


def test_extreme_temperatures_are_harmless(mx: Any) -> None:
    row = mx.array([some_logits(3)])
    best = mx.argmax(row, axis=-1).item()
    for temperature in (1e-300, 1e-40, 1e-9):
        sampler = alone(temperature=temperature, seed=1)
        assert {sampler.draw(row).tokens.item() for _ in range(5)} == {best}
    for temperature in (100.0, 1e300):
        hot = alone(temperature=temperature, top_k=2, seed=1)
        assert {hot.draw(row).tokens.item() for _ in range(40)} == kept(mx, keep_top_k(row, 2))


def test_xtc_leaves_only_the_least_likely_of_the_likely(mx: Any) -> None:
    row = mx.log(mx.array([[0.4, 0.3, 0.2, 0.06, 0.04]]))
    always = alone(temperature=1.0, xtc_probability=1.0, seed=5)
    drawn = {always.draw(row).tokens.item() for _ in range(200)}
    assert drawn == {2, 3, 4}
    sometimes = alone(temperature=1.0, xtc_probability=0.5, seed=5)
    assert {sometimes.draw(row).tokens.item() for _ in range(200)} == {0, 1, 2, 3, 4}


def test_scores_are_the_log_probabilities_before_bias(mx: Any) -> None:
    logits = some_logits(9)
    expected = [math.log(p) for p in softmax(logits)]
    draws = alone(logprobs=50, logit_bias={7: 100.0}).draw(mx.array([logits]))
    own, top = draws.read_scores()[0]
    assert draws.tokens.item() == 7
    assert own == pytest.approx(expected[7], abs=1e-4)
    assert [at for at, _ in top] == sorted(range(50), key=lambda at: -expected[at])
    assert sum(math.exp(value) for _, value in top) == pytest.approx(1, abs=1e-4)
    zero = mx.array([[0.0, -math.inf]])
    assert alone(logprobs=0).draw(zero).read_scores() == {0: (0.0, [])}
    assert alone(logprobs=9).draw(zero).read_scores() == {0: (0.0, [(0, 0.0), (1, -9999.0)])}
    assert alone().draw(zero).read_scores() == {}


def test_keys_differ_by_seed_and_position() -> None:
    keys = {mix(seed, counter) for seed in range(64) for counter in range(64)}
    assert len(keys) == 64 * 64
    assert all(0 <= key < 2**64 for key in keys)


# Over the pipe.

HOT: dict[str, Any] = {"prompt": "the quick", "maxTokens": 16, "temperature": 1.5}


def test_same_seed_same_text_alone_and_in_company(shared_host: Host) -> None:
    alone, deltas = shared_host.stream("generate", **HOT, topP=0.95, topK=40, seed=7)
    assert alone["seed"] == 7
    others = [shared_host.start("generate", **HOT, seed=100 + n) for n in range(3)]
    again = shared_host.start("generate", **HOT, topP=0.95, topK=40, seed=7)
    others += [shared_host.start("generate", **HOT, seed=200 + n) for n in range(3)]
    texts = {shared_host.reply(other)["text"] for other in others}
    assert len(texts) == 6
    assert shared_host.reply(again)["text"] == alone["text"]
    assert tokens_of(shared_host.take_deltas(again)) == tokens_of(deltas)


def test_a_seed_that_was_not_given_is_reported_and_reproduces(shared_host: Host) -> None:
    first = shared_host.call("generate", **HOT)
    second = shared_host.call("generate", **HOT)
    assert first["seed"] != second["seed"]
    assert first["text"] != second["text"]
    assert shared_host.call("generate", **HOT, seed=first["seed"])["text"] == first["text"]
    largest = shared_host.call("generate", **HOT, seed=2**53 - 1)
    assert largest["seed"] == 2**53 - 1


def test_switched_off_filters_change_nothing(shared_host: Host) -> None:
    plain = shared_host.call("generate", **HOT, seed=3)["text"]
    off = {"topK": 0, "topP": 1.0, "minP": 0.0, "xtcProbability": 0.0, "repetitionPenalty": 1.0}
    assert shared_host.call("generate", **HOT, seed=3, **off)["text"] == plain
    greedy = shared_host.call("generate", **{**HOT, "temperature": 0})["text"]
    assert shared_host.call("generate", **HOT, seed=3, topK=1)["text"] == greedy
    assert shared_host.call("generate", **HOT, seed=3, minP=1.0)["text"] == greedy


def test_logprobs_of_greedy_tokens(shared_host: Host) -> None:
    result, deltas = shared_host.stream("generate", prompt="hello", maxTokens=12, logprobs=3)
    rows = result["logprobs"]
    assert rows == [row for delta in deltas for row in delta["logprobs"]]
    assert [row["token"] for row in rows] == tokens_of(deltas)
    for row in rows:
        assert row["token"] == row["top"][0]["token"]
        assert row["logprob"] == row["top"][0]["logprob"] <= 0
        values = [each["logprob"] for each in row["top"]]
        assert len(values) == 3
        assert values == sorted(values, reverse=True)
        assert sum(map(math.exp, values)) <= 1.0001
    assert "logprobs" not in shared_host.call("generate", prompt="hello", maxTokens=2)
    bare = shared_host.call("generate", prompt="hello", maxTokens=2, logprobs=0)["logprobs"]
    assert [row["top"] for row in bare] == [[], []]


def test_logprobs_are_those_of_the_model(mx: Any, shared_host: Host, models: Path) -> None:
    model, _ = lean.load_model_function()(models / "tiny")
    prompt = [9, 8, 7, 60, 61]
    rows = shared_host.call("generate", prompt=prompt, maxTokens=6, logprobs=5)["logprobs"]
    logits = model(mx.array([prompt + [row["token"] for row in rows]]))[0]
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    for at, row in enumerate(rows):
        here = logprobs[len(prompt) - 1 + at].tolist()
        assert row["logprob"] == pytest.approx(here[row["token"]], abs=1e-3)
        for each in row["top"]:
            assert each["logprob"] == pytest.approx(here[each["token"]], abs=1e-3)


def test_logit_bias_and_penalties_reach_the_model(shared_host: Host) -> None:
    forced, deltas = shared_host.stream("generate", prompt="a", maxTokens=4, logitBias={"77": 1e4})
    assert tokens_of(deltas) == [77] * 4
    result, deltas = shared_host.stream(
        "generate", prompt="a", maxTokens=24, frequencyPenalty=100, repetitionContext=64
    )
    assert len(set(tokens_of(deltas))) == result["usage"]["completionTokens"]
    assert joined(deltas) == result["text"]
    assert forced["finishReason"] == "length"


# The model's own defaults.


@pytest.fixture(scope="module")
def defaults(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("defaults")
    configs: dict[str, dict[str, Any]] = {
        "hot": {"do_sample": True, "temperature": 2.0, "top_k": 5, "top_p": 0.99},
        "greedy": {"do_sample": False, "temperature": 2.0},
        "wide": {"do_sample": True, "top_k": 1_000_000},
    }
    for name, config in configs.items():
        shutil.copytree(models / "tiny", folder / name)
        (folder / name / "generation_config.json").write_text(json.dumps(config))
    with Host("--models-dir", str(folder)) as host:
        yield host


def test_generation_config_gives_the_defaults(defaults: Host) -> None:
    ask = {"prompt": "the quick", "maxTokens": 16, "seed": 3}
    greedy = defaults.call("generate", model="greedy", **ask)["text"]
    hot = defaults.call("generate", model="hot", **ask)["text"]
    assert hot != greedy
    explicit = {"temperature": 2.0, "topK": 5, "topP": 0.99}
    assert defaults.call("generate", model="greedy", **ask, **explicit)["text"] == hot
    assert defaults.call("generate", model="hot", **ask, temperature=0)["text"] == greedy
    # A model's own `top_k` beyond its vocabulary means all.
    wide = defaults.call("generate", model="wide", **ask)["text"]
    assert wide == defaults.call("generate", model="greedy", **ask, temperature=1.0)["text"]
