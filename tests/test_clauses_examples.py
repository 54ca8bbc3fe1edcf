"""The examples of `protocol.md`'s reference are what the real engine takes and gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from mlx_stdio.errors import EngineError
from mlx_stdio.protocol import examples
from mlx_stdio.protocol.examples import EXAMPLES, Example, request_of
from mlx_stdio.protocol.methods import METHODS
from mlx_stdio.protocol.text import DetokenizeParams, DetokenizeResult, TokenizeParams
from tests.host import ROOT, Host, RpcError
from tools import reference_examples as checker

CALLS = [name for name, row in METHODS.items() if not row.notification]
STEADY = {
    *("text", "content", "tokens", "prompt", "finishReason", "promptTokens", "completionTokens"),
    *("protocolVersion", "methods", "unsupportedMethods", "unsupportedParams", "framings"),
    *("maxMessageBytes", "maxConcurrentRequests", "maxQueuedRequests", "defaultModel", "model"),
    *("id", "state", "modelType", "contextLength", "vocabularySize", "keepAliveSeconds"),
}
"""Members whose values depend neither on the machine nor on what was before."""


@pytest.fixture(scope="module")
def engine() -> Iterator[Host]:
    with Host() as host:
        host.call("models/load", model="pico", pin=True, keepAliveSeconds=600)
        yield host


@pytest.mark.parametrize("name", CALLS)
def test_an_example_is_what_the_engine_answers(name: str, engine: Host) -> None:
    if name == "shutdown":
        with Host() as host:
            assert host.call(name) is None
        return
    wanted = EXAMPLES[name].result
    params = request_of(name).get("params", {})
    if isinstance(wanted, EngineError):
        with pytest.raises(RpcError) as caught:
            engine.call(name, **params)
        assert caught.value.code == wanted.code
        assert caught.value.message == wanted.message
        assert caught.value.data == wanted.to_wire()["data"]
        return
    found = engine.call(name, **params)
    if name == "rpc.discover":
        assert found["openrpc"]
        return
    agree(msgspec.to_builtins(wanted), found, name)
    if name == "models/unload":  # for those that come after it
        engine.call("models/load", model="pico", pin=True, keepAliveSeconds=600)


def agree(example: Any, found: Any, path: str) -> None:
    """An example has members that the engine sends, and their values where those are steady."""
    if isinstance(example, dict):
        optional = {"mlxVersion", "blas", "pinned"}
        assert example.keys() - optional == found.keys() - optional, path
        for name in example.keys() & found.keys():
            agree(example[name], found[name], f"{path}.{name}")
        return
    if isinstance(example, list) and example and isinstance(example[0], dict):
        agree(example[0], found[0], f"{path}[0]")
        return
    assert type(example) is type(found) or {type(example), type(found)} == {int, float}, path
    if path.rsplit(".", 1)[-1] in STEADY and ".counters." not in path:
        assert example == found, path


def test_a_wrong_example_ends_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    method = METHODS["detokenize"]
    good = EXAMPLES["detokenize"]
    assert any("def add" in line for line in checker.method_example(method))
    result = DetokenizeResult(model="pico", text="x")
    wrong: list[tuple[Example, type[Exception]]] = [
        (Example(DetokenizeParams(tokens=[-1]), result), EngineError),
        (Example(TokenizeParams(text="x"), result), EngineError),
        (Example(good.params, DetokenizeResult(model="pico", text=1)), Exception),  # type: ignore[arg-type]
        (Example(good.params, None), msgspec.ValidationError),
        (Example(good.params, EngineError("overloaded", "x")), ValueError),
        (Example(good.params, EXAMPLES["tokenize"].result), msgspec.ValidationError),
    ]
    for example, error in wrong:
        monkeypatch.setitem(EXAMPLES, "detokenize", example)
        with pytest.raises(error):
            checker.method_example(method)


def test_no_method_is_without_an_example(monkeypatch: pytest.MonkeyPatch) -> None:
    checker.check_completeness()
    for table in (EXAMPLES, examples.NOTIFICATION_EXAMPLES):
        name = next(iter(table))
        with monkeypatch.context() as patch:
            patch.delitem(table, name)
            with pytest.raises(ValueError, match=name):
                checker.check_completeness()


def test_the_page_shows_each_example() -> None:
    page = (ROOT / "protocol.md").read_text(encoding="utf-8")
    for name, row in METHODS.items():
        marks = " (not built)" * (not row.built) + " (notification)" * row.notification
        part = page.split(f"\n#### `{name}`{marks}\n")[1].split("\n#### ")[0]
        lines = [line[0] for line in part.splitlines() if line.startswith(("> {", "< {"))]
        assert lines == ([">"] if row.notification else [">", "<"]), name
