"""The standalone build over the pipe: no Python on its path, an empty environment, another folder.

`make standalone` makes the build and then runs this. Without one all is skipped: it takes too long
to be made for every commit.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.host import ROOT, Host, RpcError, joined, tokens_of
from tests.random_models import ARCHITECTURES, make_model, reference
from tests.residents import copy_model, row

FOLDER = ROOT / "build" / "standalone"
BINARY = FOLDER / "mlx-stdio"
SHORT: dict[str, Any] = {"prompt": "the quick", "maxTokens": 6, "temperature": 0}
PICO: dict[str, Any] = {"model": "pico", "prompt": "def add(a, b):", "temperature": 0}

pytestmark = pytest.mark.skipif(
    not BINARY.exists(), reason="build/standalone is not there: `make standalone` makes it"
)

Spawn = Callable[..., Host]


@pytest.fixture
def bare(models: Path, tmp_path: Path) -> Iterator[Spawn]:
    """Spawns the program with nothing in its environment but what is given, in an empty folder."""
    with ExitStack() as stack:

        def spawn(*options: str, **variables: str) -> Host:
            cwd = tmp_path / "elsewhere"
            cwd.mkdir(exist_ok=True)
            given = {"PATH": "/nonexistent", "TMPDIR": str(tmp_path), **variables}
            clean = ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in given.items())]
            arguments = ("--models-dir", str(models), "--model", "tiny", *options)
            return stack.enter_context(Host(*arguments, command=[*clean, str(BINARY)], cwd=cwd))

        yield spawn


def test_a_conversation_from_the_handshake_to_the_exit(bare: Spawn) -> None:
    host = bare()
    hello = host.call("initialize", protocolVersion=1)
    assert hello["protocolVersion"] == 1
    result, deltas = host.stream("generate", maxTokens=8, **PICO)
    assert "return a + b" in result["text"]
    assert joined(deltas) == result["text"]
    chat = host.call(
        "chat", model="pico", messages=[{"role": "user", "content": "hi"}], maxTokens=4
    )
    assert chat["usage"]["completionTokens"] > 0
    assert host.call("rpc.discover")["methods"]
    host.call("shutdown")
    host.notify("exit")
    assert host.wait() == 0
    assert all(line.startswith(b"{") for line in host.lines)


def test_a_cancel_is_answered_and_the_engine_goes_on(bare: Spawn) -> None:
    host = bare()
    running = host.start("generate", prompt="ab", maxTokens=2000, ignoreEos=True)
    host.until(lambda message: message.get("method") == "stream/delta")
    host.cancel(running)
    with pytest.raises(RpcError) as caught:
        host.reply(running)
    assert caught.value.kind == "cancelled"
    assert host.call("generate", **SHORT)["usage"]["completionTokens"] > 0
    host.close_stdin()
    assert host.wait() == 0


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_model_gives_the_text_that_mlx_lm_gives(
    architecture: str, bare: Spawn, tmp_path: Path
) -> None:
    folder = make_model(tmp_path / "models" / architecture, architecture)
    (expected,) = reference(folder, [SHORT["prompt"]], SHORT["maxTokens"])
    result, deltas = bare().stream("generate", model=str(folder), **SHORT)
    assert tokens_of(deltas) == expected["tokens"]
    assert result["text"] == expected["text"]


def test_mlx_finds_its_headers_where_there_is_a_compiler(bare: Spawn, tmp_path: Path) -> None:
    if sys.platform != "linux" or shutil.which("g++", path="/usr/bin:/bin") is None:
        pytest.skip("MLX on a CPU compiles kernels with g++, and there is none")
    without = bare().call("generate", maxTokens=8, **PICO)
    assert not list(tmp_path.glob("mlx/**/*.so"))
    with_one = bare(PATH="/usr/bin:/bin").call("generate", maxTokens=8, **PICO)
    assert list(tmp_path.glob("mlx/**/*.so"))
    assert with_one["text"] == without["text"]


def test_prompts_are_kept_on_disk(bare: Spawn, tmp_path: Path) -> None:
    store = tmp_path / "prompts"
    for cached in (False, True):
        host = bare("--prompt-cache-dir", str(store))
        usage = host.call("generate", **{**SHORT, "prompt": "the quick brown fox " * 20})["usage"]
        assert (usage["cachedTokens"] > 0) is cached
        host.close_stdin()
        assert host.wait() == 0


def test_a_folder_that_needs_transformers_gets_an_error(
    bare: Spawn, models: Path, tmp_path: Path
) -> None:
    folder = copy_model(models / "tiny", tmp_path / "slow")
    (folder / "tokenizer.json").unlink()
    host = bare()
    with pytest.raises(RpcError) as caught:
        host.call("generate", model=str(folder), **SHORT)
    assert caught.value.kind == "modelLoadFailed"
    assert host.call("generate", **SHORT)["usage"]["completionTokens"] > 0
    assert row(host, "tiny")["tokenizer"] == "tokenizers"


def test_nothing_of_an_installed_python_is_mapped(bare: Spawn) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux shows what a process has mapped")
    host = bare()
    host.call("generate", **SHORT)
    maps = Path(f"/proc/{host.process.pid}/maps").read_text()
    files = set(re.findall(r" (/\S+)$", maps, re.MULTILINE))
    own = {file for file in files if Path(file).is_relative_to(FOLDER)}
    assert any("libmlx" in file for file in own)
    system = ("/lib/", "/lib64/", "/usr/lib/", "/usr/lib64/", "/etc/", "/dev/")
    assert not [file for file in files - own if not file.startswith(system)]
    assert not [file for file in files - own if "python" in file.lower()]


def test_the_command_line_is_a_persons_too(bare: Spawn) -> None:
    from mlx_stdio import __version__

    host = bare("--version")
    assert host.wait() == 0
    host.close()
    assert host.lines == [f"mlx-stdio {__version__}\n".encode()]
