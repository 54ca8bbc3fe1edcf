"""Pins, and the loads that are refused because nothing that may go would make room for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.host import Host, RpcError
from tests.residents import await_note, changes, ready, row

Spawn = Callable[..., Host]
MIB = 2**20


def use(host: Host, model: str) -> None:
    host.call("generate", model=model, prompt="ab", maxTokens=2)


def refused(host: Host, method: str, **params: Any) -> dict[str, Any]:
    """The figures of an `outOfMemory` error."""
    with pytest.raises(RpcError) as caught:
        host.call(method, **params)
    assert (caught.value.code, caught.value.kind) == (1005, "outOfMemory")
    return caught.value.data


def test_a_pinned_model_is_no_victim(spawn: Spawn) -> None:
    host = spawn("--max-models", "2")
    assert host.call("models/load", model="a", pin=True)["model"]["pinned"] is True
    for model in "bcd":
        use(host, model)
    assert ready(host) == ["d", "a"]
    # A load without a word about pins leaves the pin.
    assert host.call("models/load", model="a")["model"]["pinned"] is True
    assert host.call("models/load", model="a", pin=False)["model"]["pinned"] is False
    use(host, "b")
    use(host, "c")
    assert ready(host) == ["c", "b"]


def test_pins_on_every_place_refuse_a_load(spawn: Spawn) -> None:
    host = spawn("--max-models", "2")
    for model in "ab":
        host.call("models/load", model=model, pin=True)
    before = changes(host)
    for method, more in (("models/load", {}), ("generate", {"prompt": "ab"})):
        figures = refused(host, method, model="c", **more)
        assert (figures["maxModels"], figures["pinnedModels"]) == (2, 2)
        assert figures["model"] == "c"
    assert changes(host) == before
    use(host, "a")
    host.call("models/load", model="a", pin=False)
    use(host, "c")
    assert sorted(ready(host)) == ["b", "c"]


def test_pinned_bytes_refuse_a_load_before_anything_is_evicted(spawn: Spawn, shelf: Path) -> None:
    file = (shelf / "a" / "model.safetensors").stat().st_size
    host = spawn("--max-models", "9", "--memory-limit", str(int(2.5 * file)))
    host.call("models/load", model="a", pin=True)
    host.call("models/load", model="b", pin=True)
    figures = refused(host, "models/load", model="c")
    assert figures["pinnedBytes"] == 2 * row(host, "a")["bytes"]
    assert figures["limitBytes"] == int(2.5 * file)
    assert figures["neededBytes"] == file
    assert ready(host) == ["b", "a"]


def test_a_model_that_can_never_fit_evicts_nothing(spawn: Spawn) -> None:
    host = spawn("--memory-limit", "4M")
    use(host, "a")
    use(host, "b")
    running = host.start("generate", model="a", prompt="ab", maxTokens=200, ignoreEos=True)
    await_note(host, "stream/delta", requestId=running)
    for method, more in (("models/load", {"pin": True}), ("generate", {"prompt": "ab"})):
        figures = refused(host, method, model="big", **more)
        assert figures["neededBytes"] > figures["limitBytes"] == 4 * MIB
    assert host.reply(running)["usage"]["completionTokens"] == 200
    assert sorted(ready(host)) == ["a", "b"]
    assert len(changes(host)) == 2
