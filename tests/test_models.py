"""Loading, keeping and unloading by request; what `models/list` and `models/changed` tell of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.host import Host, RpcError, joined
from tests.residents import (
    await_note,
    changes,
    copy_model,
    hold_load,
    loads,
    memory,
    ready,
    replies,
    row,
)

SHORT: dict[str, Any] = {"prompt": "ab", "maxTokens": 2}
LONG: dict[str, Any] = {"prompt": "ab", "maxTokens": 200, "ignoreEos": True}
TEXT = "the quick brown fox " * 150_000
Spawn = Callable[..., Host]


@pytest.fixture
def engine(spawn: Spawn) -> Host:
    return spawn()


def keep(host: Host, model: str, seconds: float, **more: Any) -> dict[str, Any]:
    """Load a model for so long; its row."""
    result = host.call("models/load", model=model, keepAliveSeconds=seconds, **more)
    loaded: dict[str, Any] = result["model"]
    return loaded


def gone(host: Host, model: str, reason: str = "idle") -> None:
    """Wait until a model leaves memory."""
    note = await_note(host, "models/changed", model=model, state="available")
    assert note["reason"] == reason


def test_a_load_tells_what_was_loaded(engine: Host, shelf: Path) -> None:
    result = engine.call("models/load", model="a")
    assert result["loadMs"] > 0
    model = result["model"]
    assert model.pop("lastUsedSecondsAgo") >= 0
    assert model == {
        "id": "a",
        "state": "ready",
        "path": str(shelf / "a"),
        "modelType": "llama",
        "contextLength": 2048,
        "vocabularySize": json.loads((shelf / "a" / "config.json").read_text())["vocab_size"],
        "bytes": memory(engine)["weightsBytes"],
        "pinned": False,
        "running": 0,
        "tokenizer": "tokenizers",
    }
    assert engine.call("models/load", model="a")["loadMs"] == 0
    assert changes(engine) == [("a", "ready", "request")]


def test_the_list_has_every_model_resident_ones_first(engine: Host, shelf: Path) -> None:
    assert ready(engine) == []
    engine.call("generate", model="c", **SHORT)
    engine.call("generate", model="b", **SHORT)
    rows = engine.call("models/list")["models"]
    ids = [row["id"] for row in rows]
    assert ids == ["b", "c", "a", "big", "d", "pico", "twin"]
    assert [row["state"] for row in rows] == ["ready"] * 2 + ["available"] * 5
    available = rows[2]
    assert available["bytes"] == (shelf / "a" / "model.safetensors").stat().st_size
    assert available["path"] == str(shelf / "a")
    assert not {"pinned", "running", "lastUsedSecondsAgo", "tokenizer"} & available.keys()
    assert [row["id"] for row in engine.call("engine/status")["models"]] == ["b", "c"]


def test_the_list_tells_who_is_loading(spawn: Spawn, shelf: Path, tmp_path: Path) -> None:
    folder = copy_model(shelf / "big", tmp_path / "held")
    release = hold_load(folder)
    engine = spawn("--trust-remote-code")
    name = str(folder)
    load = engine.start("models/load", model=name)
    await_note(engine, "$/progress", requestId=load, phase="loading")
    loading = row(engine, name)
    assert loading["state"] == "loading"
    assert loading["bytes"] == (folder / "model.safetensors").stat().st_size
    assert not {"pinned", "running"} & loading.keys()
    assert loading["tokenizer"] == "tokenizers"  # read before the weights
    assert engine.call("engine/status")["models"] == []
    release()
    # From then on it is never anything but loading or ready.
    seen = [row(engine, name)["state"]]
    while seen[-1] != "ready":
        seen.append(row(engine, name)["state"])
    assert set(seen) <= {"loading", "ready"}
    assert engine.reply(load)["model"]["state"] == "ready"


def test_the_list_tells_who_is_running(engine: Host) -> None:
    ids = [engine.start("generate", model="big", prompt="ab", maxTokens=30) for _ in range(2)]
    await_note(engine, "stream/delta", requestId=ids[1])
    assert row(engine, "big")["running"] == 2
    status = engine.call("engine/status")
    assert status["requests"] == {"running": 2, "queued": 0}
    assert status["memory"]["kvBytes"] > 0
    for request_id in ids:
        engine.reply(request_id)
    assert row(engine, "big")["running"] == 0


def test_the_list_tells_how_long_ago_a_model_was_used(engine: Host) -> None:
    keep(engine, "a", 1000)
    keep(engine, "b", 2000)
    time.sleep(0.3)
    engine.call("generate", model="b", **SHORT)
    first, second = row(engine, "a"), row(engine, "b")
    assert first["lastUsedSecondsAgo"] >= 0.3 > second["lastUsedSecondsAgo"] >= 0
    assert (first["keepAliveSeconds"], second["keepAliveSeconds"]) == (1000, 2000)


def test_a_model_is_unloaded_when_nobody_uses_it(engine: Host) -> None:
    keep(engine, "a", 0.2)
    keep(engine, "b", 1000)
    engine.call("models/load", model="c")
    gone(engine, "a")
    assert ready(engine) == ["c", "b"]
    assert memory(engine)["weightsBytes"] == row(engine, "b")["bytes"] * 2
    # It comes back like any other.
    engine.call("generate", model="a", **SHORT)
    assert "keepAliveSeconds" not in row(engine, "a")


def test_use_puts_the_end_off(engine: Host) -> None:
    keep(engine, "a", 1.5)
    keep(engine, "b", 1.5)
    while ("b", "available", "idle") not in changes(engine):
        engine.call("generate", model="a", **SHORT)
        time.sleep(0.1)
    assert ready(engine) == ["a"]
    gone(engine, "a")


def test_a_model_in_use_is_not_idle(engine: Host) -> None:
    engine.call("models/load", model="big")
    running = engine.start("generate", model="big", prompt="ab", maxTokens=30, ignoreEos=True)
    await_note(engine, "stream/delta", requestId=running)
    keep(engine, "big", 0.01)
    assert engine.reply(running)["usage"]["completionTokens"] == 30
    gone(engine, "big")
    assert loads(engine) == 1
    kinds = [json.loads(line) for line in engine.lines]
    ends = [m.get("id") == running or m.get("params", {}).get("reason") == "idle" for m in kinds]
    assert kinds[ends.index(True)]["id"] == running


def test_a_model_that_is_awaited_is_not_idle(spawn: Spawn) -> None:
    host = spawn("--keep-alive", "0")
    # The weights are there long before this is tokenized, and found to be too long.
    request_id = host.start("generate", prompt=TEXT)
    await_note(host, "models/changed", model="a", state="ready")
    host.call("models/load", model="b")
    gone(host, "b")
    with pytest.raises(RpcError) as caught:
        host.reply(request_id)
    assert caught.value.kind == "contextLengthExceeded"
    gone(host, "a")
    assert loads(host) == 2


def test_a_pinned_model_stays_whatever_its_time(engine: Host) -> None:
    keep(engine, "a", 0, pin=True)
    keep(engine, "b", 0.3)
    gone(engine, "b")
    assert ready(engine) == ["a"]
    engine.call("models/load", model="a", pin=False)
    gone(engine, "a")


def test_no_time_at_all(engine: Host) -> None:
    assert keep(engine, "a", 0)["state"] == "ready"
    gone(engine, "a")
    assert changes(engine) == [("a", "ready", "request"), ("a", "available", "idle")]


def test_the_default_time(shelf: Path) -> None:
    with Host("--models-dir", str(shelf), "--model", "a", "--keep-alive", "0") as host:
        # Requests that wait for one load all get it.
        ids = [host.start("generate", **SHORT) for _ in range(3)]
        for request_id in ids:
            assert host.reply(request_id)["usage"]["completionTokens"] == 2
        gone(host, "a")
        assert row(host, "a")["state"] == "available"
        host.call("generate", **SHORT)
        assert loads(host) == 2
        # A model's own time goes before the default.
        keep(host, "b", 1000)
        host.call("generate", model="b", **SHORT)
        host.call("generate", model="c", **SHORT)
        gone(host, "c")
        assert ready(host) == ["b"]


def test_unload_frees_and_says_how_much(engine: Host) -> None:
    size = engine.call("models/load", model="a", pin=True)["model"]["bytes"]
    # A pin is against eviction; a host that asks for its memory gets it.
    assert engine.call("models/unload", model="a") == {"freedBytes": size}
    assert memory(engine)["activeBytes"] < size / 100
    assert engine.call("models/unload", model="a") == {"freedBytes": 0}
    assert engine.call("models/unload", model="b") == {"freedBytes": 0}
    assert changes(engine) == [("a", "ready", "request"), ("a", "available", "unload")]
    assert engine.call("engine/status")["counters"]["modelUnloads"] == 1
    assert engine.call("models/load", model="a")["model"]["pinned"] is False


def test_unload_waits_for_those_before_it_and_goes_before_those_behind(engine: Host) -> None:
    alone = engine.call("generate", **LONG, stream=False)["text"]
    running = engine.start("generate", **LONG)
    await_note(engine, "stream/delta", requestId=running)
    unload = engine.start("models/unload", model="a")
    behind = engine.start("generate", **SHORT)
    assert engine.reply(running)["text"] == joined(engine.take_deltas(running)) == alone
    assert engine.reply(unload)["freedBytes"] > 0
    assert engine.reply(behind)["usage"]["completionTokens"] == 2
    assert replies(engine, running, unload, behind) == [running, unload, behind]
    assert loads(engine) == 2


def test_unload_waits_for_a_load_and_leaves_others_alone(engine: Host) -> None:
    load = engine.start("models/load", model="big")
    unload = engine.start("models/unload", model="big")
    other = engine.start("generate", model="b", **SHORT)
    assert engine.reply(load)["model"]["state"] == "ready"
    assert engine.reply(unload)["freedBytes"] > 0
    assert engine.reply(other)
    assert ready(engine) == ["b"]


def test_a_resident_model_can_be_unloaded_when_its_folder_is_gone(
    engine: Host, shelf: Path, tmp_path: Path
) -> None:
    folder = copy_model(shelf / "a", tmp_path / "short-lived")
    size = engine.call("models/load", model=str(folder))["model"]["bytes"]
    folder.rename(tmp_path / "elsewhere")
    assert engine.call("models/unload", model=str(folder)) == {"freedBytes": size}
    with pytest.raises(RpcError) as caught:
        engine.call("models/unload", model=str(folder))
    assert caught.value.kind == "modelNotFound"


def test_preload_makes_the_default_model_resident_before_anybody_asks(shelf: Path) -> None:
    # With the framing given: else nothing is written before the host's first bytes tell it.
    options = ("--preload", "--framing", "newline")
    with Host("--models-dir", str(shelf), "--model", "b", *options) as host:
        assert await_note(host, "models/changed") == {
            "model": "b",
            "state": "ready",
            "reason": "request",
        }
        assert ready(host) == ["b"]
        assert host.call("generate", **SHORT)["timings"]["loadMs"] == 0
    with Host("--models-dir", str(shelf), "--model", "big", "--preload") as host:
        host.call("generate", **SHORT)  # while it is still loading
        assert loads(host) == 1


@pytest.mark.parametrize("model", ["nosuchmodel", "broken"])
def test_a_failed_preload_is_only_logged(model: str, shelf: Path) -> None:
    with Host("--models-dir", str(shelf), "--model", model, "--preload") as host:
        host.call("generate", model="a", **SHORT)
        with pytest.raises(RpcError):
            host.call("generate", **SHORT)
        host.close_stdin()
        assert host.wait() == 0
        assert b"preload.failed" in host.stderr
