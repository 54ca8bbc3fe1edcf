"""Child processes of the bench: the interpreter that runs it, its environment, an orderly end."""

from __future__ import annotations

import contextlib
import ctypes.util
import os
import subprocess
import sys
from typing import Any

_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def spawn(
    arguments: list[str], *, env: dict[str, str] | None = None, **options: Any
) -> subprocess.Popen[bytes]:
    """Start Python with these arguments. It looks for nothing on the network."""
    environment = {**os.environ, **_OFFLINE, **(env or {})}
    return subprocess.Popen([sys.executable, *arguments], env=environment, **options)


def stop(process: subprocess.Popen[bytes], *, patience: float = 0) -> None:
    """Wait for the end so long, then ask for it, then force it."""
    for end in (None, process.terminate, process.kill):
        if end is not None:
            end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return
        patience = 5


def system_blas() -> dict[str, str]:
    """The environment that gives a process the system's OpenBLAS, as the engine takes it.

    Empty where there is none, or where it would change nothing.
    """
    name = ctypes.util.find_library("openblas") if sys.platform == "linux" else None
    if not name or "LD_PRELOAD" in os.environ:
        return {}
    return {"LD_PRELOAD": name}
