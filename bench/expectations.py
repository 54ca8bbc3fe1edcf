"""What the proposal that this project comes from expected of four approaches, beside what was
measured of the two that can be run, and of the engine that was written in place of the others.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from bench.contenders import FASTAPI, FASTAPI_UNIX, OURS
from bench.plot import number
from bench.report import Results

_COLUMNS = ("start-up", "memory", "request latency", "size")


@dataclass(frozen=True)
class Approach:
    """A line of the proposal's table.

    Attributes:
        expected: in the order of `_COLUMNS`.
        contender: who was measured for it.
    """

    name: str
    expected: tuple[str, str, str, str]
    contender: str = ""


_APPROACHES = (
    Approach("Python + FastAPI (today)", ("2-3 s", "300 MB", "15 ms", "150 MB"), FASTAPI),
    Approach(
        "optimised Python (Unix socket, uvloop, few packages)",
        ("1-2 s", "200 MB", "10 ms", "80 MB"),
        FASTAPI_UNIX,
    ),
    Approach("native Swift or C++", ("<100 ms", "100 MB", "2 ms", "20 MB")),
    Approach("Go + cgo", ("<100 ms", "120 MB", "3 ms", "25 MB")),
    Approach("`mlx-stdio`", ("-", "-", "-", "-"), OURS),
)


def table(results: Results) -> str:
    """The proposal's table, with a column of what was measured beside each of its own."""
    heads = " | ".join(f"{column}: expected | measured" for column in _COLUMNS)
    lines = [f"| approach | {heads} |", "|---" * (2 * len(_COLUMNS) + 1) + "|"]
    for approach in _APPROACHES:
        cells = [approach.name]
        for expected, measured in zip(
            approach.expected, _measured(results, approach.contender), strict=True
        ):
            cells += [expected, measured]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _measured(results: Results, contender: str) -> tuple[str, str, str, str]:
    if not contender:
        return ("not built",) * 4
    figures = results["figures"]

    def median(key: str, unit: str, *, scale: float = 1.0) -> str:
        values = figures.get(key, {}).get(contender)
        return f"{number(statistics.median(values) * scale)} {unit}" if values else "not measured"

    size = median("installed_mb", "MB")
    lean = (results.get("installs") or {}).get("mlx-stdio lean", {})
    if contender == OURS and "megabytes" in lean:
        size += f"; lean {number(lean['megabytes'])} MB"
    ready, first = median("initialize_ms", "ms"), median("start_ms", "ms")
    megabytes = 2**20 / 1e6
    return (
        f"{ready}; first token {first}",
        median("rss_mib", "MB", scale=megabytes),
        f"{median('request_ms', 'ms')}; without a model {median('ping_ms', 'ms')}",
        size,
    )
