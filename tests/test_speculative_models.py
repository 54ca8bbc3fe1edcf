"""The draft model as a model: found, loaded, refused, kept in memory while it is in use; and how a
request that speculates ends before its time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.host import Host, RpcError
from tests.phases import told, wait_until
from tests.random_models import make_model
from tests.residents import await_note, changes, copy_model, progress, ready, row

Spawn = Callable[..., Host]
LONG: dict[str, Any] = {"prompt": "ab", "maxTokens": 2000, "ignoreEos": True}


@pytest.fixture(scope="module")
def folder(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of the shelf, and some that cannot speculate or be speculated with."""
    folder = tmp_path_factory.mktemp("drafts")
    for name in ("a", "b", "c", "big"):
        copy_model(shelf / name, folder / name)
    make_model(folder / "words", "llama", seed=4, vocab_size=400)
    make_model(folder / "mamba", "mamba2", seed=4)
    make_model(folder / "hybrid", "qwen3_next", seed=4)
    make_model(folder / "window", "gemma3_text", seed=4, sliding_window=64)
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{}")
    # A folder that looks sound, with weights of another shape than its configuration says.
    copy_model(folder / "a", folder / "misshapen")
    config = (folder / "misshapen" / "config.json").read_text()
    (folder / "misshapen" / "config.json").write_text(
        config.replace('"intermediate_size": 128', '"intermediate_size": 96')
    )
    return folder


@pytest.fixture
def spawn(folder: Path) -> Iterator[Spawn]:
    with ExitStack() as stack:
        yield lambda *options: stack.enter_context(
            Host("--models-dir", str(folder), "--model", "a", *options)
        )


@pytest.fixture(scope="module")
def shared(folder: Path) -> Iterator[Host]:
    with Host("--models-dir", str(folder), "--model", "a", "--max-models", "9") as host:
        yield host


def refusal(host: Host, **params: Any) -> RpcError:
    """Why a request was refused; it must have been before any work."""
    request_id = host.start("generate", **{"prompt": [65] * 40, "maxTokens": 20, **params})
    with pytest.raises(RpcError) as caught:
        host.reply(request_id)
    assert progress(host, request_id, "prefill") == []
    assert told(host, "stream/delta", request_id) == []
    assert host.call("ping") is not None
    return caught.value


# Refused.


@pytest.mark.parametrize(
    ("kind", "params", "named"),
    [
        ("modelNotFound", {"draftModel": "nobody"}, "nobody"),
        ("modelLoadFailed", {"draftModel": "broken"}, "broken"),
        ("modelLoadFailed", {"draftModel": "misshapen"}, "misshapen"),
    ],
)
def test_a_draft_model_that_is_not_to_be_had(
    shared: Host, kind: str, params: dict[str, Any], named: str
) -> None:
    error = refusal(shared, **params)
    assert error.kind == kind
    assert named in (error.data.get("model") or error.message)
    assert named not in ready(shared)
    shared.call("generate", prompt="ab", maxTokens=2)


@pytest.mark.parametrize(
    ("params", "path", "word"),
    [
        ({"draftModel": "words"}, "$.draftModel", "vocabulary"),
        ({"draftModel": "pico"}, "$.draftModel", "vocabulary"),
        ({"draftModel": "mamba"}, "$.draftModel", "draft model's cache"),
        ({"model": "mamba", "draftModel": "a"}, "$.draftModel", "the model's cache"),
        ({"model": "mamba", "numDraftTokens": 3}, "$.numDraftTokens", "the model's cache"),
        ({"model": "hybrid", "numDraftTokens": 3}, "$.numDraftTokens", "the model's cache"),
        ({"model": "window", "numDraftTokens": 3, "maxTokens": 25}, "$.numDraftTokens", "64"),
        ({"draftModel": "window", "maxTokens": 25}, "$.draftModel", "64"),
        ({"maxKvSize": 59, "numDraftTokens": 3}, "$.numDraftTokens", "59"),
        ({"kvBits": 8, "draftModel": "b"}, "$.kvBits", "heads"),
    ],
)
def test_what_cannot_speculate_is_refused_by_name(
    shared: Host, params: dict[str, Any], path: str, word: str
) -> None:
    error = refusal(shared, **params)
    assert (error.kind, error.data["path"]) == ("unsupported", path)
    assert word in error.message


def test_no_draft_model_is_loaded_for_a_model_that_cannot_use_it(spawn: Spawn) -> None:
    host = spawn()
    host.call("models/load", model="mamba")
    assert refusal(host, model="mamba", draftModel="b").kind == "unsupported"
    assert ready(host) == ["mamba"]


@pytest.mark.parametrize(
    "params",
    [
        {"model": "window", "numDraftTokens": 9, "maxTokens": 24},
        {"model": "window", "draftModel": "window", "maxTokens": 24},
        {"model": "a", "draftModel": "window", "maxTokens": 24},
        {"model": "a", "numDraftTokens": 9, "maxKvSize": 64, "maxTokens": 24},
    ],
)
def test_up_to_the_end_of_a_window_it_works(shared: Host, params: dict[str, Any]) -> None:
    prompt = [65, 66] * 20
    sound = {"prompt": prompt, "ignoreEos": True}
    speculated, deltas = shared.stream("generate", **sound, **params)
    plain, expected = shared.stream(
        "generate",
        **sound,
        **{name: value for name, value in params.items() if "raft" not in name},
    )
    assert speculated["usage"]["completionTokens"] == 24
    assert speculated["usage"]["draftedTokens"] > 0
    assert tokens_of(deltas) == tokens_of(expected)
    assert speculated["text"] == plain["text"]


def tokens_of(deltas: list[dict[str, Any]]) -> list[int]:
    return [token for delta in deltas for token in delta["tokens"]]


# In memory.


def test_one_place_is_too_little_for_two_models(spawn: Spawn) -> None:
    host = spawn("--max-models", "1")
    for _ in range(2):
        assert refusal(host, draftModel="b").kind == "outOfMemory"
    # One that is its own draft needs one place; so does prompt look-up.
    for params in ({"draftModel": "a"}, {"numDraftTokens": 2}):
        host.call("generate", prompt="ab", maxTokens=4, **params)


def test_two_places_are_made_by_letting_others_go(spawn: Spawn) -> None:
    host = spawn("--max-models", "2")
    for model in ("c", "b"):
        host.call("models/load", model=model)
    host.call("generate", prompt="ab", maxTokens=4, draftModel="b")
    assert sorted(ready(host)) == ["a", "b"]


def test_a_draft_model_in_use_stays(spawn: Spawn) -> None:
    """It is no victim, and an unload of it waits."""
    host = spawn("--max-models", "2")
    running = host.start("generate", **LONG, draftModel="b")
    await_note(host, "stream/delta", requestId=running)
    unload = host.start("models/unload", model="b")
    other = host.start("generate", prompt="ab", maxTokens=2, model="c")
    wait_until(lambda: progress(host, other, "queued") or len(told_of(host, running)) > 20)
    assert sorted(ready(host)) == ["a", "b"]
    assert ("b", "available", "unload") not in changes(host)
    host.cancel(running)
    assert host.reply(unload)["freedBytes"] > 0
    host.reply(other)
    assert ("b", "available", "unload") in changes(host)
    assert row(host, "b")["state"] == "available"


def told_of(host: Host, request_id: Any) -> list[dict[str, Any]]:
    return told(host, "stream/delta", request_id)


# Ended before its time.


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("params", [{"draftModel": "b"}, {"numDraftTokens": 4}])
def test_a_cancel_while_it_decodes(spawn: Spawn, params: dict[str, Any], stream: bool) -> None:
    host = spawn()
    neighbour = host.start("generate", **LONG)
    await_note(host, "stream/delta", requestId=neighbour)
    running = host.start("generate", **LONG, **params, stream=stream)
    wait_until(lambda: host.call("engine/status")["requests"]["running"] == 2)
    seen = len(host.lines)
    wait_until(lambda: len(told(host, "stream/delta", neighbour, seen)) > 5)
    host.cancel(running)
    with pytest.raises(RpcError) as caught:
        host.reply(running)
    assert caught.value.kind == "cancelled"
    wait_until(lambda: host.call("engine/status")["requests"]["running"] == 1)
    host.cancel(neighbour)


def test_a_cancel_while_the_draft_model_loads(spawn: Spawn) -> None:
    """The load is abandoned; what is loaded already stays, and nothing is in use."""
    host = spawn()
    host.call("models/load", model="c")
    for _ in range(10):  # on a busy machine the load may be over before the cancel is read
        running = host.start("generate", **LONG, model="c", draftModel="big")
        wait_until(lambda: progress(host, running, "loading"))  # noqa: B023 - called at once
        host.cancel(running)
        with pytest.raises(RpcError) as caught:
            host.reply(running)
        assert caught.value.kind == "cancelled"
        host.call("generate", prompt="ab", maxTokens=2, model="c")
        if ready(host) == ["c"]:
            break
        host.call("models/unload", model="big")
    assert ready(host) == ["c"]
    assert host.call("models/unload", model="c")["freedBytes"] > 0


@pytest.mark.parametrize("params", [{"draftModel": "b"}, {"numDraftTokens": 4}])
def test_a_deadline_while_it_decodes(spawn: Spawn, params: dict[str, Any]) -> None:
    host = spawn()
    host.call("generate", prompt="ab", maxTokens=4, **params)
    with pytest.raises(RpcError) as caught:
        host.call("generate", **LONG, **params, timeoutMs=150)
    assert caught.value.kind == "deadlineExceeded"
    host.call("generate", prompt="ab", maxTokens=4, **params)
    for model in ("a", "b"):
        host.call("models/unload", model=model)
    assert ready(host) == []
