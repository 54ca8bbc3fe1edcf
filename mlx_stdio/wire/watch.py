"""The watch on the host: the engine never outlives it.

End-of-file on stdin is the usual sign that the host is gone, but another process can hold a copy
of the pipe, and a busy event loop may be late to look. So a thread of its own sleeps in `poll` on
two things that the kernel reports at once and for nothing: the parent process (a pidfd on Linux, a
process filter of kqueue on macOS), and the reading end of stdout.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable


def watch_host(stdout: int, parent: int, on_gone: Callable[[str], None]) -> threading.Thread:
    """Start the watch.

    Args:
        stdout: the private descriptor of the protocol's output.
        parent: the parent's process id, read as early as possible in `main`.
        on_gone: called once from the watch's thread with `parent` or `stdout`.

    Returns:
        the thread (a daemon).
    """
    wait = _wait_kqueue if sys.platform == "darwin" else _wait_poll
    thread = threading.Thread(
        target=lambda: on_gone(wait(stdout, parent)), name="watch", daemon=True
    )
    thread.start()
    return thread


def _wait_poll(stdout: int, parent: int) -> str:
    try:
        pidfd = os.pidfd_open(parent)
    except ProcessLookupError:
        return "parent"
    except (OSError, AttributeError):
        # Old kernels, sandboxes that refuse the call, Pythons built without it: look once a
        # second instead.
        pidfd = -1
    poll = select.poll()
    # No events asked for: POLLERR and POLLHUP, which say that the reader is gone, always come.
    poll.register(stdout, 0)
    if pidfd >= 0:
        poll.register(pidfd, select.POLLIN)
    while os.getppid() == parent:
        for fd, _ in poll.poll(None if pidfd >= 0 else 1000):
            return "parent" if fd == pidfd else "stdout"
    return "parent"


def _wait_kqueue(stdout: int, parent: int) -> str:
    if sys.platform != "darwin":  # kqueue's names exist there only; this tells the type checker
        raise NotImplementedError
    queue = select.kqueue()
    gone = select.kevent(parent, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
    try:
        queue.control([gone], 0)
    except ProcessLookupError:
        return "parent"
    poll = select.poll()
    poll.register(stdout, 0)
    poll.register(queue.fileno(), select.POLLIN)
    while os.getppid() == parent:
        for fd, _ in poll.poll():
            return "stdout" if fd == stdout else "parent"
    return "parent"
