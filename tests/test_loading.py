"""From a folder to weights in memory, a slice at a time: progress, neighbours, failures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from tests.host import Host, RpcError
from tests.residents import (
    await_note,
    changes,
    copy_model,
    loads,
    memory,
    messages,
    progress,
    row,
    rss_grew,
)

SHORT: dict[str, Any] = {"prompt": "ab", "maxTokens": 3, "ignoreEos": True}


@pytest.fixture
def engine(shelf: Path) -> Iterator[Host]:
    with Host("--models-dir", str(shelf), "--model", "a") as host:
        yield host


def check_progress(notes: list[dict[str, Any]], size: int) -> None:
    completed = [note["completed"] for note in notes]
    assert completed == sorted(set(completed))
    assert all(note["completed"] <= note["total"] for note in notes)
    assert {note["unit"] for note in notes} == {"bytes"}
    assert notes[-1]["completed"] == notes[-1]["total"] == size


def test_everybody_who_waits_hears_of_the_bytes(engine: Host) -> None:
    tokens = {
        engine.start(method, model="big", streamToken=token, **more): token
        for method, token, more in (
            ("models/load", "mine", {}),
            ("generate", 7, SHORT),
            ("chat", "", {"messages": [{"role": "user", "content": "a"}], "maxTokens": 1}),
        )
    }
    silent = engine.start("models/load", model="big")
    for request_id in (*tokens, silent):
        engine.reply(request_id)
    size = row(engine, "big")["bytes"]
    assert len(progress(engine, next(iter(tokens)))) == 5  # the beginning, and four slices
    for request_id, token in tokens.items():
        notes = progress(engine, request_id)
        assert len(notes) >= 2  # whoever comes later hears of what is left
        check_progress(notes, size)
        assert {note["streamToken"] for note in notes} == {token}
    assert not any("streamToken" in note for note in progress(engine, silent))
    # The next load of it starts again from nothing.
    engine.call("models/unload", model="big")
    again = engine.start("models/load", model="big")
    engine.reply(again)
    assert progress(engine, again)[0]["completed"] == 0


def test_a_resident_model_reports_no_load(engine: Host) -> None:
    engine.call("models/load", model="a")
    request_id = engine.start("generate", model="a", **SHORT)
    assert engine.reply(request_id)["timings"]["loadMs"] == 0
    assert progress(engine, request_id) == []


def test_a_stream_goes_on_while_another_model_is_loaded(engine: Host) -> None:
    (letter,) = engine.call("tokenize", text="x")["tokens"]
    # Every token is a letter, so that every step of the stream is a delta.
    ask = {"prompt": "ab", "logitBias": {str(letter): 1e4}, "maxTokens": 1000}
    running = engine.start("generate", **ask)
    await_note(engine, "stream/delta", requestId=running)
    load = engine.start("models/load", model="big")
    engine.reply(load)
    engine.cancel(running)
    kinds = ""
    for message in messages(engine):
        params = message.get("params", {})
        if params.get("phase") == "loading" and params["requestId"] == load:
            kinds += "L"
        elif message.get("method") == "stream/delta":
            kinds += "d"
    assert re.search("L(d+L){4,}", kinds)
    assert not re.search("LL", kinds)


def shard(folder: Path, parts: int) -> None:
    """Spread a model's weights over several files, with the index that `mlx_lm` writes."""
    whole = folder / "model.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    weight_map: dict[str, str] = {}
    for part in range(parts):
        name = f"model-{part + 1:05}-of-{parts:05}.safetensors"
        mine = dict(list(tensors.items())[part::parts])
        save_file(mine, folder / name, {"format": "mlx"})
        weight_map |= dict.fromkeys(mine, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_weights_may_be_in_several_files(engine: Host, shelf: Path, tmp_path: Path) -> None:
    folder = copy_model(shelf / "big", tmp_path / "sharded")
    shard(folder, 3)
    model = str(folder)
    request_id = engine.start("generate", model=model, **SHORT)
    text = engine.reply(request_id)["text"]
    assert text == engine.call("generate", model="big", **SHORT)["text"]
    files = list(folder.glob("model-*.safetensors"))
    notes = progress(engine, request_id)
    assert notes[0]["total"] == sum(file.stat().st_size for file in files)
    check_progress(notes, row(engine, "big")["bytes"])


LATE = """
import os
from pathlib import Path
import mlx.core as mx
from mlx_lm.models.llama import Model as Llama, ModelArgs

FILE = str(Path(__file__).parent / "late.safetensors")

class Model(Llama):
    def sanitize(self, weights):
        weights.update(mx.load(FILE))
        os.truncate(FILE, 4096)  # MLX has read the header, the bytes come later
        return super().sanitize(weights)
"""


@pytest.fixture
def late_failure(shelf: Path, tmp_path: Path) -> str:
    """A model whose last tensor cannot be read when its turn comes."""
    folder = copy_model(shelf / "big", tmp_path / "late")
    (folder / "code.py").write_text(LATE)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_file": "code.py"}))
    name = "lm_head.weight"
    last = load_file(folder / "model.safetensors")[name]
    save_file({name: last}, folder / "late.safetensors", {"format": "mlx"})
    return str(folder)


def late_failures(host: Host, *request_ids: Any) -> None:
    for request_id in request_ids:
        with pytest.raises(RpcError) as caught:
            host.reply(request_id)
        assert (caught.value.code, caught.value.kind) == (1002, "modelLoadFailed")
        # It was a failure in the middle: three slices were there.
        assert progress(host, request_id)[-1]["completed"] > 90 * 2**20


def test_a_load_that_fails_in_the_middle_fails_for_those_who_wait(
    shelf: Path, late_failure: str
) -> None:
    with Host("--models-dir", str(shelf), "--model", "a", "--trust-remote-code") as host:
        running = host.start("generate", prompt="ab", maxTokens=300, ignoreEos=True)
        await_note(host, "stream/delta", requestId=running)
        waiting = [host.start("models/load", model=late_failure) for _ in range(2)]
        waiting += [host.start("generate", model=late_failure, **SHORT) for _ in range(2)]
        behind = host.start("generate", model="b", **SHORT)
        late_failures(host, *waiting)
        assert host.reply(running)["usage"]["completionTokens"] == 300
        assert host.reply(behind)["usage"]["completionTokens"] == 3
        assert [model for model, _, _ in changes(host)] == ["a", "b"]
        assert loads(host) == 2


def test_a_load_that_fails_in_the_middle_leaves_nothing(late_failure: str) -> None:
    with Host("--trust-remote-code") as host:
        host.call("tokenize", model=late_failure, text="ab")
        before = memory(host)
        late_failures(host, host.start("models/load", model=late_failure))
        after = memory(host)
        assert after["activeBytes"] + after["poolBytes"] < 2**20
        assert (rss_grew(host, before, after) or 0) < 50 * 2**20
