"""What the engine may cost, and whether it kept to it in a run of the footprint suite.

`python -m bench budgets` reads `build/bench/footprint.json`, prints the table, and fails if a
budget is missed. The limits are those of the project's design; medians count.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from bench.contenders import IN_PROCESS, OURS
from bench.plot import number
from bench.report import Results


@dataclass(frozen=True)
class Budget:
    """One limit.

    Attributes:
        most: what may be found at most.
        aim: what would be better still; None where there is no such figure.
        found: None where the run has no figure for it.
    """

    name: str
    most: float
    found: float | None
    aim: float | None = None

    @property
    def verdict(self) -> str:
        """`kept`, `missed` or `not measured`."""
        if self.found is None:
            return "not measured"
        return "kept" if self.found <= self.most else "missed"


def check(results: Results) -> list[Budget]:
    """All budgets, with what a run of the footprint suite found."""

    def median(key: str, contender: str = OURS) -> float | None:
        values = {**results["figures"], **results.get("wire", {})}.get(key, {}).get(contender)
        return statistics.median(values) if values else None

    start, theirs = median("start_ms"), median("start_ms", IN_PROCESS)
    memory, weights = median("rss_mib"), results["settings"].get("weights_mib")
    return [
        Budget("spawn to `initialize`, ms", 100.0, median("initialize_ms"), aim=60.0),
        Budget(
            "spawn to first token, of `mlx_lm.load` and `stream_generate`",
            0.25,
            start / theirs if start and theirs else None,
        ),
        Budget(
            "idle memory less the model's weights, MiB",
            60.0,
            memory - weights if memory and weights else None,
        ),
        Budget("processor time while idle, ms/s", 0.0, median("idle_cpu")),
        Budget("the wire's part of a 1-token request, ms", 0.5, median("wire_request_ms")),
        Budget("the wire's part of a token in a stream, us", 30.0, median("wire_token_us")),
        Budget("the same without a model between two, us", 30.0, median("wire_warm_us")),
    ]


def table(results: Results) -> str:
    """The budgets in Markdown."""
    lines = ["| budget | at most | found | |", "|---|---|---|---|"]
    for budget in check(results):
        aim = f" (aim: {number(budget.aim)})" if budget.aim is not None else ""
        found = "-" if budget.found is None else number(budget.found)
        lines.append(f"| {budget.name} | {number(budget.most)}{aim} | {found} | {budget.verdict} |")
    return "\n".join(lines)
