"""Tables in Markdown from a run's results."""

from __future__ import annotations

import statistics
from typing import Any

from bench.contenders import IN_PROCESS, OURS, SERVER
from bench.rows import PEERS, all_rows, compare

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
        f"- Start and memory: `pico`, {settings['lives']} lives"
        if settings["lives"]
        else "- Start and memory: not measured",
        f"- BLAS of `mlx_lm`'s processes in the rows about serving: {settings['peer_blas']}",
        f"- Lengths in tokens: {_lengths(settings['sizes'])}",
        (
            f"- {settings['repetitions']} repetitions, {results['seconds']:.0f} s,"
            f" {results['date']}: `{results['command']}`"
        ),
    ]
    return "\n".join(lines)


def table(results: Results) -> str:
    """All rows that have figures: medians, the least and the most, ratios to each peer."""
    figures = results["figures"]
    rows = [row for row in all_rows(results["settings"]) if row.key in figures]
    ratios = {(found.row.key, found.peer): found for found in compare(rows, figures)}
    names = (OURS, IN_PROCESS, SERVER)
    lines = [
        (
            f"| median (least-most) | {' | '.join(f'{name}' for name in names)}"
            " | to in process | to server |"
        ),
        "|---" * 6 + "|",
    ]
    for row in rows:
        cells = [_spread(figures[row.key].get(name)) for name in names]
        for peer in PEERS:
            found = ratios.get((row.key, peer))
            mark = " (worse)" if found and found.worse else ""
            cells.append(f"{found.ratio:.2f}{mark}" if found and row.judged else "-")
        lines.append(f"| {row.title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def worse_rows(results: Results) -> list[tuple[str, str]]:
    """Rows where our median is worse than a peer's: a key, and a line that says by how much."""
    found = []
    for one in compare(all_rows(results["settings"]), results["figures"]):
        if one.worse:
            noise = ", the ranges overlap" if one.overlap else ""
            line = f"{one.row.title}: {one.ratio:.2f} of {one.peer}{noise}"
            found.append((one.row.key, line))
    return found


def targets(results: Results) -> str:
    """What the GPU suite is to reach, and whether it did."""
    ratios = {
        (found.row.key, found.peer): found.ratio
        for found in compare(all_rows(results["settings"]), results["figures"])
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
    numbers = (statistics.median(values), min(values), max(values))
    middle, least, most = (_number(number) for number in numbers)
    return f"{middle} ({least}-{most})"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"
