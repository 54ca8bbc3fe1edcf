"""The device that models run on, and what its memory allows."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from msgspec import Struct

from mlx_stdio.engine.blas import use_system_openblas

GPU_SHARE = 0.9
"""Share of the working set that a GPU recommends which weights may take by default."""

RAM_SHARE = 0.7
"""The same share of the machine's (or the container's) memory, where the CPU computes."""


class DeviceFacts(Struct, frozen=True):
    """What `engine/status` says of the device.

    Attributes:
        type: `cpu` or `gpu`.
        blas: on a Linux CPU, the library in force; None elsewhere.
        default_limit: bytes that weights may take unless `--memory-limit` says otherwise.
    """

    type: str
    name: str
    mlx_version: str
    blas: str | None
    default_limit: int


def open_device(blas: str) -> DeviceFacts:
    """Import MLX, in the calling thread, and look at the device.

    Args:
        blas: `auto` or `bundled`.
    """
    library = use_system_openblas() if blas == "auto" else "bundled"
    import mlx.core as mx

    gpu = on_gpu()
    info = mx.device_info()
    recommended = int(info.get("max_recommended_working_set_size") or info.get("total_memory") or 0)
    if gpu and mx.metal.is_available() and recommended:
        # As `mlx_lm` does around each generation; for a process that only infers, once is enough.
        mx.set_wired_limit(recommended)
    if gpu and mx.cuda.is_available():
        from mlx_stdio.engine import attention

        attention.install()
    limit = int(recommended * GPU_SHARE) if gpu and recommended else int(ram() * RAM_SHARE)
    return DeviceFacts(
        type="gpu" if gpu else "cpu",
        name=str(info.get("device_name", "unknown")),
        mlx_version=mx.__version__,  # type: ignore[attr-defined]
        blas=library if sys.platform == "linux" and not gpu else None,
        default_limit=limit,
    )


def on_gpu() -> bool:
    """Whether models run on a GPU; MLX is imported by then."""
    import mlx.core as mx

    return bool(mx.default_device() == mx.gpu)


def ram() -> int:
    """Bytes of memory that this process may use: the machine's, or the container's if less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        container = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, int(container)) if container.isdigit() else total


def rss() -> int:
    """Resident bytes of this process; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 0
    return pages * os.sysconf("SC_PAGE_SIZE")
