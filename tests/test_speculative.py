"""Speculation changes nothing but the time it takes: the same tokens, text, deltas and log
probabilities as without it, for every option, whoever proposes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host import Host, joined
from tests.residents import copy_model

WAYS: dict[str, dict[str, Any]] = {
    "another model": {"draftModel": "other"},
    "the model itself": {"draftModel": "tiny", "numDraftTokens": 5},
    "its like": {"draftModel": "same", "numDraftTokens": 7},
    "look-up": {"numDraftTokens": 4},
}
REPETITIVE = "the quick brown fox the quick brown fox the quick brown fox the quick"
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "repetitive": {"prompt": REPETITIVE, "maxTokens": 60},
    "sampled": {"temperature": 1.0, "seed": 3},
    "hot": {"temperature": 4.0, "seed": 11, "maxTokens": 40},
    "top-p": {"temperature": 0.9, "topP": 0.8, "seed": 4},
    "top-k": {"temperature": 1.5, "topK": 7, "seed": 5},
    "min-p": {"temperature": 1.2, "minP": 0.05, "seed": 6},
    "xtc": {"temperature": 1.0, "xtcProbability": 0.6, "xtcThreshold": 0.05, "seed": 7},
    "repetition": {"repetitionPenalty": 1.4, "repetitionContext": 5, "prompt": REPETITIVE},
    "presence": {"presencePenalty": 1.5, "temperature": 0.7, "seed": 8},
    "frequency": {"frequencyPenalty": 0.8, "prompt": REPETITIVE, "maxTokens": 40},
    "bias": {"logitBias": {"70": 6.0, "71": 5.5}, "temperature": 1.0, "seed": 9},
    "logprobs": {"logprobs": 3, "prompt": REPETITIVE, "maxTokens": 40},
    "logprobs of penalised": {"logprobs": 0, "frequencyPenalty": 0.3, "temperature": 1, "seed": 1},
    "ends": {"ignoreEos": False, "logitBias": {"0": 3.0}, "temperature": 1.0, "seed": 12},
    "past its ends": {"logitBias": {"0": 4.0}, "temperature": 1.0, "seed": 12},
    "not streamed": {"stream": False, "prompt": REPETITIVE},
    "one token": {"maxTokens": 1},
    "two tokens": {"maxTokens": 2},
    "three tokens": {"maxTokens": 3},
    "one at once": {"numDraftTokens": 1, "prompt": REPETITIVE},
    "many at once": {"numDraftTokens": 64, "prompt": REPETITIVE, "maxTokens": 40},
    "a prompt of one token": {"prompt": [65]},
    "a prompt of two": {"prompt": [65, 65]},
    "the context's end": {"prompt": [66, 67, 68] * 681, "maxTokens": 40},
    "quantised": {"kvBits": 8, "model": "wide", "prompt": REPETITIVE},
    "bounded, not reached": {"maxKvSize": 128},
    "nothing kept": {"cachePrompt": False},
}


@pytest.fixture(scope="module")
def host(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    from tests.random_models import make_model

    folder = tmp_path_factory.mktemp("speculative")
    for name, source in (("tiny", "tiny"), ("other", "other"), ("same", "tiny")):
        copy_model(models / source, folder / name)
    # Heads wide enough to be quantised.
    make_model(folder / "wide", "llama", seed=5, num_attention_heads=2, num_key_value_heads=1)
    with Host("--models-dir", str(folder), "--model", "tiny", "--max-models", "9") as host:
        yield host


def ask(host: Host, **params: Any) -> dict[str, Any]:
    """All that a host sees of an answer, but the times and `usage` of speculation."""
    params = {"prompt": "def add(a, b):", "maxTokens": 24, "ignoreEos": True, **params}
    result, deltas = host.stream("generate", **params)
    usage = result["usage"]
    accepted, drafted = usage["acceptedTokens"], usage["draftedTokens"]
    assert 0 <= accepted <= min(drafted, usage["completionTokens"])
    if deltas:
        assert joined(deltas) == result["text"]
    return {
        "text": result["text"],
        "reason": result["finishReason"],
        "count": usage["completionTokens"],
        "prompt": usage["promptTokens"],
        "seed": result["seed"] if "seed" in params else None,
        "tokens": [token for delta in deltas for token in delta["tokens"]],
        "pieces": [delta["text"] for delta in deltas],
        "scores": result.get("logprobs"),
        "delta scores": [score for delta in deltas for score in delta.get("logprobs") or ()],
        "usage": (accepted, drafted),
    }


def same(speculated: dict[str, Any], plain: dict[str, Any]) -> None:
    """The same but for the last bits of a log probability and how deltas were put together."""
    assert speculated["tokens"] == plain["tokens"]
    for name in ("text", "reason", "count", "prompt", "seed"):
        assert speculated[name] == plain[name]
    for name in ("scores", "delta scores"):
        rows, wanted = speculated[name] or [], plain[name] or []
        assert [row["token"] for row in rows] == [row["token"] for row in wanted]
        for row, other in zip(rows, wanted, strict=True):
            assert row["logprob"] == pytest.approx(other["logprob"], abs=1e-3)
            assert [top["token"] for top in row["top"]] == [top["token"] for top in other["top"]]
            for top, likely in zip(row["top"], other["top"], strict=True):
                assert top["logprob"] == pytest.approx(likely["logprob"], abs=1e-3)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_gives_what_it_gives_without(host: Host, options: dict[str, Any]) -> None:
    more = {name: value for name, value in options.items() if name != "numDraftTokens"}
    plain = ask(host, **more)
    assert plain["usage"] == (0, 0)
    for way in WAYS.values():
        same(ask(host, **{**way, **options}), plain)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_an_end_in_the_middle_of_accepted_tokens(host: Host, way: dict[str, Any]) -> None:
    """By a stop token, a stop string split over tokens, or the number of tokens, at each place."""
    whole = ask(host, prompt=REPETITIVE, maxTokens=16)
    for at in range(2, 16):
        token, text = whole["tokens"][at], "".join(whole["pieces"])
        begin = len(text) * at // 16
        for more in (
            {"stopTokens": [token]},
            {"stop": [text[begin : begin + 3]]},
            {"maxTokens": at},
        ):
            params = {"prompt": REPETITIVE, "maxTokens": 16, **more}
            plain = ask(host, **params)
            same(ask(host, **params, **way), plain)
            assert plain["count"] <= 16


def test_a_model_agrees_with_itself(host: Host) -> None:
    """Greedy and sampled: a draft model draws with the randomness of its model."""
    for more in ({}, {"temperature": 1.0, "seed": 2}, {"temperature": 1.0, "topP": 0.9, "seed": 5}):
        for model in ("tiny", "same"):
            accepted, drafted = ask(host, draftModel=model, numDraftTokens=4, maxTokens=41, **more)[
                "usage"
            ]
            # Passes of four proposals and one token more, the last one of none.
            assert (accepted, drafted) == (32, 32)


def test_another_model_agrees_less(host: Host) -> None:
    accepted, drafted = ask(host, draftModel="other", maxTokens=60)["usage"]
    assert drafted > 100
    assert accepted < drafted / 2


def test_what_repeats_is_looked_up(host: Host) -> None:
    """A bias makes the model itself repeat; then most of the text comes from proposals."""
    bias = {"logitBias": {"70": 40.0}, "maxTokens": 60}
    answer = ask(host, prompt=[70] * 8, numDraftTokens=8, **bias)
    assert answer["tokens"] == [70] * 60
    accepted, drafted = answer["usage"]
    assert accepted == drafted >= 50
    # The same where the text gives nothing at first, and decoding was pipelined until it did.
    answer = ask(host, prompt=[80, 81, 82], numDraftTokens=8, **bias)
    assert answer["tokens"] == [70] * 60
    assert answer["usage"][0] == answer["usage"][1] >= 45


def test_nothing_is_proposed_where_nothing_repeats(host: Host) -> None:
    """Prompt look-up in a text whose tokens all differ: as many passes as tokens."""
    answer = ask(host, prompt=[90], maxTokens=8, numDraftTokens=4, presencePenalty=100)
    assert len(set(answer["tokens"])) == 8
    assert answer["usage"] == (0, 0)


def test_what_it_leaves_in_the_prefix_cache_is_right(host: Host) -> None:
    prompt = [100 + at * 7 % 150 for at in range(300)]
    params = {"prompt": prompt, "maxTokens": 12, "ignoreEos": True, "draftModel": "other"}
    first = host.call("generate", **params)
    second = host.call("generate", **params)
    assert first["text"] == second["text"]
    assert first["usage"]["cachedTokens"] == 0
    assert second["usage"]["cachedTokens"] == len(prompt) - 1
    # What speculation leaves behind is as good as any: with the answer in it, right to its end.
    tokens = ask(host, prompt=prompt, maxTokens=12)["tokens"]
    longer = [*prompt, *tokens, 77]
    found = host.call("generate", prompt=longer, maxTokens=8, ignoreEos=True)
    fresh = host.call("generate", prompt=longer, maxTokens=8, ignoreEos=True, cachePrompt=False)
    assert found["usage"]["cachedTokens"] >= len(prompt) + 11
    assert found["text"] == fresh["text"]
