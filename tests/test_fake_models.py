"""The fake engine's models: folders that are read without their weights, and which are resident."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mlx_stdio.conformance.transcript import FOLDER, read_transcript
from tests.host import Host, RpcError
from tests.ledger import Ledger

Spawn = Callable[..., Host]
FILES = read_transcript(FOLDER / "lru.jsonl").folders["made"]
"""A model of sixteen tokens, made of text."""


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """Folders `one`, `two` and `broken`."""
    for name in ("one", "two", "broken"):
        (tmp_path / name).mkdir()
        for file, text in FILES.items():
            (tmp_path / name / file).write_text(text, encoding="utf-8")
    (tmp_path / "broken" / "model.safetensors").unlink()
    return tmp_path


@pytest.fixture
def spawn(shelf: Path) -> Iterator[Spawn]:
    """Spawns fake engines that know the shelf."""
    with ExitStack() as stack:

        def start(*options: str, **more: Any) -> Host:
            arguments = ["fake", "--models-dir", str(shelf), *options]
            return stack.enter_context(Host(*arguments, **more))

        yield start


def fails(host: Host, method: str, **params: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        host.call(method, **params)
    return caught.value


def resident(host: Host) -> list[str]:
    return [row["id"] for row in host.call("engine/status")["models"]]


def test_folders_are_models(spawn: Spawn, shelf: Path) -> None:
    host = spawn()
    rows = {row["id"]: row for row in host.call("models/list")["models"]}
    assert rows.keys() == {"fake", "one", "two", "pico"}
    assert rows["one"]["vocabularySize"] == 16
    assert "tokenizer" not in rows["one"]
    assert host.call("tokenize", model="one", text="cab")["tokens"] == [2, 0, 1]
    result = host.call("generate", model=str(shelf / "one"), prompt="cab")
    assert (result["model"], result["text"], result["finishReason"]) == ("one", "cab", "stop")
    assert host.call("models/list")["models"][0]["id"] == "one"
    assert host.call("tokenize", model="pico", text="hello")["model"] == "pico"
    Ledger(host.lines)


def test_a_broken_folder_is_refused_until_it_is_repaired(spawn: Spawn, shelf: Path) -> None:
    host = spawn()
    for method, params in (("models/load", {}), ("tokenize", {"text": "a"})):
        assert fails(host, method, model="broken", **params).kind == "modelLoadFailed"
    (shelf / "broken" / "model.safetensors").write_text(FILES["model.safetensors"])
    assert host.call("models/load", model="broken")["model"]["state"] == "ready"
    (shelf / "two" / "config.json").write_text("{}")
    assert fails(host, "generate", model="two", prompt="a").kind == "modelLoadFailed"
    assert host.call("models/unload", model="two") == {"freedBytes": 0}


def test_a_folder_with_code_is_not_loaded(spawn: Spawn, shelf: Path) -> None:
    config = FILES["config.json"].replace("{", '{"model_file":"code.py",', 1)
    (shelf / "one" / "config.json").write_text(config)
    assert fails(spawn(), "models/load", model="one").kind == "modelLoadFailed"
    loaded = spawn("--trust-remote-code").call("models/load", model="one")
    assert loaded["model"]["state"] == "ready"


def test_the_hubs_cache_is_not_looked_at(spawn: Spawn, shelf: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--org--one"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("1")
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / "1").symlink_to(shelf / "one")
    host = spawn(env={"HF_HUB_CACHE": str(tmp_path / "hub")})
    assert fails(host, "tokenize", model="org/one", text="a").kind == "modelNotFound"


def test_the_least_recently_used_goes(spawn: Spawn) -> None:
    host = spawn("--max-models", "2")
    for model in ("one", "two", "one", "fake"):
        host.call("models/load", model=model)
    assert resident(host) == ["fake", "one"]
    host.call("models/load", model="fake", pin=True)
    host.call("models/load", model="one", pin=True)
    error = fails(host, "models/load", model="two")
    assert (error.kind, resident(host)) == ("outOfMemory", ["one", "fake"])
    host.call("models/load", model="fake", pin=False)
    host.call("models/load", model="two")
    assert resident(host) == ["two", "one"]
    assert [note["reason"] for note in host.take("models/changed")].count("lru") == 2
    Ledger(host.lines)


def test_what_needs_room_waits_and_later_ones_behind(spawn: Spawn) -> None:
    host = spawn("--max-models", "1")
    running = host.start("generate", prompt="abc", ignoreEos=True, maxTokens=8000)
    host.until(lambda message: message.get("method") == "stream/delta")
    waiting = host.start("models/load", model="one")
    later = host.start("generate", prompt="abc")
    assert host.call("ping") == {}
    host.cancel(running)
    with pytest.raises(RpcError):
        host.reply(running)
    assert host.reply(waiting)["model"]["id"] == "one"
    assert host.reply(later)["text"] == "abc"
    changes = [(note["model"], note["reason"]) for note in host.take("models/changed")]
    assert changes == [
        ("fake", "lru"),
        ("one", "request"),
        ("one", "lru"),
        ("fake", "request"),
    ]


def test_prompts_are_remembered(spawn: Spawn) -> None:
    host = spawn()
    prompt = "a prompt that comes again"

    def cached(text: str, **params: Any) -> int:
        found: int = host.call("generate", prompt=text, **params)["usage"]["cachedTokens"]
        return found

    assert [cached(prompt, cachePrompt=False), cached(prompt)] == [0, 0]
    assert cached(prompt) == len(prompt) - 1
    assert cached(prompt, cachePrompt=False) == 0
    assert cached(prompt + ", longer") == len(prompt)
    assert cached("a prom") == 0  # too little to be worth it
    running = host.start("generate", prompt="cancelled early", ignoreEos=True, maxTokens=8000)
    host.until(lambda message: message.get("params", {}).get("requestId") == running)
    host.cancel(running)
    assert cached("cancelled early") == len("cancelled early") - 1
    host.call("models/unload", model="fake")
    assert cached(prompt) == 0


def test_a_long_prompt_tells_its_progress(spawn: Spawn) -> None:
    host = spawn("--prefill-step", "10")
    request = host.start("generate", prompt="x" * 35, maxTokens=1)
    host.reply(request)
    told = [note for note in host.take("$/progress", request) if note["phase"] == "prefill"]
    assert [note["completed"] for note in told] == [10, 20, 30, 35]
    assert {(note["total"], note["unit"]) for note in told} == {(35, "tokens")}


def test_a_bias_and_penalties_choose_the_token(spawn: Spawn) -> None:
    host = spawn()

    def said(**params: Any) -> str:
        text: str = host.call("generate", prompt="abc", maxTokens=3, ignoreEos=True, **params)[
            "text"
        ]
        return text

    x, y = str(ord("x")), str(ord("y"))
    assert said(presencePenalty=9) == "abc"
    assert said(logitBias={x: 5}) == "abc"
    assert said(logitBias={x: 50}) == "xxx"
    assert said(logitBias={x: 50, y: 45}, frequencyPenalty=10) == "xyx"
    assert said(logitBias={x: 50, y: 20}, repetitionPenalty=3) == "xyx"


def test_a_draft_model_needs_the_same_vocabulary(spawn: Spawn) -> None:
    host = spawn()
    error = fails(host, "generate", prompt="a", draftModel="one")
    assert (error.kind, error.data["path"]) == ("unsupported", "$.draftModel")
    result = host.call("generate", model="two", prompt="abc", draftModel="one")
    assert (result["text"], result["usage"]["draftedTokens"]) == ("abc", 0)
