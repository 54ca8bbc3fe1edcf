"""The options of the command line are those of protocol.md's table, and mean what it says."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest

from mlx_stdio.cli import read_settings
from tests.host import COMMAND, ROOT

OWN = {"--help", "--version", "--blas", "--profile-start", "--log-level"}
"""Those that no clause needs."""

VALUES: dict[str, tuple[str, Any]] = {
    "--model": ("one", "one"),
    "--models-dir": ("shelf", "shelf"),
    "--max-models": ("2", 2),
    "--memory-limit": ("1.5G", 3 << 29),
    "--prefix-cache-limit": ("0", 0),
    "--prompt-cache-dir": ("kv", "kv"),
    "--prompt-cache-limit": ("2T", 2 << 40),
    "--keep-alive": ("0.5", 0.5),
    "--max-message-bytes": ("64k", 64 << 10),
    "--framing": ("newline", "newline"),
    "--max-concurrent": ("3", 3),
    "--max-queued": ("4", 4),
    "--prefill-step": ("100", 100),
}
FLAGS = {"--preload", "--trust-remote-code"}


def test_the_table_has_the_options() -> None:
    text = (ROOT / "protocol.md").read_text()
    table = set(re.findall(r"^\| `(--[a-z-]+)` \|", text, re.MULTILINE))
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True)
    taken = set(re.findall(r"^ +(?:-h, )?(--[a-z-]+)", done.stdout, re.MULTILINE))
    assert table == taken - OWN == VALUES.keys() | FLAGS


def test_the_table_has_the_defaults() -> None:
    text = (ROOT / "protocol.md").read_text()
    rows = re.findall(r"^\| `--([a-z-]+)` \| \S.*? \| (\S+) \| [\d.]+ \|$", text, re.MULTILINE)
    assert len(rows) >= 8
    for option, default in rows:
        name = option.replace("-", "_")
        given = read_settings([f"--{option}={default.strip('`')}"])
        expected = None if default == "none" else getattr(given, name)
        assert getattr(read_settings([]), name) == expected, option


@pytest.mark.parametrize("option", VALUES)
def test_a_value_follows_or_stands_behind_an_equals_sign(option: str) -> None:
    text, value = VALUES[option]
    name = option.removeprefix("--").replace("-", "_")
    for arguments in ([option, text], [f"{option}={text}"]):
        assert getattr(read_settings(arguments), name) == value


@pytest.mark.parametrize("option", sorted(FLAGS))
def test_a_flag_has_none(option: str) -> None:
    name = option.removeprefix("--").replace("-", "_")
    assert getattr(read_settings([option]), name) is True
    assert getattr(read_settings([]), name) is False


@pytest.mark.parametrize(
    "wrong",
    [f"{option}=" for option, (_, value) in VALUES.items() if not isinstance(value, str)]
    + [
        "--framing=",
        "--max-queued=0",
        "--memory-limit=1X",
        "--keep-alive=-1",
        "--preload=1",
        "--prelo",
    ],
)
def test_other_values_are_refused(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read_settings([wrong])
    assert caught.value.code == 2
    assert capsys.readouterr().out == ""
