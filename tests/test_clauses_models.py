"""Clauses of `protocol.md` about models and generations that no other test proves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.host import ROOT, Host, RpcError, tokens_of
from tests.residents import await_note, changes, copy_model, loads, memory
from tests.test_names import hub_entry, hub_environment


def test_names_are_looked_up_in_their_order(models: Path, tmp_path: Path) -> None:
    """The embedded model, a folder of the models' folder, a path, the hub's cache."""
    environment, hub = hub_environment("HF_HOME", tmp_path / "home")
    entry = hub_entry(hub, "org/one", models / "tiny")
    hub_entry(hub, "org/two", models / "tiny")
    for place in ("shelf/pico", "shelf/both", "both", "org/two"):
        copy_model(models / "tiny", tmp_path / place)
    places = {
        "pico": ROOT / "mlx_stdio" / "pico",
        "both": tmp_path / "shelf" / "both",
        "./both": tmp_path / "both",
        "org/two": tmp_path / "org" / "two",
        "org/one": entry,
    }
    with Host("--models-dir", "shelf", "--max-models", "9", cwd=tmp_path, env=environment) as host:
        for name, folder in places.items():
            assert host.call("models/load", model=name)["model"]["path"] == str(folder), name


def test_every_change_of_a_model_is_told_with_its_reason(spawn: Callable[..., Host]) -> None:
    host = spawn("--max-models", "1")
    for model in "ab":
        host.call("models/load", model=model)
    host.call("models/unload", model="b")
    host.call("models/load", model="c", keepAliveSeconds=0)
    await_note(host, "models/changed", model="c", state="available")
    assert changes(host) == [
        ("a", "ready", "request"),
        ("a", "available", "lru"),
        ("b", "ready", "request"),
        ("b", "available", "unload"),
        ("c", "ready", "request"),
        ("c", "available", "idle"),
    ]


def test_texts_need_no_weights(host: Host) -> None:
    for method, params in (
        ("tokenize", {"text": "ab"}),
        ("detokenize", {"tokens": [70, 71]}),
        ("applyTemplate", {"messages": [{"role": "user", "content": "hello"}]}),
    ):
        assert host.call(method, **params)["model"] == "tiny"
    host.call("models/list")
    assert loads(host) == memory(host)["weightsBytes"] == 0


# Generation.


def test_a_string_gets_the_models_beginning(models: Path, tmp_path: Path) -> None:
    folder = copy_model(models / "tiny", tmp_path / "begins")
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    begin = next(row for row in tokenizer["added_tokens"] if row["content"] == "<|im_start|>")
    piece = {"id": begin["content"], "ids": [begin["id"]], "tokens": [begin["content"]]}
    first = {"SpecialToken": {"id": begin["content"], "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    other = {"Sequence": {"id": "B", "type_id": 1}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, other],
        "special_tokens": {begin["content"]: piece},
    }
    file.write_text(json.dumps(tokenizer))
    with Host("--models-dir", str(tmp_path), "--model", "begins") as host:
        ids = host.call("tokenize", text="hello")["tokens"]
        ask = {"maxTokens": 8, "ignoreEos": True, "cachePrompt": False}
        as_text = host.call("generate", prompt="hello", **ask)
        as_ids = host.call("generate", prompt=[begin["id"], *ids], **ask)
        bare = host.call("generate", prompt=ids, **ask)
    assert as_text["usage"]["promptTokens"] == len(ids) + 1
    assert as_text["text"] == as_ids["text"] != bare["text"]
    assert bare["usage"]["promptTokens"] == len(ids)


@pytest.mark.parametrize(
    "shape", [{"topP": 0.99}, {"topK": 200}, {"minP": 0.001}, {"xtcProbability": 0.5}]
)
def test_a_shape_without_a_temperature_is_sampled_at_1(
    shared_host: Host, shape: dict[str, Any]
) -> None:
    def tokens(**more: Any) -> list[int]:
        ask = {"prompt": "hello", "maxTokens": 24, "seed": 5, "ignoreEos": True}
        _, deltas = shared_host.stream("generate", **ask, **more)
        return tokens_of(deltas)

    assert tokens(**shape) == tokens(**shape, temperature=1)
    assert tokens(**shape) != tokens() == tokens(temperature=0)


def test_a_cache_that_a_model_cannot_have_is_refused_before_its_prompt_is_read(
    models: Path,
) -> None:
    """Heads of 16 values do not divide into the groups that are quantised."""
    options = ("--models-dir", str(models), "--model", "tiny", "--prefill-step", "32")
    with Host(*options) as host:
        plain = host.start("generate", prompt=[7] * 1000, maxTokens=1, cachePrompt=False)
        host.reply(plain)
        assert "prefill" in {note["phase"] for note in host.take("$/progress", plain)}
        refused = host.start("generate", prompt=[7] * 1000, kvBits=4)
        with pytest.raises(RpcError) as caught:
            host.reply(refused)
        assert (caught.value.code, caught.value.data["path"]) == (1006, "$.kvBits")
        assert host.take("$/progress", refused) == []
