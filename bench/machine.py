"""What a figure is worth nothing without: machine, device and versions.

`python -m bench.machine` prints what MLX knows, in a process of its own.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def describe() -> dict[str, Any]:
    """The machine that this runs on."""
    seen = subprocess.run(
        [sys.executable, "-m", "bench.machine"], stdout=subprocess.PIPE, check=True, timeout=120
    )
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": json.loads(seen.stdout)["device"],
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _cpu() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    names = (
        *("mlx", "mlx-cuda-13", "mlx-cuda-12", "mlx-cpu", "mlx-lm", "transformers", "tokenizers"),
        *("fastapi", "uvicorn", "uvloop"),
    )
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _device() -> str:
    import mlx.core as mx

    kind = str(mx.default_device())
    if "cpu" in kind:
        return "CPU"
    try:
        return str(mx.device_info()["device_name"])
    except (KeyError, RuntimeError, TypeError):
        return kind


if __name__ == "__main__":
    print(json.dumps({"device": _device()}))
