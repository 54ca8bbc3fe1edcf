"""Files that are whole or not there, and that only their owner reads."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

_STALE = 3600.0  # seconds; no write takes as long


def scan(
    folder: Path, ours: re.Pattern[str], temporary: re.Pattern[str]
) -> list[tuple[str, int, float]]:
    """The files with names of our form: name, bytes, time of change. No link is followed.

    Removes temporary ones that a crash has left behind: those older than an hour.

    Raises:
        OSError: the folder cannot be read.
    """
    rows: list[tuple[str, int, float]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            half = temporary.fullmatch(entry.name)
            if not half and not ours.fullmatch(entry.name):
                continue
            with contextlib.suppress(FileNotFoundError):  # another engine was faster
                status = entry.stat(follow_symlinks=False)
                if not half:
                    rows.append((entry.name, status.st_size, status.st_mtime))
                elif time.time() - status.st_mtime > _STALE:
                    Path(entry.path).unlink()
    return rows


def write_whole(temporary: Path, final: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write a file so that it appears under its name only once all of it is on the disk.

    Args:
        temporary: a new name in the same folder; after a failure or a crash it may be left.
        final: replaced, if it is there.
        pieces: the content.

    Raises:
        OSError: the disk is full, the folder is gone, …
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with open(os.open(temporary, flags, 0o600), "wb") as stream:
        stream.writelines(pieces)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(final)
    folder = os.open(final.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # the new name, too
    finally:
        os.close(folder)


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; a link is not followed, and a pipe not waited for.

    Raises:
        OSError: it cannot be opened (`FileNotFoundError`: there is none).
        ValueError: it is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("not a regular file")
    return open(descriptor, "rb")
