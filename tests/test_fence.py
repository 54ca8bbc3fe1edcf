"""The fence around descriptors 0 and 1: nothing but the protocol reaches the protocol's pipes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.host import COMMAND, ROOT, Host

CHILD = """
import ctypes, os, subprocess, sys
from mlx_stdio.wire.fence import raise_fence
pipes = raise_fence()
"""


def fenced(code: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run code behind the fence in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD + code], input=data, capture_output=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done


@pytest.mark.parametrize(
    "code",
    [
        "print('stray', flush=True)",
        "sys.stdout.write('stray'); sys.stdout.flush()",
        "os.write(1, b'stray')",
        "libc = ctypes.CDLL(None); libc.puts(b'stray'); libc.fflush(None)",
        "libc = ctypes.CDLL(None); libc.write(1, b'stray', 5)",
        "subprocess.run(['echo', 'stray'], check=True)",
        "subprocess.run([sys.executable, '-c', 'import os; os.write(1, b\"stray\")'])",
        "os.system('echo stray')",
    ],
)
def test_a_stray_write_goes_to_stderr(code: str) -> None:
    done = fenced(f"{code}\nos.write(pipes.stdout, b'protocol')")
    assert done.stdout == b"protocol"
    assert b"stray" in done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "assert sys.stdin.read() == ''",
        "assert os.read(0, 100) == b''",
        "assert subprocess.run(['cat'], capture_output=True).stdout == b''",
        "assert subprocess.run(['cat'], capture_output=True, close_fds=False).stdout == b''",
    ],
)
def test_nobody_else_reads_a_request(code: str) -> None:
    done = fenced(f"{code}\nos.write(pipes.stdout, os.read(pipes.stdin, 100))", b"request")
    assert done.stdout == b"request"


def test_children_inherit_neither_pipe() -> None:
    listing = "import os; print(sorted(int(fd) for fd in os.listdir('/dev/fd')))"
    code = f"subprocess.run([sys.executable, '-c', {listing!r}], close_fds=False, check=True)"
    plain = subprocess.run(
        [sys.executable, "-c", listing], capture_output=True, stdin=subprocess.PIPE, check=True
    )
    assert fenced(code).stderr == plain.stdout


def test_a_child_that_lives_on_does_not_hold_the_pipes() -> None:
    """The host's read of stdout ends with the engine, not with a process that it left behind."""
    code = """
child = subprocess.Popen(["sleep", "60"], stdin=None, stdout=None, stderr=subprocess.DEVNULL,
                         close_fds=False)
os.write(pipes.stdout, b"%d" % child.pid)
"""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.read())  # to the end: would hang if the child held the pipe
    os.kill(pid, 9)


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
def test_descriptors_closed_by_the_host_are_filled(closed: tuple[int, ...], tmp_path: Path) -> None:
    """No file that is opened later gets the number 0, 1 or 2, and the engine ends cleanly."""
    report = tmp_path / "report"
    code = f"""
file = open({str(report)!r}, "w")
os.write(1, b"stray")
assert os.read(0, 10) == b""
file.write(f"{{file.fileno() > 2 and min(pipes) > 2}} {{[os.get_inheritable(p) for p in pipes]}}")
"""
    shell = " ".join(f"{fd}{'<' if fd == 0 else '>'}&-" for fd in closed)
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {shell}', sys.executable, CHILD + code],
        input=b"",
        capture_output=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert report.read_text() == "True [False, False]"
    assert done.stdout == b""


@pytest.mark.parametrize("closed", ["0<&-", "0<&- 2>&-", "0<&- 1>&-", "0<&- 1>&- 2>&-"])
def test_the_engine_ends_well_without_its_descriptors(closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND],
        input=b"",
        capture_output=True,
        cwd=ROOT,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0
    assert done.stdout == b""
    assert b"Traceback" not in done.stderr


def test_a_print_inside_the_engine_is_not_in_the_stream(models: Path, tmp_path: Path) -> None:
    """A module that prints as it is imported, as `mlx_lm`'s `olmo` does, in the real engine."""
    noise = "import os; print('stray', flush=True); os.write(1, b'stray'); os.system('echo stray')"
    (tmp_path / "sitecustomize.py").write_text(
        "import builtins, sys\nreal = builtins.__import__\n"
        "def noisy(name, *rest, **more):\n"
        "    if name.startswith('mlx'):\n"
        f"        exec({noise!r}) if 'mlx_stdio.wire.fence' in sys.modules else None\n"
        "    return real(name, *rest, **more)\n"
        "builtins.__import__ = noisy\n"
    )
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    with Host("--models-dir", str(models), "--model", "tiny", env={"PYTHONPATH": path}) as host:
        host.call("generate", prompt="ab", maxTokens=4)
        host.close_stdin()
        assert host.wait() == 0
        assert all(line.startswith(b'{"jsonrpc":"2.0"') for line in host.lines)
        assert b"stray" in host.stderr
