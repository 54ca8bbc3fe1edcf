"""The rows about one life of a process: start, memory, the cost of the wire. Model: `pico`."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.contenders import IN_PROCESS, OURS, SERVER
from bench.engine import Engine
from bench.http import Server

PICO = Path(__file__).resolve().parent.parent / "mlx_stdio" / "pico"
PROMPT = "def add(a, b):"


def run_engine(requests: int, root: str | None) -> dict[str, float]:
    """One life of the engine, from the spawn to the end."""
    engine = Engine("--model", "pico", root=root)  # by its name: the engine treats it as its own
    engine.call("initialize", protocolVersion=1)
    hello = time.perf_counter()
    first = engine.first_delta(engine.send("generate", prompt=PROMPT, maxTokens=4, temperature=0))
    while "result" not in engine.receive():
        pass
    rss = engine.rss()

    def ask() -> None:
        engine.call("generate", prompt=PROMPT, maxTokens=1, stream=False, temperature=0)

    row = {
        "initialize_ms": (hello - engine.spawned) * 1000,
        "start_ms": (first - engine.spawned) * 1000,
        "rss_mib": rss / 2**20,
        "request_ms": _median_ms(ask, requests),
        "ping_ms": _median_ms(lambda: engine.call("ping"), requests),
    }
    engine.close()
    return row


def run_in_process(requests: int) -> dict[str, float]:
    """One life of a script that uses `mlx_lm` directly."""
    spawned = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "bench.in_process", str(PICO), PROMPT, str(requests)],
        stdout=subprocess.PIPE,
        check=True,
        timeout=120,
    )
    row: dict[str, Any] = json.loads(done.stdout)
    elapsed = (time.perf_counter() - spawned) * 1000
    # The interpreter's own start is not in `inside_ms`, and is under 1 % of the sum.
    return {
        "start_ms": min(row["inside_ms"], elapsed),
        "rss_mib": row["rss"] / 2**20,
        "request_ms": row["request_ms"],
    }


def run_server(requests: int) -> dict[str, float]:
    """One life of the HTTP server."""
    spawned = time.perf_counter()
    server = Server(PICO, 32)
    first = server.generate(PROMPT, 4).wait(60).arrivals[0]
    rss = server.rss()
    row = {
        "start_ms": (first - spawned) * 1000,
        "rss_mib": rss / 2**20,
        "request_ms": _median_ms(lambda: server.complete(PROMPT, 1), requests),
    }
    server.close()
    return row


def run_all(requests: int, root: str | None) -> dict[str, dict[str, float]]:
    """One life of each, in turn; rows by contender."""
    return {
        OURS: run_engine(requests, root),
        IN_PROCESS: run_in_process(requests),
        SERVER: run_server(requests),
    }


def _median_ms(ask: Any, count: int) -> float:
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        ask()
        times.append((time.perf_counter() - begin) * 1000)
    return statistics.median(times)
