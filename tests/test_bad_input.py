"""Whatever is wrong with a request gets one precise error, and the engine goes on."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host import Host, RpcError

VOCABULARY = 320
CONTEXT = 2048
HELLO = [{"role": "user", "content": "hello"}]

BAD_PARAMS: list[tuple[str, dict[str, Any], str]] = [
    ("generate", {"prompt": ""}, "$.prompt"),
    ("generate", {"prompt": []}, "$.prompt"),
    ("generate", {}, "$.prompt"),
    ("generate", {"prompt": [1, VOCABULARY]}, "$.prompt"),
    ("generate", {"prompt": [2**40]}, "$.prompt"),
    ("generate", {"prompt": [2**70]}, "$.prompt"),
    ("generate", {"prompt": [1, -1]}, "$.prompt"),
    ("generate", {"prompt": [1, 1.5]}, "$.prompt"),
    ("generate", {"prompt": "x", "logitBias": {str(VOCABULARY): 1}}, "$.logitBias"),
    ("generate", {"prompt": "x", "logitBias": {"-1": 1}}, "$.logitBias"),
    ("generate", {"prompt": "x", "logitBias": {"a": 1}}, "$.logitBias"),
    ("generate", {"prompt": "x", "logitBias": {"1": 1e9}}, "$.logitBias"),
    ("generate", {"prompt": "x", "topK": VOCABULARY}, "$.topK"),
    ("generate", {"prompt": "x", "topK": -1}, "$.topK"),
    ("generate", {"prompt": "x", "topP": 1.5}, "$.topP"),
    ("generate", {"prompt": "x", "minP": -0.1}, "$.minP"),
    ("generate", {"prompt": "x", "temperature": -1}, "$.temperature"),
    ("generate", {"prompt": "x", "repetitionPenalty": 0}, "$.repetitionPenalty"),
    ("generate", {"prompt": "x", "maxTokens": 0}, "$.maxTokens"),
    ("generate", {"prompt": "x", "maxTokens": CONTEXT + 1}, "$.maxTokens"),
    ("generate", {"prompt": "x", "maxTokens": 2**70}, "$.maxTokens"),
    ("generate", {"prompt": "x", "stopTokens": [VOCABULARY]}, "$.stopTokens"),
    ("generate", {"prompt": "x", "stopTokens": [-1]}, "$.stopTokens"),
    ("generate", {"prompt": "x", "stop": [""]}, "$.stop"),
    ("generate", {"prompt": "x", "seed": -1}, "$.seed"),
    ("generate", {"prompt": "x", "logprobs": 1000}, "$.logprobs"),
    ("generate", {"prompt": "x", "timeoutMs": 0}, "$.timeoutMs"),
    ("generate", {"prompt": "x", "priority": "urgent"}, "$.priority"),
    ("generate", {"prompt": "x", "temprature": 1}, "$.temprature"),
    ("chat", {"messages": []}, "$.messages"),
    ("chat", {"messages": [{"role": "forbidden", "content": "x"}]}, "$.messages"),
    ("chat", {"messages": [{"role": "user", "content": "x", "mood": 1}]}, "$.messages.mood"),
    ("detokenize", {"tokens": [VOCABULARY]}, "$.tokens"),
    ("detokenize", {"tokens": [-1]}, "$.tokens"),
]


def refusal(host: Host, method: str, **params: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        host.call(method, **params)
    return caught.value


def works(host: Host) -> None:
    assert host.call("generate", prompt="hello", maxTokens=2)["usage"]["completionTokens"] > 0


@pytest.mark.parametrize(("method", "params", "path"), BAD_PARAMS, ids=str)
@pytest.mark.parametrize("resident", [True, False], ids=["resident", "not resident"])
def test_bad_params(
    method: str, params: dict[str, Any], path: str, resident: bool, shared_host: Host
) -> None:
    shared_host.call("models/load" if resident else "models/unload", model="tiny")
    before = len(shared_host.lines)
    error = refusal(shared_host, method, **params)
    assert (error.code, error.kind) == (-32602, "invalidParams")
    assert re.sub(r"\[.*?\]", "", error.data["path"]) == path
    assert error.message
    works(shared_host)
    errors = [line for line in shared_host.lines[before:] if b'"error"' in line]
    assert len(errors) == 1


@pytest.mark.parametrize(
    "name",
    [*("nosuchmodel", "/nonexistent/folder", "org/name", "~nosuchuser/model", "a" * 5000),
     *("nul\0byte", "../..//x", "🎉", "models--a--b")],
    ids=lambda name: repr(name[:20]),
)  # fmt: skip
@pytest.mark.parametrize("method", ["generate", "models/load", "models/unload", "tokenize"])
def test_unknown_models(method: str, name: str, shared_host: Host) -> None:
    more = {"generate": {"prompt": "x"}, "tokenize": {"text": "x"}}.get(method, {})
    error = refusal(shared_host, method, model=name, **more)
    assert (error.code, error.kind) == (1001, "modelNotFound")
    assert error.data["model"] == name
    works(shared_host)


def _config(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))

    return edit


def _tensors(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Edit the header of the weight file: names, shapes, offsets."""

    def edit(folder: Path) -> None:
        file = folder / "model.safetensors"
        data = file.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        change(header)
        head = json.dumps(header).encode()
        file.write_bytes(len(head).to_bytes(8, "little") + head + data[8 + size :])

    return edit


def _first(header: dict[str, Any]) -> dict[str, Any]:
    tensor: dict[str, Any] = next(row for name, row in header.items() if name != "__metadata__")
    return tensor


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _index(value: Any) -> Callable[[Path], Any]:
    return lambda f: (f / "model.safetensors.index.json").write_text(json.dumps(value))


BROKEN: dict[str, Callable[[Path], Any]] = {
    "no config": lambda f: (f / "config.json").unlink(),
    "config is no JSON": lambda f: (f / "config.json").write_text("{"),
    "config is no object": lambda f: (f / "config.json").write_text("[]"),
    "config is deep": lambda f: (f / "config.json").write_text("[" * 100_000),
    "config is binary": lambda f: (f / "config.json").write_bytes(b"\xff\xfe\0"),
    "no architecture": _config(lambda c: c.pop("model_type")),
    "unknown architecture": _config(lambda c: c.update(model_type="no_such_thing")),
    "hostile architecture": _config(lambda c: c.update(model_type="../../evil")),
    "architecture that exits": _config(lambda c: c.update(model_type="olmo")),
    "config lacks a member": _config(lambda c: c.pop("hidden_size")),
    "no weights": lambda f: (f / "model.safetensors").unlink(),
    "truncated": _cut,
    "empty file": lambda f: (f / "model.safetensors").write_bytes(b""),
    "header too long": lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 64),
    "weights are a folder": lambda f: (f / "model2.safetensors").mkdir(),
    "offsets are text": _tensors(lambda h: _first(h).update(data_offsets=["a", "b"])),
    "a tensor is missing": _tensors(lambda h: h.pop(next(n for n in h if n != "__metadata__"))),
    "a tensor too many": _tensors(
        lambda h: h.update(extra={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]})
    ),
    "wrong shape": _config(lambda c: c.update(hidden_size=96)),
    "wrong vocabulary": _config(lambda c: c.update(vocab_size=4096)),
    "index names a missing file": _index(
        {"weight_map": {"a": "model-00002.safetensors", "b": "model.safetensors"}}
    ),
    "index is odd": _index({"weight_map": ["a"]}),
    "no tokenizer": lambda f: (f / "tokenizer.json").unlink(),
    "broken tokenizer": lambda f: (f / "tokenizer.json").write_text('{"version": 1}'),
    "tokenizer is no JSON": lambda f: (f / "tokenizer.json").write_bytes(b"\xff"),
    "custom code": lambda f: (
        (f / "evil.py").write_text(f"open({str(f / 'ran')!r}, 'w')"),
        _config(lambda c: c.update(model_file="evil.py"))(f),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def broken(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("broken")
    for name, breakage in BROKEN.items():
        shutil.copytree(models / "tiny", folder / name)
        breakage(folder / name)
    return folder


@pytest.fixture(scope="module")
def engine(broken: Path, models: Path) -> Iterator[Host]:
    tiny = str(models / "tiny")
    with Host("--models-dir", str(broken), "--model", tiny, "--max-models", "2") as host:
        yield host


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folders(name: str, engine: Host, broken: Path) -> None:
    for method, more in (("generate", {"prompt": "x"}), ("models/load", {})):
        error = refusal(engine, method, model=name, **more)
        assert (error.code, error.kind) == (1002, "modelLoadFailed"), error.message
        assert error.data["model"] == name
        assert len(error.message) > 10
    works(engine)
    if "tokenizer" not in name:  # then the weights alone may be there
        assert name not in engine_models(engine)
    assert not (broken / name / "ran").exists()


def engine_models(host: Host) -> set[str]:
    return {row["id"] for row in host.call("models/list")["models"] if row["state"] == "ready"}


TEMPLATES = {
    "raises": ("{{ raise_exception('no') }}", -32602, "invalidParams"),
    "does not compile": ("{% if %}", 1006, "unsupported"),
    "absent": (None, 1006, "unsupported"),
    "is a number": (7, 1006, "unsupported"),
    "gives nothing": ("{# nothing #}", -32602, "invalidParams"),
    "divides by zero": ("{{ 1 // 0 }}", -32602, "invalidParams"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates(name: str, models: Path, tmp_path: Path, shared_host: Host) -> None:
    source, code, kind = TEMPLATES[name]
    shutil.copytree(models / "tiny", tmp_path / "model")
    file = tmp_path / "model" / "tokenizer_config.json"
    file.write_text(json.dumps({"chat_template": source, "eos_token": "<|endoftext|>"}))
    model = str(tmp_path / "model")
    for _ in range(2):
        error = refusal(shared_host, "chat", model=model, messages=HELLO, maxTokens=2)
        assert (error.code, error.kind) == (code, kind), error.message
        # The model itself is not at fault.
        assert shared_host.call("generate", model=model, prompt="x", maxTokens=2)
    shared_host.call("models/unload", model=model)
    works(shared_host)
