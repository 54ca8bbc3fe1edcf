"""`make bench`: start-up, memory and the cost of the wire, beside `mlx_lm` in process.

The contenders take turns within one run, so that a noisy machine is noisy for both; medians and
ratios are printed. Both run the same model in the same environment.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.engine import Engine

PICO = Path(__file__).parent.parent / "mlx_stdio" / "pico"
PROMPT = "def add(a, b):"
REQUESTS = 100


def run_engine(model: str) -> dict[str, float]:
    """One life of the engine, from the spawn to the end."""
    engine = Engine("--model", model)
    engine.call("initialize", protocolVersion=1)
    hello = time.perf_counter()
    first = engine.first_delta(engine.send("generate", prompt=PROMPT, maxTokens=4, temperature=0))
    while "result" not in engine.receive():
        pass
    rss = engine.rss()
    times, inside = [], []
    for _ in range(REQUESTS):
        begin = time.perf_counter()
        result = engine.call("generate", prompt=PROMPT, maxTokens=1, stream=False, temperature=0)
        times.append((time.perf_counter() - begin) * 1000)
        inside.append(result["timings"]["totalMs"])
    pings = []
    for _ in range(REQUESTS):
        begin = time.perf_counter()
        engine.call("ping")
        pings.append((time.perf_counter() - begin) * 1000)
    engine.close()
    return {
        "initialize_ms": (hello - engine.spawned) * 1000,
        "first_token_ms": (first - engine.spawned) * 1000,
        "rss_mib": rss / 2**20,
        "request_ms": statistics.median(times),
        "ping_ms": statistics.median(pings),
    }


def run_in_process(model: str) -> dict[str, float]:
    """One life of a script that uses `mlx_lm` directly."""
    spawned = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "bench.in_process", model, PROMPT, str(REQUESTS)],
        stdout=subprocess.PIPE,
        check=True,
    )
    row: dict[str, Any] = json.loads(done.stdout)
    elapsed = (time.perf_counter() - spawned) * 1000
    # The interpreter's own start is not in `inside_ms`, and is under 1 % of the sum.
    return {
        "first_token_ms": min(row["inside_ms"], elapsed),
        "rss_mib": row["rss"] / 2**20,
        "request_ms": row["request_ms"],
    }


def main() -> None:
    """Run both in turn and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--model", default=str(PICO), help="model folder")
    parser.add_argument("--runs", type=int, default=7, help="lives of each contender")
    options = parser.parse_args()
    run_engine(options.model)  # fills the page cache for both
    rows = [(run_engine(options.model), run_in_process(options.model)) for _ in range(options.runs)]
    print(f"model {options.model}, {options.runs} runs, medians (min-max)\n")
    print("| figure | mlx-stdio | mlx_lm in process | ratio |")
    print("|---|---|---|---|")
    for key, name in (
        ("initialize_ms", "spawn to `initialize` reply, ms"),
        ("first_token_ms", "spawn to first token, ms"),
        ("rss_mib", "memory after a request, MiB"),
        ("request_ms", "1-token request, ms"),
        ("ping_ms", "`ping`, ms"),
    ):
        ours = [row[key] for row, _ in rows]
        theirs = [row[key] for _, row in rows if key in row]
        line = f"| {name} | {_spread(ours)} | {_spread(theirs) if theirs else '-'} | "
        if theirs:
            line += f"{statistics.median(ours) / statistics.median(theirs):.2f}"
        print(line + " |")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


if __name__ == "__main__":
    main()
