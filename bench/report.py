"""Tables in Markdown from a run's results."""

from __future__ import annotations

import statistics
from typing import Any

from bench.contenders import FASTAPI, FASTAPI_UNIX, IN_PROCESS, SERVER
from bench.plot import number
from bench.rows import CONTENDERS, compare, rows_of

_TO = {IN_PROCESS: "in process", SERVER: "server", FASTAPI: "TCP", FASTAPI_UNIX: "Unix socket"}

Results = dict[str, Any]
"""A run: `suite`, `date`, `command`, `machine`, `settings`, `figures`, `errors`."""


def heading(results: Results) -> str:
    """Where, when and with what the run was made."""
    machine, settings = results["machine"], results["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        (
            f"- Machine: {machine['cpu']}, {machine['cores']} cores, {machine['system']};"
            f" device: {machine['device']}"
        ),
        f"- Versions: {versions}",
        f"- Model: {settings['model']}",
        f"- BLAS of `mlx_lm`'s processes: {settings['peer_blas']}",
    ]
    if results["suite"] == "footprint":
        count = f"Lives of each: {settings['lives']}"
    else:
        lines.append(f"- Lengths in tokens: {_lengths(settings['sizes'])}")
        count = f"{settings['repetitions']} repetitions"
    lines.append(
        f"- {count}, {results['seconds']:.0f} s, {results['date']}: `{results['command']}`"
    )
    return "\n".join(lines)


def table(results: Results) -> str:
    """All rows that have figures: medians, the least and the most, ratios to each peer."""
    figures = results["figures"]
    rows = [row for row in rows_of(results) if row.key in figures]
    ratios = {(found.row.key, found.peer): found for found in compare(rows, figures)}
    names = [name for name in CONTENDERS if any(name in figures[row.key] for row in rows)]
    peers = [name for name in names if name in _TO]
    heads = [*names, *(f"to {_TO[peer]}" for peer in peers)]
    lines = [f"| median (least-most) | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for row in rows:
        cells = [_spread(figures[row.key].get(name)) for name in names]
        for peer in peers:
            found = ratios.get((row.key, peer))
            mark = " (worse)" if found and found.worse else ""
            cells.append(f"{found.ratio:.2f}{mark}" if found and row.judged else "-")
        lines.append(f"| {row.title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def worse_rows(results: Results) -> list[tuple[str, str]]:
    """Rows where our median is worse than a peer's: a key, and a line that says by how much."""
    found = []
    for one in compare(rows_of(results), results["figures"]):
        if one.worse:
            noise = ", the ranges overlap" if one.overlap else ""
            line = f"{one.row.title}: {one.ratio:.2f} of {one.peer}{noise}"
            found.append((one.row.key, line))
    return found


def targets(results: Results) -> str:
    """What the GPU suite is to reach, and whether it did."""
    ratios = {
        (found.row.key, found.peer): found.ratio
        for found in compare(rows_of(results), results["figures"])
    }
    lines = ["| target | ratio | wanted | |", "|---|---|---|---|"]
    for key, peer, wanted in (
        ("streams_1", IN_PROCESS, 0.95),
        ("streams_8", IN_PROCESS, 0.9),
        ("streams_32", IN_PROCESS, 0.9),
        ("streams_32", SERVER, 3.0),
    ):
        ratio = ratios.get((key, peer))
        name = f"{key.replace('_', ' ')}, to {peer}"
        if ratio is None:
            lines.append(f"| {name} | - | {wanted} | not measured |")
        else:
            reached = "reached" if ratio >= wanted else "missed"
            lines.append(f"| {name} | {ratio:.2f} | {wanted} | {reached} |")
    return "\n".join(lines)


def _lengths(sizes: dict[str, Any]) -> str:
    return (
        f"streams read {sizes['prompt']} and write {sizes['new']}; short prompts {sizes['short']};"
        f" a prompt that joins {sizes['joining']}, one being read {sizes['reading']};"
        f" a chat's first message {sizes['chat']}"
    )


def _spread(values: list[float] | None) -> str:
    if not values:
        return "-"
    middle = number(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({number(min(values))}-{number(max(values))})"
