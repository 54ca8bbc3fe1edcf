"""`--prompt-cache-dir`: a restarted engine knows what the former one read, however that ended, and
nothing in the folder can do it harm.
"""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import signal
import stat
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.host import Host, run_python
from tests.phases import wait_until
from tests.residents import memory
from tests.test_prefix_cache import SCRIPT, some_tokens

KINDS: dict[str, dict[str, Any]] = {
    **{name: {"model": name} for name in ("llama", "gemma3_text", "mamba2", "qwen3_next")},
    "deepseek_v2": {"model": "deepseek_v2"},
    "kvBits": {"model": "heads", "kvBits": 8},
}
PROMPT = some_tokens("folder", 200)

Spawn = Callable[..., Host]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    run_python("-c", SCRIPT, str(folder))
    return folder


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The folder of prefixes; nobody has made it yet."""
    return tmp_path / "some" / "kv"


@pytest.fixture
def spawn(folder: Path, kept: Path) -> Iterator[Spawn]:
    with ExitStack() as stack:

        def start(*more: str, models: Path = folder) -> Host:
            options = ["--models-dir", str(models), "--model", "llama", "--max-models", "8"]
            return stack.enter_context(Host(*options, "--prompt-cache-dir", str(kept), *more))

        yield start


def ask(host: Host, prompt: list[int] = PROMPT, **more: Any) -> tuple[int, list[int]]:
    """Generate; how many tokens of the prompt were known, and the new ones."""
    options = {"maxTokens": 8, "ignoreEos": True, **more}
    result, deltas = host.stream("generate", prompt=prompt, **options)
    return result["usage"]["cachedTokens"], [t for delta in deltas for t in delta["tokens"]]


def files(kept: Path) -> list[Path]:
    return sorted(kept.glob("*.safetensors")) if kept.is_dir() else []


def entries(kept: Path) -> set[Path]:
    """All there is in the folder, half a file included."""
    return set(kept.iterdir()) if kept.is_dir() else set()


def grown(kept: Path, before: set[Path]) -> bool:
    """Whether the folder has something that it had not."""
    return not entries(kept) <= before


def saved(host: Host, kept: Path, count: int = 1) -> None:
    """Wait until an idle engine has written so many files."""
    wait_until(lambda: len(files(kept)) >= count)


def is_whole(file: Path) -> bool:
    """Whether a file is what its name says."""
    return file.is_file() and f"-{zlib.crc32(file.read_bytes()):08x}." in file.name


def leave(host: Host) -> None:
    host.close_stdin()
    assert host.wait() == 0
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in host.lines)


def warnings(host: Host) -> list[str]:
    lines = [json.loads(line) for line in host.stderr.splitlines()]
    return [line["event"] for line in lines if line["level"] in ("warning", "error")]


def killed(host: Host) -> None:
    """Kill it; it had nothing to complain of."""
    host.process.kill()
    host.wait()
    host.close()
    assert warnings(host) == []


def test_every_kind_of_cache_survives_a_restart(spawn: Spawn, kept: Path) -> None:
    first = spawn()
    answers = {kind: ask(first, **more) for kind, more in KINDS.items()}
    assert all(cached == 0 for cached, _ in answers.values())
    leave(first)
    second = spawn()
    longer = [*PROMPT, 7, 8, 9]
    for kind, more in KINDS.items():
        cached, tokens = ask(second, **more)
        assert (kind, cached) == (kind, 199)
        assert tokens == answers[kind][1]
        _, plain = ask(second, longer, **more, cachePrompt=False)
        cached, tokens = ask(second, longer, **more)
        assert cached >= 199
        assert tokens == plain
    leave(second)
    assert warnings(second) == []


@pytest.mark.parametrize("how", ["EOF", "exit", "SIGTERM", "at once"])
def test_an_end_that_was_asked_for_keeps_what_was_read(spawn: Spawn, kept: Path, how: str) -> None:
    """Even if the engine never was idle: what is not written yet is written when it leaves."""
    first = spawn()
    if how == "at once":
        first.start("generate", prompt=PROMPT, maxTokens=8, ignoreEos=True)
    else:
        ask(first)
    if how == "exit":
        first.call("shutdown")
        first.notify("exit")
    elif how == "SIGTERM":
        first.process.send_signal(signal.SIGTERM)
    else:
        first.close_stdin()
    assert first.wait() == (143 if how == "SIGTERM" else 0)
    assert len(files(kept)) == 1
    assert ask(spawn())[0] == 199


def test_what_an_idle_engine_has_written_survives_a_kill(spawn: Spawn, kept: Path) -> None:
    first = spawn()
    _, tokens = ask(first)
    saved(first, kept)
    first.process.kill()
    assert ask(spawn()) == (199, tokens)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert stat.S_IMODE(files(kept)[0].stat().st_mode) == 0o600


@pytest.mark.parametrize("moment", ["answered", "begun", "whole"])
def test_a_kill_at_any_time_leaves_whole_files(spawn: Spawn, kept: Path, moment: str) -> None:
    """Killed before it writes, as soon as a file begins, or when the first of three is whole."""
    chance = random.Random(moment)
    for _ in range(2):
        prompts = [some_tokens(chance.random(), 600) for _ in range(3)]
        before, whole = entries(kept), len(files(kept))
        host = spawn("--log-level", "warning")
        for prompt in prompts:
            ask(host, prompt, model="large", maxTokens=1)
        if moment == "begun":
            wait_until(functools.partial(grown, kept, before))
        elif moment == "whole":
            saved(host, kept, whole + 1)
        time.sleep(chance.random() * 0.005)
        killed(host)
        second = spawn("--log-level", "warning")
        found = 0
        for prompt in prompts:
            cached, tokens = ask(second, prompt, model="large")
            assert cached in (0, 599)
            found += cached > 0
            assert tokens == ask(second, prompt, model="large", cachePrompt=False)[1]
        assert found > 0 or moment != "whole"
        killed(second)


def test_other_weights_under_the_same_name_are_another_model(
    spawn: Spawn, folder: Path, tmp_path: Path, kept: Path
) -> None:
    shelf = tmp_path / "shelf"
    shutil.copytree(folder / "llama", shelf / "llama")
    for source, cached in (("llama", 0), ("other", 0), ("llama", 199)):
        # The copy of `llama` has the time of the original, as a restored backup would.
        shutil.copytree(folder / source, shelf / "llama", dirs_exist_ok=True)
        host = spawn(models=shelf)
        assert ask(host)[0] == cached
        saved(host, kept)
        leave(host)
    assert len(files(kept)) == 2


def test_what_lies_in_the_folder_does_no_harm(spawn: Spawn, kept: Path) -> None:
    first = spawn()
    _, tokens = ask(first)
    saved(first, kept)
    leave(first)
    (file,) = files(kept)
    blob = file.read_bytes()
    flipped = bytearray(blob)
    flipped[-9] ^= 1
    for content in (b"", blob[:-1], bytes(flipped), os.urandom(len(blob)), None):
        for written in files(kept):
            written.unlink()
        if content is None:
            os.mkfifo(file)
        else:
            file.write_bytes(content)
        (kept / "notes.txt").write_text("mine")
        (kept / "foreign.safetensors").write_bytes(b"\x08")
        (kept / ".kv-0123456789abcdef.tmp").write_bytes(blob[:50])
        host = spawn()
        assert ask(host) == (0, tokens)
        wait_until(lambda: any(map(is_whole, files(kept))))
        leave(host)
        assert "kv.disk.broken" in warnings(host)
    assert (kept / "notes.txt").read_text() == "mine"
    assert (kept / "foreign.safetensors").read_bytes() == b"\x08"


@pytest.mark.parametrize("what", ["a file", "under a file", "not writable"])
def test_a_folder_that_cannot_be_used_is_only_logged(spawn: Spawn, kept: Path, what: str) -> None:
    kept.parent.mkdir()
    if what == "a file":
        kept.write_text("mine")
    elif what == "under a file":
        kept.parent.rmdir()
        kept.parent.write_text("mine")
    else:  # to root too
        kept.symlink_to("/proc/self/fd")
    host = spawn()
    assert ask(host)[0] == 0
    assert ask(host)[0] == 199
    wait_until(lambda: b"kv.disk" in host.stderr)
    leave(host)
    assert "kv.disk.save_failed" in warnings(host)


def test_the_folder_is_bounded(spawn: Spawn, kept: Path) -> None:
    prompts = [some_tokens(("bounded", at), 200) for at in range(6)]
    first = spawn("--prompt-cache-limit", "500K")
    for count, prompt in enumerate(prompts, 1):
        ask(first, prompt)
        saved(first, kept, min(count, 4))
        wait_until(lambda: sum(file.stat().st_size for file in files(kept)) <= 500 * 1024)
        time.sleep(0.02)  # the order is that of times
    leave(first)
    second = spawn("--prompt-cache-limit", "500K")
    found = [ask(second, prompt)[0] for prompt in prompts[::-1]]
    assert found[0] == 199
    assert found[-1] == 0


def test_two_engines_on_one_folder(spawn: Spawn, kept: Path) -> None:
    first, second = spawn(), spawn()
    prompts = [some_tokens(("two", at), 200) for at in range(4)]
    answers = []
    for at, prompt in enumerate(prompts):
        answers.append(ask((first, second)[at % 2], prompt)[1])
        assert ask((second, first)[at % 2], prompt)[1] == answers[-1]
    for host in (first, second):
        leave(host)
        assert warnings(host) == []
    third = spawn()
    assert [ask(third, prompt) for prompt in prompts] == [(199, one) for one in answers]


def test_a_model_that_was_unloaded_finds_its_prefixes_again(spawn: Spawn, kept: Path) -> None:
    host = spawn()
    _, tokens = ask(host)
    host.call("models/unload", model="llama")
    assert memory(host)["prefixCacheBytes"] == 0
    assert ask(host) == (199, tokens)
    # Read from the file once: the next one finds it in memory.
    for file in files(kept):
        file.unlink()
    assert ask(host, [*PROMPT, 9])[0] >= 199


def test_requests_without_the_cache_leave_no_file(spawn: Spawn, kept: Path) -> None:
    host = spawn()
    ask(host, cachePrompt=False)
    leave(host)
    assert files(kept) == []
