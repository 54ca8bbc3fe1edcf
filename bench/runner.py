"""A run: all contenders, row by row, in turn, until the repetitions or the time are up.

The order of the contenders moves by one with each repetition, so that no one is always first.
A repetition is complete before the next begins: when time runs out, rows have fewer values, not
other ones.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.contenders import Call, make_contenders
from bench.machine import describe
from bench.models import Shape, make_model
from bench.processes import system_blas
from bench.rows import Figures
from bench.sizes import Sizes
from bench.stream import BenchError

_PATHS = ("--engine-root", "--json", "--write")


def command() -> str:
    """The command line, without what is of no use on another machine."""
    arguments = ["python -m bench"]
    previous = ""
    for argument in sys.argv[1:]:
        if previous not in _PATHS and not argument.startswith(_PATHS):
            arguments.append(argument)
        previous = argument
    return " ".join(arguments)


@dataclass
class Run:
    """The settings of a run, and what it has found so far.

    Attributes:
        limit: seconds after which nothing more is begun.
        same_blas: give `mlx_lm`'s processes the BLAS that the engine takes by itself.
        only: names of contenders and of scenarios; empty means all.
    """

    suite: str
    shape: Shape
    sizes: Sizes
    repetitions: int
    limit: float
    engine_root: str | None
    same_blas: bool
    output: Path
    only: frozenset[str] = frozenset()
    figures: Figures = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._machine = describe()
        self._peer_env = system_blas() if self.same_blas and self._cpu else {}

    @property
    def _cpu(self) -> bool:
        return bool(self._machine["device"] == "CPU")

    @property
    def late(self) -> bool:
        """The time is up."""
        return time.monotonic() - self.began > self.limit

    def run(self, folder: Path) -> dict[str, Any]:
        """Measure everything; the results, which are on disk too after each repetition.

        Args:
            folder: where the models are made.
        """
        contenders = make_contenders(
            make_model(folder / "first", self.shape),
            self.sizes,
            self.shape.vocabulary,
            engine_root=self.engine_root,
            peer_env=self._peer_env,
        )
        names = [name for name in contenders if self._wanted(name, contenders)]
        calls = self._calls()
        try:
            for name in names:
                self._warm(name, contenders[name], calls)
            for repetition in range(self.repetitions):
                turn = repetition % len(names)
                for call in calls:
                    for name in names[turn:] + names[:turn]:
                        self._measure(name, contenders[name], call, repetition)
                self._save()
        finally:
            for contender in contenders.values():
                contender.close()
        return self._save()

    def _calls(self) -> list[Call]:
        calls: list[Call] = [("streams", (count,)) for count in self.sizes.streams]
        names = ["beside_decoding", "beside_reading", "joining", "second_turn"]
        calls += [(name, ()) for name in names]
        return [call for call in calls if self._wanted(call[0], [call[0] for call in calls])]

    def _wanted(self, name: str, among: Any) -> bool:
        return name in self.only or not self.only.intersection(among)

    def _warm(self, name: str, contender: Any, calls: list[Call]) -> None:
        for call in calls:
            if call[0] in ("streams", "joining") and not self.late:
                named = {"new": 8} if call[0] == "streams" else {}
                self._log(f"warm-up, {name}: {call[0]} {call[1]}")
                try:
                    contender.run(call, -1, **named)
                except BenchError as error:
                    self._fail(name, call, error)

    def _measure(self, name: str, contender: Any, call: Call, repetition: int) -> None:
        if self.late:
            self._log(f"no time for {name}: {call[0]}")
            return
        begin = time.monotonic()
        try:
            self._add(name, contender.run(call, repetition))
        except BenchError as error:
            self._fail(name, call, error)
        seconds = time.monotonic() - begin
        self._log(f"repetition {repetition + 1}, {name}: {call[0]} {call[1]} {seconds:.1f} s")

    def _add(self, name: str, row: dict[str, float]) -> None:
        for key, value in row.items():
            self.figures.setdefault(key, {}).setdefault(name, []).append(value)

    def _fail(self, name: str, call: Call, error: BenchError) -> None:
        self.errors.append(f"{name}: {call[0]} {call[1]}: {error}")
        self._log(self.errors[-1])

    def _log(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:6.1f} s  {text}", file=sys.stderr, flush=True)

    def _save(self) -> dict[str, Any]:
        blas = self._peer_env.get("LD_PRELOAD", "MLX's own") if self._cpu else "none, a GPU"
        results: dict[str, Any] = {
            "suite": self.suite,
            "date": time.strftime("%Y-%m-%d"),
            "command": command(),
            "seconds": time.monotonic() - self.began,
            "machine": self._machine,
            "settings": {
                "model": str(self.shape),
                "sizes": asdict(self.sizes),
                "repetitions": self.repetitions,
                "peer_blas": blas,
            },
            "figures": self.figures,
            "errors": self.errors,
        }
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.output.write_text(json.dumps(results, indent=1))
        return results
