"""The sink of work that no request asked for: what goes well is not told to anybody."""

from __future__ import annotations

from mlx_stdio.engine.job import Phase, Unit
from mlx_stdio.errors import EngineError
from mlx_stdio.log import Log


class Unheard:
    """Takes the results of a job of the engine's own, such as `--preload`."""

    closed = False

    def __init__(self, log: Log) -> None:
        self._log = log

    def progress(self, phase: Phase, completed: int, total: int, unit: Unit) -> None:
        """Nobody waits."""

    def loaded(self, seconds: float) -> None:
        """The scheduler has logged it."""

    def unloaded(self, freed: int) -> None:
        """The scheduler has logged it."""

    def fail(self, error: EngineError) -> None:
        """Only the log hears of it, and the job is dropped."""
        self.closed = True
        self._log.warning("preload.failed", kind=error.kind, message=error.message)
