"""Two threads for what would keep the reader from the next message: cards, vocabularies, prompts.

Not `concurrent.futures`: importing it, and `logging` with it, takes longer than the first request's
preparation; and a process that leaves by `os._exit` needs none of its care for the end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from mlx_stdio.log import Log

_THREADS = 2


class Workers:
    """Runs what it is given, in that order, two at a time; the threads start when needed."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._tasks: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = threading.Semaphore(0)

    def submit(self, task: Callable[[], object]) -> None:
        """Have a task run; it reports its failures itself. Called from one thread only."""
        self._tasks.put(task)
        if not self._idle.acquire(blocking=False) and len(self._threads) < _THREADS:
            thread = threading.Thread(target=self._work, name="prepare", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while True:
            task = self._tasks.get()
            try:
                task()
            except Exception as error:  # noqa: BLE001 - the thread is needed for the next one
                self._log.error("worker.failed", error=repr(error))
            self._idle.release()
