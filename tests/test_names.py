"""From a model's name to its folder, in the local hub cache too, and never to the network."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.host import COMMAND, Host, RpcError
from tests.phases import wait_until
from tests.residents import copy_model, loads, row

SHORT: dict[str, Any] = {"prompt": "ab", "maxTokens": 3, "ignoreEos": True}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB_VARIABLES = ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")


def hub_entry(hub: Path, name: str, source: Path) -> Path:
    """A model in the hub's cache as the hub client lays it out; its snapshot."""
    repository = hub / ("models--" + name.replace("/", "--"))
    snapshot = repository / "snapshots" / COMMIT
    for folder in (repository / "blobs", repository / "refs", snapshot):
        folder.mkdir(parents=True)
    for number, file in enumerate(sorted(source.iterdir())):
        blob = repository / "blobs" / f"{number:040x}"
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(Path("../..") / "blobs" / blob.name)
    (repository / "refs" / "main").write_text(COMMIT)
    return snapshot


def hub_environment(variable: str, home: Path) -> tuple[dict[str, str], Path]:
    """An environment that puts the hub's cache somewhere, and where that is."""
    below = {"HF_HUB_CACHE": ".", "HF_HOME": "hub", "XDG_CACHE_HOME": "huggingface/hub"}
    environment = dict.fromkeys(HUB_VARIABLES, "")
    environment[variable] = str(home)
    return environment, home / below.get(variable, ".cache/huggingface/hub")


@pytest.mark.parametrize("variable", [*HUB_VARIABLES, "HOME"])
def test_ids_in_the_local_hub_cache(variable: str, models: Path, tmp_path: Path) -> None:
    environment, hub = hub_environment(variable, tmp_path)
    snapshot = hub_entry(hub, "org/some-model.v1", models / "tiny")
    (hub / "models--org--unfinished" / "refs").mkdir(parents=True)
    with Host("--model", "org/some-model.v1", env=environment) as host:
        assert host.call("generate", **SHORT)["model"] == "org/some-model.v1"
        assert row(host, "org/some-model.v1")["path"] == str(snapshot)
        # The snapshot's own path is another name of the same model.
        assert host.call("generate", model=str(snapshot), **SHORT)["model"] == "org/some-model.v1"
        assert loads(host) == 1
        for name in ("org/unfinished", "org/absent", "some-model.v1"):
            with pytest.raises(RpcError) as caught:
                host.call("generate", model=name, **SHORT)
            assert caught.value.kind == "modelNotFound"
        listed = [row["id"] for row in host.call("models/list")["models"]]
        assert listed == ["org/some-model.v1", "pico"]


def test_all_names_of_a_folder_are_one_model(models: Path, tmp_path: Path) -> None:
    copy_model(models / "tiny", tmp_path / "home" / "mine")
    (tmp_path / "link").symlink_to(tmp_path / "home" / "mine")
    with Host(cwd=tmp_path, env={"HOME": str(tmp_path / "home")}) as host:
        names = [
            *("home/mine", "./home/mine", "home/../home/mine/", "link", "~/mine"),
            *(str(tmp_path / "home" / "mine"), str(tmp_path / "link")),
        ]
        ids = {host.call("generate", model=name, **SHORT)["model"] for name in names}
        assert ids == {str(tmp_path / "home" / "mine")}
        assert loads(host) == 1


@pytest.mark.parametrize("name", ["tiny[4bit]", "a*?", "with space", "ünï 🎉", "%41", "pico.d"])
def test_a_folder_may_have_any_name(name: str, models: Path, tmp_path: Path) -> None:
    folder = copy_model(models / "tiny", tmp_path / name / name)
    with Host("--models-dir", str(tmp_path / name)) as host:
        assert host.call("generate", model=name, **SHORT)["model"] == name
        assert host.call("generate", model=str(folder), **SHORT)["model"] == name
        assert row(host, name)["state"] == "ready"


def test_a_name_inside_the_models_folder_goes_before_a_path(models: Path, tmp_path: Path) -> None:
    inside = copy_model(models / "tiny", tmp_path / "shelf" / "mine")
    outside = copy_model(models / "other", tmp_path / "mine")
    (tmp_path / "shelf" / "also").symlink_to(inside)
    with Host("--models-dir", "shelf", cwd=tmp_path) as host:
        for name, wanted in (
            *(("mine", "mine"), ("./mine", str(outside))),
            *(("also", "mine"), ("shelf/mine", "mine"), (str(inside), "mine")),
        ):
            assert host.call("generate", model=name, **SHORT)["model"] == wanted
        assert loads(host) == 2
        listed = {row["id"]: row["path"] for row in host.call("models/list")["models"]}
        assert listed.pop("pico")
        assert listed == {"mine": str(inside), str(outside): str(outside)}


@pytest.mark.skipif(sys.platform != "linux", reason="the other systems refuse such names")
def test_a_folder_whose_name_is_no_text_is_left_out(models: Path, tmp_path: Path) -> None:
    copy_model(models / "tiny", tmp_path / "mine")
    copy_model(models / "tiny", tmp_path / os.fsdecode(b"odd\xff"))
    (tmp_path / "link").symlink_to(os.fsdecode(b"odd\xff"))
    with Host("--models-dir", str(tmp_path), "--model", "mine") as host:
        listed = [row["id"] for row in host.call("models/list")["models"]]
        assert listed == ["mine", "pico"]
        with pytest.raises(RpcError) as caught:
            host.call("models/load", model="link")
        assert caught.value.kind == "modelNotFound"
        assert host.call("generate", **SHORT)["model"] == "mine"


# No network.


def sockets(pid: int) -> set[str]:
    """The inodes of a process's sockets."""
    links: list[str] = []
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.append(file.readlink().name)
    return {link[8:-1] for link in links if link.startswith("socket:")}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_descriptor_is_a_socket_that_anybody_could_reach(models: Path) -> None:
    with Host("--models-dir", str(models), "--model", "tiny") as host:
        host.call("generate", **SHORT)
        # The event loop comes after the first request, with a pair of sockets to wake itself.
        wait_until(lambda: len(sockets(host.process.pid)) == 2)
        mine = sockets(host.process.pid)
        net = Path(f"/proc/{host.process.pid}/net")
        for table in ("tcp", "tcp6", "udp", "udp6", "raw", "packet", "netlink"):
            if (net / table).exists():
                assert not mine & set((net / table).read_text().split())
        # That pair is all there is, and has no name.
        unnamed = {
            row[6]
            for row in map(str.split, (net / "unix").read_text().splitlines())
            if len(row) == 7
        }
        assert len(mine & unnamed) == 2 == len(mine)


def can_trace() -> bool:
    try:
        return subprocess.run(["strace", "-qq", "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not can_trace(), reason="needs strace")
def test_nothing_ever_goes_to_the_network(models: Path, tmp_path: Path) -> None:
    """An id that is in the hub's cache, one that is not, and a tokenizer of `transformers`."""
    environment, hub = hub_environment("HF_HOME", tmp_path / "home")
    hub_entry(hub, "org/here", models / "tiny")
    slow = copy_model(models / "tiny", tmp_path / "slow")
    (slow / "tokenizer.json").unlink()
    (slow / "vocab.txt").write_text("\n".join(["[UNK]", "[CLS]", "[SEP]", "[PAD]", "ab", "cd"]))
    (slow / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    log = tmp_path / "trace"
    strace = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=network", "-o", str(log)]
    with Host(command=[*strace, *COMMAND], env=environment) as host:
        assert host.call("generate", model="org/here", **SHORT)["model"] == "org/here"
        assert host.call("tokenize", model=str(slow), text="ab cd")["tokens"] == [4, 5]
        with pytest.raises(RpcError):
            host.call("models/load", model="org/absent")
        host.call("models/list")
        host.close_stdin()
        assert host.wait() == 0
    calls = re.findall(r"^\d+ +(\w+)\((\w+)", log.read_text(), re.MULTILINE)
    # The event loop wakes itself by a pair of sockets that have no address.
    assert ("socketpair", "AF_UNIX") in calls
    assert {name for name, _ in calls} <= {"socketpair", "getsockname"}
