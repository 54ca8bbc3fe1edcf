"""The contenders of the rows about serving: started when first needed, started again if they fail.

All of them stay alive through a run, warm and idle while it is another's turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.child import Child
from bench.http import Server
from bench.pipe import Pipe
from bench.scenarios import PATIENCE, Scenarios
from bench.sizes import Sizes
from bench.stream import BenchError, Client

OURS = "mlx-stdio"
IN_PROCESS = "in process"
SERVER = "mlx_lm.server"
FASTAPI = "FastAPI, TCP"
FASTAPI_UNIX = "FastAPI, Unix socket, uvloop"

Call = tuple[str, tuple[int, ...]]
"""A scenario's name and what follows the seed."""


@dataclass
class Served:
    """A contender behind a wire."""

    start: Callable[[], Client]
    sizes: Sizes
    vocabulary: int
    _client: Client | None = None

    def run(self, call: Call, seed: int, **named: int) -> dict[str, float]:
        """One scenario.

        Raises:
            BenchError: it failed; the contender is started anew for the next one.
        """
        name, arguments = call
        try:
            if self._client is None:
                self._client = self.start()
            scenarios = Scenarios(self._client, self.sizes, self.vocabulary)
            figures: dict[str, float] = getattr(scenarios, name)(seed, *arguments, **named)
        except (BenchError, OSError, ValueError, KeyError) as error:
            self.close()
            raise BenchError(repr(error)) from error
        return figures

    def close(self) -> None:
        """End it, if it runs."""
        if self._client is not None:
            self._client.close()
        self._client = None


@dataclass
class InProcess:
    """`stream_generate` and `BatchGenerator`, each in a process of its own."""

    start: Callable[[], Child]
    _children: dict[bool, Child] = field(default_factory=dict)

    def run(self, call: Call, seed: int, **named: int) -> dict[str, float]:
        """See `Served.run`."""
        name, arguments = call
        single = call == ("streams", (1,)) or name == "second_turn"
        if single not in self._children:
            self._children[single] = self.start()
        try:
            return self._children[single].call(name, seed, *arguments, patience=PATIENCE, **named)
        except (BenchError, ValueError) as error:
            self._children.pop(single).close()
            raise BenchError(str(error)) from error

    def close(self) -> None:
        """End both."""
        while self._children:
            self._children.popitem()[1].close()


def make_contenders(
    model: Path,
    sizes: Sizes,
    vocabulary: int,
    *,
    engine_root: str | None,
    peer_env: dict[str, str],
) -> dict[str, Any]:
    """All contenders, by the name of their column.

    Args:
        peer_env: added to the environment of `mlx_lm`'s processes.
    """
    concurrency, common = sizes.concurrency, (sizes, vocabulary)
    return {
        OURS: Served(lambda: Pipe(model, concurrency, root=engine_root), *common),
        IN_PROCESS: InProcess(lambda: Child(model, sizes, vocabulary, env=peer_env)),
        SERVER: Served(lambda: Server(model, concurrency, env=peer_env), *common),
    }
