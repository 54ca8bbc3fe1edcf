"""Generation over the pipe: texts and deltas, limits, stops, chat, infill, queue and progress."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host import Host, RpcError, joined, tokens_of
from tests.phases import wait_until

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def narrow(models: Path) -> Iterator[Host]:
    """An engine with one place and a queue of two."""
    with Host(
        *("--models-dir", str(models), "--model", "tiny"),
        *("--max-concurrent", "1", "--max-queued", "2", "--prefill-step", "16"),
    ) as host:
        host.call("models/load", model="tiny")
        yield host


def refusal(host: Host, method: str, **params: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        host.call(method, **params)
    return caught.value


def test_deltas_and_reply_agree(shared_host: Host) -> None:
    result, deltas = shared_host.stream(
        "generate", prompt="hello", maxTokens=20, streamToken="mine", ignoreEos=True
    )
    assert joined(deltas) == result["text"] != ""
    assert {delta["streamToken"] for delta in deltas} == {"mine"}
    assert {delta["channel"] for delta in deltas} == {"content"}
    assert len(tokens_of(deltas)) == 20
    assert result["model"] == "tiny"
    assert result["finishReason"] == "length"
    prompt = shared_host.call("tokenize", text="hello")["tokens"]
    assert result["usage"] == {
        "promptTokens": len(prompt),
        "completionTokens": 20,
        "cachedTokens": 0,
        "draftedTokens": 0,
        "acceptedTokens": 0,
    }
    timings = result["timings"]
    assert 0 <= timings["queueMs"] <= timings["firstTokenMs"] <= timings["totalMs"]
    assert timings["prefillMs"] + timings["loadMs"] <= timings["totalMs"]
    assert timings["tokensPerSecond"] > 0


def test_without_streaming_there_are_no_deltas(shared_host: Host) -> None:
    streamed, _ = shared_host.stream("generate", prompt="hello", maxTokens=9)
    request_id = shared_host.start("generate", prompt="hello", maxTokens=9, stream=False)
    assert shared_host.reply(request_id)["text"] == streamed["text"]
    shared_host.call("ping")
    assert shared_host.take_deltas(request_id) == []


def test_prompts_as_ids_and_as_text_are_the_same(shared_host: Host) -> None:
    ids = shared_host.call("tokenize", text="the quick brown")["tokens"]
    assert shared_host.call("detokenize", tokens=ids)["text"] == "the quick brown"
    texts = {
        shared_host.call("generate", prompt=prompt, maxTokens=12)["text"]
        for prompt in (ids, "the quick brown")
    }
    assert len(texts) == 1


def forced(host: Host, text: str) -> dict[str, Any]:
    """Parameters that make the model write a text of distinct tokens, again and again."""
    ids = host.call("tokenize", text=text)["tokens"]
    assert len(set(ids)) == len(ids)
    # The penalties make a token that was used less likely than those that were not.
    bias = {str(token): 5000.0 - 20 * at for at, token in enumerate(ids)}
    return {
        "prompt": "x",
        "maxTokens": len(ids),
        "logitBias": bias,
        "frequencyPenalty": 100,
        "presencePenalty": 100,
        "repetitionContext": 1000,
    }


def test_no_delta_cuts_a_character(shared_host: Host) -> None:
    for text in ("a🎉", "你", "é🎉b", "好 é"):
        result, deltas = shared_host.stream("generate", **forced(shared_host, text))
        assert result["text"] == text
        assert joined(deltas) == text
        assert all("\ufffd" not in delta["text"] for delta in deltas)


def test_text_comes_as_it_is_made(shared_host: Host) -> None:
    text = "abXYcdef"
    ids = shared_host.call("tokenize", text=text)["tokens"]
    _, deltas = shared_host.stream("generate", **forced(shared_host, text))
    pieces = [shared_host.call("detokenize", tokens=[token])["text"] for token in ids]
    assert len(pieces) > 3
    assert [delta["text"] for delta in deltas if delta["text"]] == pieces


def test_stop_string_that_tokens_split(shared_host: Host) -> None:
    ask = forced(shared_host, "abXYcdef")
    result, deltas = shared_host.stream("generate", **ask, stop=["cde", "XYc"])
    assert result["finishReason"] == "stop"
    assert joined(deltas) == result["text"] == "ab"
    result, deltas = shared_host.stream("generate", **ask, stop=["efg", "XX"])
    assert result["finishReason"] == "length"
    assert joined(deltas) == result["text"] == "abXYcdef"


def test_stop_tokens_and_end_tokens(shared_host: Host) -> None:
    ask = forced(shared_host, "abXYc")
    ids = shared_host.call("tokenize", text="abXYc")["tokens"]
    result, deltas = shared_host.stream("generate", **ask, stopTokens=[ids[2]])
    assert (result["text"], result["finishReason"]) == ("ab", "stop")
    assert tokens_of(deltas) == ids[:2]
    assert result["usage"]["completionTokens"] == 3
    end = {"prompt": "x", "maxTokens": 3, "logitBias": {"0": 1e4}}
    result = shared_host.call("generate", **end)
    assert (result["text"], result["finishReason"]) == ("", "stop")
    assert result["usage"]["completionTokens"] == 1
    result = shared_host.call("generate", **end, ignoreEos=True)
    assert (result["text"], result["finishReason"]) == ("", "length")


def test_the_end_of_the_context(shared_host: Host) -> None:
    context = 2048
    result = shared_host.call("generate", prompt=[5] * (context - 3), maxTokens=50, ignoreEos=True)
    assert result["finishReason"] == "length"
    assert result["usage"]["completionTokens"] == 3
    assert shared_host.call("generate", prompt=[5] * (context - 1), maxTokens=1)
    error = refusal(shared_host, "generate", prompt=[5] * context, maxTokens=1)
    assert (error.code, error.kind) == (1003, "contextLengthExceeded")
    assert error.data["promptTokens"] == error.data["contextLength"] == context


def test_chat_is_generate_on_the_template(shared_host: Host) -> None:
    applied = shared_host.call("applyTemplate", messages=HELLO)
    wanted = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert applied["prompt"] == wanted
    assert shared_host.call("detokenize", tokens=applied["tokens"])["text"] == wanted
    asked = {"maxTokens": 10, "cachePrompt": False}
    chat, deltas = shared_host.stream("chat", messages=HELLO, **asked)
    plain = shared_host.call("generate", prompt=applied["tokens"], **asked)
    assert chat["message"] == {"role": "assistant", "content": plain["text"]}
    assert joined(deltas) == plain["text"]
    assert chat["usage"] == plain["usage"]
    parts = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}],
        }
    ]
    assert shared_host.call("applyTemplate", messages=parts)["prompt"] == wanted
    bare = shared_host.call("applyTemplate", messages=HELLO, addGenerationPrompt=False)["prompt"]
    assert wanted == bare + "<|im_start|>assistant\n"


def test_infill(shared_host: Host, models: Path, tmp_path: Path) -> None:
    words = {
        name: shared_host.call("tokenize", text=f"<|fim_{name}|>")["tokens"]
        for name in ("prefix", "suffix", "middle")
    }
    assert all(len(ids) == 1 for ids in words.values())
    before, after = (
        shared_host.call("tokenize", text=text)["tokens"] for text in ("def f(", "return")
    )
    prompt = words["prefix"] + before + words["suffix"] + after + words["middle"]
    infill = shared_host.call("infill", prefix="def f(", suffix="return", maxTokens=8)
    plain = shared_host.call("generate", prompt=prompt, maxTokens=8, stopTokens=[3, 4, 5, 0])
    assert infill["text"] == plain["text"]
    assert infill["usage"]["promptTokens"] == len(prompt)
    shutil.copytree(models / "tiny", tmp_path / "nofim")
    file = tmp_path / "nofim" / "tokenizer.json"
    file.write_text(file.read_text().replace("fim_", "mif_"))
    error = refusal(shared_host, "infill", model=str(tmp_path / "nofim"), prefix="a", suffix="b")
    assert (error.code, error.kind) == (1006, "unsupported")
    shared_host.call("models/unload", model=str(tmp_path / "nofim"))


def test_requests_make_progress_together(shared_host: Host) -> None:
    ids = [
        shared_host.start(
            "generate", prompt="hello", maxTokens=120, ignoreEos=True, seed=n, temperature=1
        )
        for n in range(4)
    ]
    results = {request_id: shared_host.reply(request_id) for request_id in ids}
    order = [
        (message["params"]["requestId"] if "method" in message else None, message.get("id"))
        for message in map(json.loads, shared_host.lines)
        if message.get("method") == "stream/delta" or message.get("id") in ids
    ]
    first_reply = next(at for at, (_, replied) in enumerate(order) if replied in ids)
    assert {who for who, _ in order[:first_reply]} >= set(ids)
    for request_id, result in results.items():
        assert joined(shared_host.take_deltas(request_id)) == result["text"]


def test_interactive_goes_before_background(narrow: Host) -> None:
    running = narrow.start("generate", prompt="a", maxTokens=400, ignoreEos=True, stream=False)
    wait_until(lambda: narrow.call("engine/status")["requests"]["running"])
    background = narrow.start("generate", prompt="b", maxTokens=2, priority="background")
    interactive = narrow.start("generate", prompt="c", maxTokens=2, priority="interactive")
    for request_id in (running, background, interactive):
        narrow.reply(request_id)
    replies = [message["id"] for message in map(json.loads, narrow.lines) if "id" in message]
    assert replies[-3:] == [running, interactive, background]


def test_overload_and_the_queue(narrow: Host) -> None:
    ids = [narrow.start("generate", prompt="a", maxTokens=600, ignoreEos=True, stream=False)]
    ids += [narrow.start("generate", prompt="a", maxTokens=3) for _ in range(2)]
    error = refusal(narrow, "generate", prompt="a", maxTokens=3)
    assert (error.code, error.kind) == (1004, "overloaded")
    assert error.data["retryAfterMs"] > 0
    for request_id in ids:
        narrow.reply(request_id)
    last = [row for row in narrow.take("$/progress", ids[-1]) if row["phase"] == "queued"]
    assert [(row["completed"], row["total"], row["unit"]) for row in last] == [
        (0, 2, "requests"),
        (1, 2, "requests"),
    ]
    assert narrow.call("generate", prompt="a", maxTokens=3)


def test_prefill_progress(narrow: Host) -> None:
    request_id = narrow.start("generate", prompt=[7] * 2000, maxTokens=2, streamToken=5)
    narrow.reply(request_id)
    rows = [row for row in narrow.take("$/progress", request_id) if row["phase"] == "prefill"]
    completed = [row["completed"] for row in rows]
    assert len(completed) > 1
    assert completed == sorted(set(completed))
    told = {(row["total"], row["unit"], row["streamToken"]) for row in rows}
    assert told == {(2000, "tokens", 5)}
    assert completed[-1] <= 2000
