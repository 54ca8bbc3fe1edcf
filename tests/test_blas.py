"""OpenBLAS on a Linux CPU: used when the system has it, named in the status, and optional."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest

from tests.host import Host


def _has_openblas() -> bool:
    try:
        ctypes.CDLL("libopenblas.so.0")
    except OSError:
        return False
    return True


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the other systems bring a BLAS")


def _run(models: Path, *arguments: str) -> tuple[str, str]:
    """What the status calls the library, and a greedy text."""
    with Host("--models-dir", str(models), "--model", "tiny", *arguments) as host:
        text: str = host.call("generate", prompt="def add(a, b):", maxTokens=24)["text"]
        library: str = host.call("engine/status")["device"]["blas"]
        mapped = Path(f"/proc/{host.process.pid}/maps").read_text()
        assert ("libopenblas" in mapped) == (library != "bundled")
        return library, text


@pytest.mark.skipif(not _has_openblas(), reason="this system has no libopenblas.so.0")
def test_openblas_is_used_and_named(models: Path) -> None:
    library, text = _run(models)
    assert library.startswith("OpenBLAS")
    assert _run(models, "--blas", "bundled") == ("bundled", text)


def test_bundled(models: Path) -> None:
    library, text = _run(models, "--blas", "bundled")
    assert library == "bundled"
    assert text
