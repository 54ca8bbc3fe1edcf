"""The prefix cache as a host sees it: what is reused, by whom, for how long, and that no token
changes by it, whatever the model's cache is made of.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.host import Host, RpcError, run_python
from tests.phases import told, wait_until
from tests.random_models import ARCHITECTURES
from tests.residents import memory

# One process makes all models: importing `mlx_lm` costs more than any. Messages end with token 2.
SCRIPT = """
from tests.random_models import ARCHITECTURES, _make
import json, sys
folder = sys.argv[1]
for name in ARCHITECTURES:
    _make(f"{folder}/{name}", name, 5, {"eos_token_id": [0, 2]})
_make(f"{folder}/other", "llama", 6, {"eos_token_id": [0, 2]})
_make(f"{folder}/heads", "llama", 7, {"hidden_size": 128})
_make(f"{folder}/large", "llama", 8, {"hidden_size": 256, "head_dim": 64, "num_hidden_layers": 4})
print(json.dumps(None))
"""
CHECKPOINTS = ("gemma3_text", "mamba2", "qwen3_next")
"""What their caches have seen cannot be taken back: they are reused at message borders only."""
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ARCHITECTURES},
    "kvBits": ("heads", {"kvBits": 8}),
    "maxKvSize": ("heads", {"maxKvSize": 400}),
}
VOCABULARY = 300
X = 93
"""The token of the letter x. An answer of nothing else is tokenized in a chat as it was drawn."""
ONLY_X: dict[str, Any] = {"logitBias": {str(X): 1000.0}}

LONG = "Answer in one short sentence, as a pirate would, and never mention the sea. " * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prefixes")
    run_python("-c", SCRIPT, str(folder))
    return folder


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Host]:
    """One engine for the tests that tell their prompts apart by a beginning of their own."""
    with Host(
        *("--models-dir", str(folder), "--model", "llama"),
        *("--max-models", "16", "--prefill-step", "128"),
    ) as host:
        yield host


@pytest.fixture
def fresh(folder: Path) -> Iterator[Host]:
    with Host("--models-dir", str(folder), "--model", "llama", "--max-models", "16") as host:
        yield host


def some_tokens(seed: Any, count: int) -> list[int]:
    chance = random.Random(str(seed))
    return [chance.randrange(3, VOCABULARY) for _ in range(count)]


def ask(host: Host, prompt: list[int], tokens: int = 1, **more: Any) -> int:
    """Generate; how many tokens of the prompt came from the prefix cache."""
    options = {"maxTokens": tokens, "ignoreEos": True, **more}
    cached: int = host.call("generate", prompt=prompt, **options)["usage"]["cachedTokens"]
    return cached


def talk(host: Host, *contents: str, **more: Any) -> dict[str, Any]:
    """A chat that begins with a system message; the result."""
    roles = ["system", *["user", "assistant"] * len(contents)]
    messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
    result: dict[str, Any] = host.call("chat", messages=messages, **{"maxTokens": 8, **more})
    return result


# What is found.


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_second_turn_of_a_chat_finds_the_first_and_its_answer(
    engine: Host, architecture: str
) -> None:
    options = {**ONLY_X, "model": architecture, "maxTokens": 70}
    first = talk(engine, LONG, "one", **options)
    answer = first["message"]["content"]
    assert answer == "x" * 70
    asked = first["usage"]["promptTokens"]
    second = talk(engine, LONG, "one", answer, "two", **options)
    # The last token of an answer is never read.
    assert second["usage"]["cachedTokens"] == asked + 69
    third = talk(engine, LONG, "one", answer, "two", answer, "three", **options)
    assert third["usage"]["cachedTokens"] == second["usage"]["promptTokens"] + 69


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_answer_that_ended_by_itself_is_found_with_its_end(
    engine: Host, architecture: str
) -> None:
    options = {"model": architecture, "maxTokens": 1, "logitBias": {"2": 1000.0}}
    system = f"Be brief. {LONG}"
    first = talk(engine, system, "one", **options)
    assert first["finishReason"] == "stop"
    second = talk(engine, system, "one", "", "two", **options)
    assert second["usage"]["cachedTokens"] >= first["usage"]["promptTokens"] - 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_two_chats_share_a_system_prompt(engine: Host, architecture: str) -> None:
    system = f"Shared. {LONG}"
    engine.call("models/load", model=architecture)
    begin = engine.call(
        "applyTemplate", model=architecture, messages=[{"role": "system", "content": system}],
        addGenerationPrompt=False,
    )  # fmt: skip
    shared = begin["tokens"].index(2) + 1
    first = talk(engine, system, "a" * 80, model=architecture)
    second = talk(engine, system, "b" * 80, model=architecture)
    third = talk(engine, system, "c" * 80, model=architecture)
    assert first["usage"]["cachedTokens"] < 20
    for later in (second, third):
        cached = later["usage"]["cachedTokens"]
        assert cached == shared if architecture in CHECKPOINTS else shared <= cached < shared + 20


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_repeat_a_part_and_a_fork(engine: Host, architecture: str) -> None:
    prompt = some_tokens("repeat", 200)
    model: dict[str, Any] = {"model": architecture}
    assert ask(engine, prompt, 8, **model) == 0
    assert ask(engine, prompt, **model) == 199
    assert ask(engine, [*prompt, 7, 7], **model) in (199, 200)
    fork = [*prompt[:150], *some_tokens("fork", 90)]
    other = [*prompt[:150], *some_tokens("other", 90)]
    found = [ask(engine, one, **model) for one in (prompt[:100], fork, other)]
    if architecture in CHECKPOINTS:
        assert found == [0, 100, 100]  # what the part has left, as a whole
    else:
        assert found == [99, 150, 150]
    # Neither fork has displaced the other, or the first.
    assert [ask(engine, one, **model) for one in (fork, other, prompt)] == [239, 239, 199]


@pytest.mark.parametrize("architecture", ["llama", "mamba2"])
def test_requests_that_come_together_read_a_prompt_once(folder: Path, architecture: str) -> None:
    options: dict[str, Any] = {"model": architecture, "maxTokens": 4, "ignoreEos": True}
    with Host("--models-dir", str(folder), "--prefill-step", "32") as host:
        host.call("models/load", model=architecture)
        prompt = some_tokens("together", 600)
        ids = [host.start("generate", prompt=prompt, **options) for _ in range(4)]
        cached = sorted(host.reply(one)["usage"]["cachedTokens"] for one in ids)
        assert cached[0] == 0
        # Each of the others got a chunk or two before the first one had read everything.
        assert cached[1] >= 599 - 3 * 32


def test_an_editor_that_cancels_on_each_key(engine: Host) -> None:
    """What was read for a request that was cancelled, or out of time, serves the next one."""
    prompt = some_tokens("keys", 400)
    options: dict[str, Any] = {"maxTokens": 1000, "ignoreEos": True}
    for length in range(400, 430, 6):
        prompt += some_tokens(length, 6)
        request_id = engine.start("generate", prompt=prompt, **options)
        wait_until(partial(told, engine, "stream/delta", request_id))
        engine.cancel(request_id)
        with pytest.raises(RpcError, match="cancelled"):
            engine.reply(request_id)
        assert ask(engine, [*prompt, 5]) >= len(prompt)
    with pytest.raises(RpcError) as timeout:
        engine.call("generate", prompt=some_tokens("late", 90), timeoutMs=150, **options)
    assert timeout.value.kind == "deadlineExceeded"
    assert ask(engine, [*some_tokens("late", 90), 5]) >= 89


def test_a_prompt_that_was_cancelled_while_it_was_read(engine: Host) -> None:
    prompt = some_tokens("half", 1900)
    engine.call("models/load", model="large")
    request_id = engine.start("generate", model="large", prompt=prompt, maxTokens=1)
    wait_until(lambda: any(p["phase"] == "prefill" for p in told(engine, "$/progress", request_id)))
    engine.cancel(request_id)
    with pytest.raises(RpcError):
        engine.reply(request_id)
    assert ask(engine, prompt, model="large") >= 64


# What is not.


def test_what_is_not_shared(fresh: Host) -> None:
    prompt = some_tokens("apart", 120)
    options: list[dict[str, Any]] = [
        {"model": "heads"},
        {"model": "heads", "kvBits": 8},
        {"model": "heads", "kvBits": 4},
        {"model": "heads", "maxKvSize": 200},
        {"model": "heads", "maxKvSize": 201},
        {"model": "llama"},
        {"model": "other"},
    ]
    assert [ask(fresh, prompt, **one) for one in options] == [0] * 7
    assert [ask(fresh, prompt, **one) for one in options] == [119] * 7


def test_a_request_without_the_cache_neither_uses_nor_leaves_anything(fresh: Host) -> None:
    prompt = some_tokens("private", 200)
    assert ask(fresh, prompt, 8, cachePrompt=False) == 0
    cancelled = fresh.start("generate", prompt=prompt, maxTokens=1000, cachePrompt=False)
    wait_until(lambda: told(fresh, "stream/delta", cancelled))
    fresh.cancel(cancelled)
    with pytest.raises(RpcError):
        fresh.reply(cancelled)
    assert memory(fresh)["prefixCacheBytes"] == 0
    assert ask(fresh, prompt) == 0
    assert ask(fresh, prompt, cachePrompt=False) == 0
    assert ask(fresh, prompt) == 199


# Memory.


def settled(host: Host) -> dict[str, int]:
    """The figures once nothing runs: a row's last step may end after its reply."""
    wait_until(lambda: memory(host)["kvBytes"] == 0)
    return memory(host)


def test_memory_is_weights_and_prefixes(fresh: Host) -> None:
    """Entries hold no buffer of a batch that is gone; hits, misses and cancels leave nothing."""
    chance = random.Random(3)
    prompts = [some_tokens(("memory", at), 700) for at in range(3)]
    fresh.call("models/load", model="large")
    for _ in range(3):
        ids = []
        for _ in range(8):
            old = chance.choice(prompts)
            prompt = [*old[: chance.randint(300, 700)], *some_tokens(chance.random(), 60)]
            options = {"maxTokens": chance.randint(1, 30), "ignoreEos": True}
            ids.append(fresh.start("generate", model="large", prompt=prompt, **options))
        fresh.cancel(ids[3])
        for one in ids[:3] + ids[4:]:
            fresh.reply(one)
        figures = settled(fresh)
        known = figures["weightsBytes"] + figures["prefixCacheBytes"]
        assert figures["prefixCacheBytes"] > 10e6
        assert figures["activeBytes"] == pytest.approx(known, rel=0.05)
    with_prefixes = figures
    fresh.call("models/unload", model="large")
    figures = settled(fresh)
    assert figures["prefixCacheBytes"] == 0
    assert figures["activeBytes"] < 0.05 * with_prefixes["activeBytes"]


def test_unloading_a_model_drops_its_prefixes_only(fresh: Host) -> None:
    prompt = some_tokens("unload", 200)
    ask(fresh, prompt, model="llama")
    alone = settled(fresh)["prefixCacheBytes"]
    ask(fresh, prompt, model="other")
    assert settled(fresh)["prefixCacheBytes"] == 2 * alone
    fresh.call("models/unload", model="llama")
    assert settled(fresh)["prefixCacheBytes"] == alone
    assert ask(fresh, prompt, model="other") == 199
    assert ask(fresh, prompt, model="llama") == 0


def test_the_least_recently_used_goes_first(folder: Path) -> None:
    def prompt(at: int) -> list[int]:
        return some_tokens(("lru", at), 200)

    # 2 layers, keys and values, 2 heads of 16 numbers, for 256 tokens.
    size = 2 * 2 * 2 * 16 * 4 * 256
    with Host(
        *("--models-dir", str(folder), "--model", "llama"), "--prefix-cache-limit", str(3 * size)
    ) as host:
        for at in (1, 2, 3):
            assert ask(host, prompt(at)) == 0
        assert settled(host)["prefixCacheBytes"] == 3 * size
        assert ask(host, prompt(1)) == 199  # is used, so the second one goes
        ask(host, prompt(4))
        assert settled(host)["prefixCacheBytes"] == 3 * size
        assert [ask(host, prompt(at)) for at in (1, 3, 4)] == [199, 199, 199]
        assert ask(host, prompt(2)) == 0
        assert ask(host, some_tokens("long", 2000)) == 0  # does not fit at all
        assert settled(host)["prefixCacheBytes"] == 3 * size
    with Host(
        *("--models-dir", str(folder), "--model", "llama"), "--prefix-cache-limit", "0"
    ) as host:
        assert [ask(host, prompt(1)) for _ in range(2)] == [0, 0]
        assert settled(host)["prefixCacheBytes"] == 0


# No token changes.


class Sequence:
    """Requests of one kind with beginnings in common."""

    def __init__(self, host: Host, kind: str) -> None:
        self.host = host
        self.chance = random.Random(kind)
        self.model, self.more = KINDS[kind]
        self.prompts: list[list[int]] = []
        self.asked: list[int] = []  # the length of each answered prompt
        self.chats: list[list[dict[str, str]]] = []

    def request(self) -> tuple[str, dict[str, Any]]:
        chance = self.chance
        options: dict[str, Any] = {"model": self.model, "maxTokens": chance.randint(1, 16)}
        options |= self.more
        if chance.random() < 0.5:
            options |= {"temperature": chance.choice((0.5, 1.0)), "seed": chance.randrange(1000)}
        if chance.random() < 0.3:
            options |= {"topP": 0.9, "repetitionPenalty": 1.2, "seed": 7}
        if chance.random() < 0.5:
            return "chat", {**options, "messages": self.messages()}
        return "generate", {**options, "prompt": self.prompt(), "ignoreEos": True}

    def prompt(self) -> list[int]:
        chance = self.chance
        fresh = some_tokens(chance.random(), chance.choice((1, 9, 40, 80, 130)))
        if self.prompts and chance.random() < 0.7:
            old = chance.choice(self.prompts)
            whole = chance.random() < 0.5
            fresh = old[: len(old) if whole else chance.randint(1, len(old))] + fresh
        fresh = fresh[-600:]
        self.prompts.append(fresh)
        return fresh

    def messages(self) -> list[dict[str, str]]:
        chance = self.chance
        if not self.chats or chance.random() < 0.2:
            words = " ".join(chance.choice(("red", "green", "blue", "cyan")) for _ in range(60))
            self.chats.append([{"role": "system", "content": f"{chance.random()} {words}"}])
        chat = list(chance.choice(self.chats))
        said = "".join(chance.choice("abcdefgh ") for _ in range(chance.choice((3, 70))))
        if len(chat) > 1:
            chat.append({"role": "assistant", "content": "x" * chance.choice((0, 70))})
        chat.append({"role": "user", "content": said})
        self.chats.append(chat)
        return chat

    def start(self, method: str, params: dict[str, Any], *, cached: bool) -> Any:
        return self.host.start(method, **params, cachePrompt=cached)

    def answer(self, request_id: Any) -> tuple[list[int], str, int]:
        """Tokens, text, and the tokens that came from the prefix cache."""
        result = self.host.reply(request_id)
        self.asked.append(result["usage"]["promptTokens"])
        deltas = self.host.take_deltas(request_id)
        tokens = [token for delta in deltas for token in delta["tokens"]]
        text = result["text"] if "text" in result else result["message"]["content"]
        return tokens, text, result["usage"]["cachedTokens"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_token_changes(engine: Host, kind: str) -> None:
    sequence = Sequence(engine, kind)
    chance = sequence.chance
    requests = [sequence.request() for _ in range(18)]
    plain = [sequence.answer(sequence.start(*request, cached=False))[:2] for request in requests]
    asked = list(sequence.asked)
    hits = reused = at = 0
    while at < len(requests):
        group = range(at, min(len(requests), at + chance.choice((1, 1, 2, 4))))
        at = group.stop
        ids = [sequence.start(*requests[one], cached=True) for one in group]
        gone = chance.choice(ids) if chance.random() < 0.2 else None
        if gone is not None:
            time.sleep(chance.random() * 0.03)
            engine.cancel(gone)
        for one, request_id in zip(group, ids, strict=True):
            try:
                *answer, cached = sequence.answer(request_id)
            except RpcError as error:
                if (request_id, error.kind) != (gone, "cancelled"):
                    raise
                engine.take_deltas(request_id)
                continue
            if asked[one] > sequence.more.get("maxKvSize", asked[one]):
                # What a bounded cache drops depends on the chunks that a prompt is read in, and
                # these on the machine's speed: such a prompt is not for the prefix cache.
                assert cached == 0
            else:
                assert tuple(answer) == plain[one], (kind, requests[one], cached)
            hits += cached > 0
            reused += cached
    assert hits >= 3
    assert reused >= 200
