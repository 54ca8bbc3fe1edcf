"""The footprint suite: what each alternative costs to start, to keep and to ask.

A round is one life of every contender, one after the other, alone on the machine; the order moves
by one with each round. Every prompt is new in its life and the same for all contenders, so that no
prompt cache helps. A round that would not end in time is not begun.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import install_sizes, usage
from bench.contenders import FASTAPI, FASTAPI_UNIX, IN_PROCESS, OURS, SERVER
from bench.copies import make_copies
from bench.life import EngineLife, Life, ScriptLife
from bench.machine import describe
from bench.processes import system_blas
from bench.rows import Figures
from bench.stream import BenchError
from bench.web import FastApiTcp, FastApiUnix, MlxLmServer

_LIFE = 120.0
"""Seconds that a life may take; then it is killed."""
_FAILURES = (
    *(RuntimeError, OSError, EOFError, ValueError, KeyError),
    *(http.client.HTTPException, subprocess.SubprocessError),
)


@dataclass(frozen=True)
class FootprintSizes:
    """How much is asked in one life.

    Attributes:
        requests: for one token each.
        streams: whose first token is measured.
        new: tokens of the stream whose rate is measured.
        switches: requests to two resident models in turn.
        loads: requests to four models in turn, of which three stay.
        settle: seconds after the first request until the process counts as idle.
        idle: seconds in which it is watched then.
    """

    requests: int = 20
    streams: int = 8
    new: int = 128
    switches: int = 8
    loads: int = 4
    settle: float = 1.5
    idle: float = 2.0


@dataclass
class Footprint:
    """A run of the suite.

    Attributes:
        rounds: at most.
        limit: seconds within which the last round ends.
        same_blas: give `mlx_lm`'s processes the BLAS that the engine takes by itself.
        only: names of contenders; empty means all.
    """

    rounds: int
    limit: float
    engine_root: str | None
    same_blas: bool
    build: Path
    output: Path
    command: str
    only: frozenset[str] = frozenset()
    sizes: FootprintSizes = FootprintSizes()

    def run(self) -> dict[str, Any]:
        """Measure; the results, which are on disk too."""
        began = time.monotonic()
        figures: Figures = {}
        errors: list[str] = []
        machine = describe()
        env = system_blas() if self.same_blas and machine["device"] == "CPU" else {}
        copies = make_copies(self.build / "models", 4)
        contenders = self._contenders(copies[0], env, errors)
        names = list(contenders)
        longest, done = 0.0, 0
        for life in range(self.rounds):
            begin = time.monotonic()
            if life and begin - began + 1.1 * longest > self.limit:
                break
            turn = life % len(names)
            for name in names[turn:] + names[:turn]:
                try:
                    row = self._live(contenders[name], [str(copy) for copy in copies[1:]])
                except _FAILURES as error:
                    errors.append(f"{name}: life {life + 1}: {error!r}")
                    continue
                for key, value in row.items():
                    figures.setdefault(key, {}).setdefault(name, []).append(value)
                spent = time.monotonic() - began
                print(f"{spent:6.1f} s  life {life + 1} of {name}", file=sys.stderr, flush=True)
            longest, done = max(longest, time.monotonic() - begin), life + 1
        results: dict[str, Any] = {
            "suite": "footprint",
            "date": time.strftime("%Y-%m-%d"),
            "command": self.command,
            "seconds": time.monotonic() - began,
            "machine": machine,
            "settings": {
                "model": f"`pico` in float32, {_megabytes(copies[0]):.0f} MB, and copies of it",
                "sizes": asdict(self.sizes),
                "weights_mib": (copies[0] / "model.safetensors").stat().st_size / 2**20,
                "lives": done,
                "peer_blas": env.get("LD_PRELOAD", "what MLX has"),
            },
            "figures": figures,
            "wire": self._wire(errors),
            "errors": errors,
        }
        install_sizes.attach(results, self.build / "installs.json")
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.output.write_text(json.dumps(results, indent=1))
        return results

    def _contenders(
        self, model: Path, env: dict[str, str], errors: list[str]
    ) -> dict[str, Callable[[], Life]]:
        found: dict[str, Callable[[], Life]] = {
            OURS: lambda: EngineLife(model, root=self.engine_root),
            IN_PROCESS: lambda: ScriptLife(model, env=env),
            SERVER: lambda: MlxLmServer(model, env=env),
            FASTAPI: lambda: FastApiTcp(model, env=env),
            FASTAPI_UNIX: lambda: FastApiUnix(model, env=env),
        }
        if missing := [
            name for name in ("fastapi", "uvicorn", "uvloop") if not importlib.util.find_spec(name)
        ]:
            errors.append(f"FastAPI: not installed ({', '.join(missing)}); `make bench` does it")
            del found[FASTAPI], found[FASTAPI_UNIX]
        wanted = self.only.intersection(found)
        return {name: make for name, make in found.items() if not wanted or name in wanted}

    def _wire(self, errors: list[str]) -> Figures:
        """The wire's own cost, in turns of its own: see `bench/wire_cost.py`."""
        if self.only and OURS not in self.only:
            return {}
        done = subprocess.run(
            [sys.executable, "-m", "bench.wire_cost", str(self.build / "models" / "wire")],
            stdout=subprocess.PIPE,
            timeout=_LIFE,
            check=False,
        )
        if done.returncode:
            errors.append(f"{OURS}: the wire's cost was not measured")
            return {}
        return {key: {OURS: values} for key, values in json.loads(done.stdout).items()}

    def _live(self, make: Callable[[], Life], copies: list[str]) -> dict[str, float]:
        life = make()
        guard = threading.Timer(_LIFE, life.process.kill)
        guard.start()
        try:
            return measure(life, copies, self.sizes)
        finally:
            guard.cancel()
            try:
                life.close()
            finally:
                life.process.kill()  # nothing, where it has ended


def measure(life: Life, copies: list[str], sizes: FootprintSizes) -> dict[str, float]:
    """All rows of one life.

    Args:
        copies: three folders, beside the model of requests that name none.

    Raises:
        BenchError: something did not come as asked.
    """
    prompts = (f"{number} def add(a, b):" for number in range(100, 100_000))
    row = {"initialize_ms": (life.ready() - life.spawned) * 1000}
    first = life.stream(next(prompts), 4)
    row["start_ms"] = first.first_ms + (first.sent - life.spawned) * 1000
    row |= _idle(life, sizes)
    pings = [life.ping() for _ in range(sizes.requests)]
    if times := [ping for ping in pings if ping is not None]:
        row["ping_ms"] = statistics.median(times)
    row["request_ms"] = _median(sizes.requests, lambda: life.request(next(prompts)))
    row["stream_first_ms"] = _median(sizes.streams, lambda: life.stream(next(prompts), 4).first_ms)
    life.request(next(prompts), copies[0])  # loads it
    long = life.stream(next(prompts), sizes.new, copies[0])
    if long.tokens != sizes.new:
        raise BenchError(f"{long.tokens} tokens, not {sizes.new}")
    row["stream_rate"] = long.tokens / (long.ended - long.sent)
    life.request(next(prompts), copies[1])
    turns = [life.request(next(prompts), copies[n % 2]) for n in range(sizes.switches)]
    row["alternating_ms"] = statistics.median(turns)
    # The least recently used one is always the next: each of these requests waits for its load.
    cycle = [copies[2], "", *copies[:2]]
    loads = [life.request(next(prompts), cycle[n % 4]) for n in range(sizes.loads)]
    row["switch_load_ms"] = statistics.median(loads)
    return row


def _idle(life: Life, sizes: FootprintSizes) -> dict[str, float]:
    pid = life.process.pid
    time.sleep(sizes.settle)
    begin, before = time.perf_counter(), usage.cpu_ms(pid)
    time.sleep(sizes.idle)
    seconds, after = time.perf_counter() - begin, usage.cpu_ms(pid)
    row = {"rss_mib": usage.rss(pid) / 2**20}
    private = usage.uss(pid)
    if private is not None:
        row["uss_mib"] = private / 2**20
    if before is not None and after is not None:
        row["idle_cpu"] = (after - before) / seconds
    return row


def _median(count: int, ask: Callable[[], float]) -> float:
    return statistics.median(ask() for _ in range(count))


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) / 1e6
