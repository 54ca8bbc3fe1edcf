"""`initialize`: versions, limits, capabilities; and what is said to be not built is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlx_stdio import __version__
from mlx_stdio.conformance.lacking import REQUIRED, REQUIRED_PARAMS
from mlx_stdio.protocol.methods import METHODS, UNSUPPORTED_PARAMS
from tests.host import Host, RpcError
from tests.residents import await_note, loads

HELLO = [{"role": "user", "content": "hello"}]


def test_initialize_tells_versions_limits_and_capabilities(models: Path) -> None:
    arguments = ["--models-dir", str(models), "--model", "tiny"]
    limits = ["--max-message-bytes", "64K", "--max-concurrent", "3", "--max-queued", "5"]
    with Host(*arguments, *limits) as host:
        result = host.call("initialize", protocolVersion=1, clientInfo={"name": "x"})
    assert result["protocolVersion"] == 1
    assert result["serverInfo"] == {"name": "mlx-stdio", "version": __version__}
    assert result["defaultModel"] == "tiny"
    assert result["limits"] == {
        "maxMessageBytes": 65536,
        "maxConcurrentRequests": 3,
        "maxQueuedRequests": 5,
    }
    capabilities = result["capabilities"]
    assert capabilities["unsupportedMethods"] == ["embed"]
    calls = {name for name, method in METHODS.items() if not method.notification}
    assert set(capabilities["methods"]) == calls - {"embed"}
    assert set(capabilities["unsupportedParams"]) == set(UNSUPPORTED_PARAMS)
    assert capabilities["framings"] == ["newline", "content-length"]
    assert set(capabilities["methods"]) >= REQUIRED
    assert not set(capabilities["unsupportedParams"]) & REQUIRED_PARAMS


def test_the_version_is_the_highest_that_both_know(shared_host: Host) -> None:
    for version in (1, 2, 999):
        assert shared_host.call("initialize", protocolVersion=version)["protocolVersion"] == 1
    for wrong in (0, -1, "1", 1.5, None):
        with pytest.raises(RpcError) as caught:
            shared_host.call("initialize", protocolVersion=wrong)
        assert caught.value.code == -32602
        assert caught.value.data["path"] in ("$.protocolVersion", "$")


MINIMAL: dict[str, dict[str, Any]] = {"generate": {"prompt": "x"}, "chat": {"messages": HELLO}}
UNBUILT: dict[str, tuple[str, Any]] = {
    "adapter": ("generate", "x"),
    "responseFormat": ("generate", {"type": "json"}),
    "toolChoice": ("chat", "auto"),
    "tools": ("chat", [{"type": "function"}]),
}


def test_what_is_not_built_is_refused_before_any_work(models: Path) -> None:
    assert UNBUILT.keys() == set(UNSUPPORTED_PARAMS)
    with Host("--models-dir", str(models), "--model", "tiny") as host:
        calls = [(method, {name: value}, name) for name, (method, value) in UNBUILT.items()]
        calls += [("models/load", {"model": "tiny", "adapter": "x"}, "adapter")]
        for method, params, name in calls:
            more = MINIMAL.get(method, {})
            with pytest.raises(RpcError) as caught:
                host.call(method, **params, **more)
            assert (caught.value.code, caught.value.kind) == (1006, "unsupported")
            assert caught.value.data["path"] == f"$.{name}"
        with pytest.raises(RpcError) as caught:
            host.call("embed", input=["a"])
        assert caught.value.kind == "unsupported"
        assert loads(host) == 0
        text = {"type": "text"}
        assert host.call("generate", prompt="x", maxTokens=1, responseFormat=text)
        await_note(host, "models/changed", model="tiny", state="ready")
