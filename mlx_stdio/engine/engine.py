"""The engine's thread: the only one that ever runs MLX.

It sleeps while there is nothing to do, takes new jobs at each step, and ends a step by flushing
what the step wrote. A fault that belongs to no request is reported once and ends the process: the
engine never stays alive answering nothing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from mlx_stdio.engine.job import Job
from mlx_stdio.engine.scheduler import Scheduler
from mlx_stdio.kv.prefixes import Prefixes
from mlx_stdio.log import Log
from mlx_stdio.marks import mark
from mlx_stdio.models.ledger import Ledger
from mlx_stdio.models.residency import ModelCache
from mlx_stdio.settings import Settings

if TYPE_CHECKING:
    from mlx_stdio.engine.device import DeviceFacts
    from mlx_stdio.kv.disk import DiskPrefixes

OnChange = Callable[[str, str, str], None]
"""Takes a model's id, its new state and the reason."""

PREFIX_SHARE = 4
"""By default the prefix cache may take the limit divided by this."""

POOL_SHARE = 8
"""The same for MLX's pool of freed buffers."""


class Engine:
    """Starts the thread on first use, and takes jobs for it from any other thread."""

    def __init__(
        self,
        settings: Settings,
        log: Log,
        on_change: OnChange,
        on_fatal: Callable[[BaseException], None],
        flush: Callable[[], None],
    ) -> None:
        """Args:
        on_change: a model's id, new state and reason.
        on_fatal: the thread has failed; called from it, once.
        flush: called after each step that may have written something.
        """
        self._settings = settings
        self._log = log
        self._on_fatal = on_fatal
        self._flush = flush
        self._inbox: deque[Job] = deque()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self.settled = threading.Event()
        """Set when the thread has come to its first token, or has nothing to do."""
        self.device: DeviceFacts | None = None
        self.prefixes = Prefixes(self._prefix_limit, _disk(settings, log), log)
        self.ledger = Ledger(lambda: self.memory_limit, self.prefixes)
        self.cache = ModelCache(settings.max_models, self.ledger, on_change)
        self.scheduler = Scheduler(settings, self.cache, self.ledger, self.prefixes, log, flush)

    def _prefix_limit(self) -> int:
        """Bytes that the prefix cache may take at this moment."""
        limit = self.memory_limit
        share = self._settings.prefix_cache_limit
        share = limit // PREFIX_SHARE if share is None else share
        return min(share, limit - self.cache.weight_bytes - self.ledger.reserved_bytes)

    @property
    def memory_limit(self) -> int:
        """Bytes that weights, KV and prefixes may take.

        0 before the device is known, unless it was given.
        """
        if self._settings.memory_limit is not None:
            return self._settings.memory_limit
        return self.device.default_limit if self.device else 0

    def start(self) -> None:
        """Start the thread, which begins by importing MLX; does nothing the second time."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
            self._thread.start()

    def submit(self, job: Job) -> None:
        """Hand over a job."""
        self._inbox.append(job)
        self.start()
        self._wake.set()

    def wake(self) -> None:
        """Something changed outside: a prompt is ready, a sink was closed."""
        self._wake.set()

    @property
    def queued(self) -> int:
        """Jobs that are not running yet."""
        return len(self._inbox) + len(self.scheduler.waiting)

    def stop(self, seconds: float) -> None:
        """Let the thread end after its present step and wait for it."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(seconds)

    def _run(self) -> None:
        try:
            from mlx_stdio.engine.device import open_device

            self.device = open_device(self._settings.blas)
            self._log.info(
                "device", type=self.device.type, name=self.device.name, blas=self.device.blas
            )
            import mlx.core as mx

            mark("engine: MLX is imported")
            # Freed buffers beyond this go back to the system at once.
            mx.set_cache_limit(self.memory_limit // POOL_SHARE)
            while not self._stopping:
                self._once()
            self.scheduler.close()
            # Without this the process can abort as this thread's streams are torn down.
            mx.clear_streams()
        except BaseException as error:  # noqa: BLE001 - the end of the process, whatever it is
            self._on_fatal(error)

    def _once(self) -> None:
        self._wake.clear()
        while self._inbox:
            self.scheduler.add(self._inbox.popleft())
        busy = self.scheduler.tick()
        if not self.settled.is_set() and (
            self.scheduler.decoding or not (busy or self.queued or self.scheduler.running)
        ):
            self.settled.set()
        deadline = self.scheduler.idle_deadline()
        self._flush()
        if not busy and not self._stopping:
            self._wake.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))


def _disk(settings: Settings, log: Log) -> DiskPrefixes | None:
    if settings.prompt_cache_dir is None:
        return None
    from pathlib import Path

    from mlx_stdio.kv.disk import DiskPrefixes

    return DiskPrefixes(Path(settings.prompt_cache_dir), settings.prompt_cache_limit, log)
