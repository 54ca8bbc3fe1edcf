"""A fault of the engine itself: announced, every request answered once, exit code 70."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.host import ROOT, Host, RpcError


@pytest.fixture
def broken_mlx(tmp_path: Path) -> str:
    """A search path on which `mlx.core` fails to import, as with a missing system library."""
    package = tmp_path / "mlx"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "core.py").write_text("raise ImportError('libmlx.so: cannot open')\n")
    return f"{tmp_path}:{ROOT}"


def test_announced_answered_and_gone(models: Path, broken_mlx: str) -> None:
    env = {"PYTHONPATH": broken_mlx}
    with Host("--models-dir", str(models), "--model", "tiny", env=env) as host:
        # Several requests in one write: they are in flight before the fault is noticed.
        host.write(
            b'{"jsonrpc":"2.0","id":"a","method":"generate","params":{"prompt":"x"}}\n'
            b'[{"jsonrpc":"2.0","id":"b","method":"models/load","params":{"model":"tiny"}}]\n'
        )
        messages = host.rest()
        assert host.wait() == 70
    notes = [m for m in messages if isinstance(m, dict) and m.get("method") == "engine/fatal"]
    assert len(notes) == 1
    assert "libmlx.so" in notes[0]["params"]["message"]
    replies = {
        m["id"]: m["error"]
        for entry in messages
        for m in (entry if isinstance(entry, list) else [entry])
        if "id" in m
    }
    assert set(replies) == {"a", "b"}
    assert all(error["code"] == 1008 for error in replies.values())
    assert all(error["data"]["kind"] == "engineFault" for error in replies.values())
    fatal = messages.index(notes[0])
    assert fatal == 0, "the announcement comes before the errors"


def test_handshake_needs_no_mlx(broken_mlx: str) -> None:
    """Without a request there is still a handshake, then the announcement and the exit."""
    with Host(env={"PYTHONPATH": broken_mlx}) as host:
        host.start("initialize", protocolVersion=1)
        first = host.next()
        assert first["result"]["serverInfo"]["name"] == "mlx-stdio"
        note = host.next()
        assert note["method"] == "engine/fatal"
        assert host.wait() == 70


def test_a_bad_request_is_no_fault(host: Host) -> None:
    with pytest.raises(RpcError) as caught:
        host.call("generate", prompt="x", model="nowhere/nothing")
    assert caught.value.kind == "modelNotFound"
    assert host.call("ping") == {}
