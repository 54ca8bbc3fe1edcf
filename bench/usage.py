"""What the system says a process uses: memory, and time on its processors.

On Linux from `/proc`; elsewhere `ps` gives the resident memory, and the rest is not measured.
"""

from __future__ import annotations

import subprocess
from pathlib import Path


def rss(pid: int) -> int:
    """Resident bytes, those that are shared with other processes included."""
    statm = Path(f"/proc/{pid}/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * 4096
    seen = subprocess.run(
        ["ps", "-o", "rss=", "-p", str(pid)], stdout=subprocess.PIPE, check=True, timeout=10
    )
    return int(seen.stdout) * 1024


def uss(pid: int) -> int | None:
    """Bytes that would be free without the process: resident, and no other's too."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    private = [int(line.split()[1]) for line in lines if line.startswith("Private_")]
    return sum(private) * 1024


def cpu_ms(pid: int) -> float | None:
    """Milliseconds on a processor, of all threads that still live.

    `schedstat` counts nanoseconds where `stat` counts ticks of 10 ms, which is more than an idle
    process uses.
    """
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e6
    except OSError:
        return None
