"""The fence around file descriptors 0 and 1.

The protocol's stream must carry nothing but the protocol. A `print`, a progress bar, a C library
that writes to descriptor 1 or a child process would corrupt it, so before anything else is
imported the real pipes move to private descriptors that children do not inherit; what is left as
descriptor 1 is stderr, and as descriptor 0 the null device, so that no child can eat a request.

This module imports `os` alone: it runs first.
"""

from __future__ import annotations

import os
from typing import NamedTuple


class Pipes(NamedTuple):
    """The private descriptors of the protocol's two streams."""

    stdin: int
    stdout: int


def raise_fence() -> Pipes:
    """Take descriptors 0 and 1 away from everybody else in this process.

    Returns:
        the private descriptors; both are close-on-exec.

    A descriptor that the host closed before the spawn is read as the null device: the engine then
    sees end-of-file, or writes to nobody, but never reuses number 0, 1 or 2 for another file.
    """
    null = os.open(os.devnull, os.O_RDWR)
    while null <= 2:
        # Some of 0, 1 and 2 were closed, and `open` handed out their numbers; fill them all.
        null = os.dup(null)
    os.set_inheritable(null, False)
    pipes = Pipes(_private(0), _private(1))
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    return pipes


def _private(fd: int) -> int:
    duplicate = os.dup(fd)
    os.set_inheritable(duplicate, False)
    return duplicate
