"""Marks that the start leaves: what was done by when. `mlx-stdio --profile-start` shows them.

A mark costs a microsecond, so they are always made; with `--log-level debug` the log has them when
the process ends. Only the first mark of a name counts: this is about the start.
"""

from __future__ import annotations

import time

_marks: dict[str, tuple[int, int]] = {}


def mark(name: str) -> None:
    """Something is done, on the calling thread.

    Args:
        name: the thread, a colon, and what was done.
    """
    if name not in _marks:
        _marks[name] = (time.monotonic_ns(), time.thread_time_ns())


def marks() -> list[tuple[str, int, int]]:
    """All marks: name, `time.monotonic` and the thread's own processor time, in microseconds."""
    return [(name, at // 1000, cpu // 1000) for name, (at, cpu) in list(_marks.items())]
