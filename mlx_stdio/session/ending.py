"""The end of the process: one way out, callable from any thread, taken once.

`os._exit`, because a thread that is inside MLX when the interpreter is torn down can abort the
process, and because nothing here needs an exit handler.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Final

from mlx_stdio.log import Log
from mlx_stdio.marks import marks
from mlx_stdio.wire.writer import Writer

EXIT_OK: Final = 0
EXIT_WITHOUT_SHUTDOWN: Final = 1
EXIT_ENGINE_FAULT: Final = 70
"""EX_SOFTWARE of sysexits.h."""

_FLUSH_SECONDS: Final = 1.0


class Ending:
    """Leaves the process."""

    def __init__(self, writer: Writer, log: Log) -> None:
        self._writer = writer
        self._log = log
        self._once = threading.Lock()
        self.last: Callable[[], None] = lambda: None
        """Done when all replies are written, unless the host is gone; bounded in time."""

    def leave(self, code: int, reason: str) -> None:
        """Flush what a host still reads, at most a second, and exit."""
        self._writer.close(_FLUSH_SECONDS)
        self._exit(code, reason)

    def leave_when_read(self, reason: str) -> None:
        """Exit with code 0 as soon as the host has read everything, however slow it is.

        Returns at once. The watch on the host and the signals may end the process earlier.
        """

        def wait() -> None:
            if self._writer.close(None):
                self._exit(EXIT_OK, reason)

        threading.Thread(target=wait, name="ending", daemon=True).start()

    def _exit(self, code: int, reason: str) -> None:
        self._once.acquire()  # never released: a second caller waits for the end
        if code != EXIT_ENGINE_FAULT:
            self.last()
        self._log.debug("start.marks", marks=marks())
        self._log.info("exit", code=code, reason=reason)
        os._exit(code)

    def leave_now(self, reason: str) -> None:
        """Nobody reads any more: exit without writing."""
        self._log.info("exit", code=EXIT_OK, reason=reason)
        os._exit(EXIT_OK)
