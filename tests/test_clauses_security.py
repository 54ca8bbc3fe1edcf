"""Clauses of `protocol.md`'s section 13 that no other test proves, through the real engine."""

from __future__ import annotations

import json
import os
import pickle
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.host import Host, RpcError
from tests.phases import wait_until
from tests.residents import copy_model

SECRET = "the quick secret brown fox "

ESCAPES = {
    "a class": "{{ ''.__class__.__mro__ }}",
    "a function's globals": "{{ raise_exception.__globals__ }}",
    "a filter's globals": "{{ ''|attr('__class__') }}",
    "a change": "{{ messages.append(1) }}",
    "an import": "{% import 'os' as os %}{{ os }}",
    "a format": "{{ '{0.__class__}'.format(messages) }}",
}


def rendered(host: Host) -> str:
    """What a template made; nothing where it was refused. (What it cannot reach is undefined.)"""
    request_id = host.start("applyTemplate", messages=[{"role": "user", "content": "x"}])
    try:
        prompt: str = host.reply(request_id)["prompt"]
    except RpcError:
        return ""
    return prompt


@pytest.mark.parametrize("name", ESCAPES)
def test_a_template_cannot_leave_its_sandbox(name: str, models: Path, tmp_path: Path) -> None:
    folder = copy_model(models / "tiny", tmp_path / "model")
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    with Host("--models-dir", str(tmp_path), "--model", "model") as host:
        for source, allowed in ((ESCAPES[name], False), ("{{ messages|length }}", True)):
            file.write_text(json.dumps({**config, "chat_template": source}))
            host.call("models/unload", model="model")
            assert rendered(host) == ("1" if allowed else "")
            host.call("models/load", model="model")  # so that its unload forgets the template


class Trap:
    """Pickled, it is a command that runs when it is read."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (self.command,))


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "weights.npz", "model.pkl"])
def test_a_pickle_is_not_read(file: str, models: Path, tmp_path: Path) -> None:
    folder = copy_model(models / "tiny", tmp_path / "models" / "model")
    (folder / "model.safetensors").unlink()
    ran = tmp_path / "ran"
    trap = pickle.dumps(Trap(f"touch {ran}"))
    (folder / file).write_bytes(trap)
    with Host("--models-dir", str(tmp_path / "models"), "--trust-remote-code") as host:
        with pytest.raises(RpcError) as caught:
            host.call("models/load", model="model")
        assert caught.value.kind == "modelLoadFailed"
    assert not ran.exists()
    pickle.loads(trap)  # the trap works
    assert ran.exists()


def files_with(folder: Path, secret: bytes) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and secret in file.read_bytes()]


def test_prompts_and_texts_are_neither_logged_nor_written(models: Path, tmp_path: Path) -> None:
    """With the most talkative log, and in every folder that the engine is told of."""
    home = tmp_path / "home"
    home.mkdir()
    places = {name: str(home) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
    arguments = ["--models-dir", str(models), "--model", "tiny", "--log-level", "debug"]
    with Host(*arguments, env=places, cwd=home) as host:
        ids = host.call("tokenize", text=SECRET)["tokens"]
        bias = {str(token): 50.0 for token in ids}
        text = host.call("generate", prompt=SECRET * 9, maxTokens=40, logitBias=bias)["text"]
        host.call("chat", messages=[{"role": "user", "content": SECRET}], maxTokens=4)
        for wrong in ({"prompt": SECRET, "topK": -1}, {"prompt": SECRET * 2000}):
            with pytest.raises(RpcError):
                host.call("generate", **wrong)
        host.notify("exit")
        assert host.wait() == 1
        host.close()
        log = host.stderr
    assert b'"event":"exit"' in log
    for secret in (b"secret brown", text.encode()[:12]):
        assert len(secret) > 8
        assert secret not in log
        assert files_with(home, secret) == []
    # The same search finds what is there.
    (home / "seen").write_text(SECRET)
    assert files_with(home, b"secret brown") == [home / "seen"]


def test_files_of_prompts_are_the_users_own(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prompts"
    arguments = ["--models-dir", str(models), "--model", "tiny", "--prompt-cache-dir", str(folder)]
    before = os.umask(0)  # the engine inherits it, and must not rely on it
    try:
        with Host(*arguments) as host:
            host.call("generate", prompt=[7] * 600, maxTokens=2, ignoreEos=True)
            wait_until(lambda: [file for file in folder.rglob("*") if file.is_file()])
            host.close_stdin()
            assert host.wait() == 0
    finally:
        os.umask(before)
    found = [folder, *folder.rglob("*")]
    assert any(file.is_file() for file in found)
    for file in found:
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file
