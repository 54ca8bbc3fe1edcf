"""The engine room without a process around it: the real scheduler on real models, tick by tick.

For what the wire cannot show: a fault injected at a given hook in a given step, or who was given
which step. Everything else is tested through real pipes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlx_stdio.engine.draws import TokenScore
from mlx_stdio.engine.engine import Engine
from mlx_stdio.engine.job import GenerateJob, LoadJob, Outcome, Prompt, Rank
from mlx_stdio.engine.sampling import Sampling
from mlx_stdio.errors import EngineError
from mlx_stdio.log import Log
from mlx_stdio.models import lean
from mlx_stdio.models.card import Card, read_card
from mlx_stdio.settings import Settings


class Record:
    """A sink that remembers all that it was told."""

    def __init__(self) -> None:
        self.closed = False
        self.tokens: list[int] = []
        self.scores: list[TokenScore] = []
        self.text = ""
        self.error: EngineError | None = None
        self.outcome: Outcome | None = None
        self.told: list[tuple[str, int, int]] = []
        self.on_delta: Callable[[], None] = lambda: None

    def progress(self, phase: str, completed: int, total: int, unit: str) -> None:
        self.told.append((phase, completed, total))

    def fail(self, error: EngineError) -> None:
        assert not self.closed
        self.closed, self.error = True, error

    def delta(self, text: str, tokens: list[int], scores: list[TokenScore]) -> None:
        assert not self.closed
        self.text += text
        self.tokens += tokens
        self.scores += scores
        self.on_delta()

    def finish(self, outcome: Outcome) -> None:
        assert not self.closed
        self.closed, self.outcome = True, outcome

    def loaded(self, seconds: float) -> None:
        self.closed = True

    def unloaded(self, freed: int) -> None:
        self.closed = True


class PlainText:
    """A text stream that shows each token as its number, and never stops."""

    def __init__(self) -> None:
        self.stopped = False

    def push(self, token: int) -> str:
        return f"{token} "

    def finish(self) -> str:
        return ""


class Room:
    """A scheduler whose steps the test takes itself, in the test's own thread."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        """Args:
        folder: holds the models.
        """
        lean.install()
        from mlx_stdio.engine.device import open_device

        self.folder = folder
        self.changes: list[tuple[str, str, str]] = []
        self.engine = Engine(
            Settings(**settings),
            Log("error"),
            lambda *change: self.changes.append(change),
            lambda _error: None,
            lambda: None,
        )
        self.engine.device = open_device("bundled")
        self.scheduler = self.engine.scheduler

    def card(self, name: str) -> Card:
        return read_card(name, self.folder / name)

    def load(self, name: str) -> Any:
        """A resident model."""
        self.scheduler.add(LoadJob(Record(), name, self.card(name)))
        self.run()
        resident = self.engine.cache.get(name)
        assert resident is not None
        return resident

    def ask(
        self,
        name: str,
        prompt: list[int],
        tokens: int,
        *,
        rank: Rank = 1,
        text: Any = None,
        stop_ids: frozenset[int] = frozenset(),
        borders: tuple[int, ...] = (),
        sampling: Sampling | None = None,
        **more: Any,
    ) -> Record:
        """Queue a generation."""
        record = Record()
        job = GenerateJob(record, name, self.card(name), rank, max_tokens=tokens, **more)
        job.prompt = Prompt(prompt, text or PlainText(), stop_ids, borders)  # type: ignore[arg-type]
        job.sampling = sampling or Sampling()
        self.scheduler.add(job)
        return record

    def run(self, most: int = 100_000) -> None:
        """Take steps until there is nothing to do."""
        for _ in range(most):
            if not self.scheduler.tick():
                return
        raise AssertionError("the scheduler does not come to rest")

    def ticks(self, count: int) -> None:
        for _ in range(count):
            self.scheduler.tick()

    def alone(self, name: str, prompt: list[int], tokens: int, **more: Any) -> Record:
        """The same request with nothing beside it, and nothing reused."""
        self.run()
        record = self.ask(name, prompt, tokens, cache_prompt=False, **more)
        self.run()
        return record
