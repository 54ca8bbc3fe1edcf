"""Which rows of which suite go into which plot.

A plot is `docs/plots/SUITE-NAME.svg`, drawn from a run's results alone.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from bench import plot
from bench.contenders import OURS
from bench.report import Results
from bench.rows import CONTENDERS, Row, rows_of

FOLDER = "plots"


@dataclass(frozen=True)
class Chart:
    """One file.

    Attributes:
        keys: of its rows; one that ends with `*` stands for all rows that begin so.
    """

    name: str
    title: str
    keys: tuple[str, ...]

    def has(self, row: Row) -> bool:
        """The row belongs to it."""
        if any(key.endswith("*") for key in self.keys):
            beginning = self.keys[0].rstrip("*")
            return row.key.startswith(beginning) and row.key[len(beginning) :].isdigit()
        return row.key in self.keys


_SERVING = (Chart("throughput", "Throughput of many streams at once", ("streams_*",)),)
_CHARTS: dict[str, tuple[Chart, ...]] = {
    "footprint": (
        Chart("start", "Start", ("initialize_ms", "start_ms")),
        Chart("idle", "Memory and processor while idle", ("rss_mib", "uss_mib", "idle_cpu")),
        Chart("latency", "Latency", ("ping_ms", "request_ms", "stream_first_ms")),
        Chart("rate", "Rate of one stream", ("stream_rate",)),
        Chart("switch", "Change of the model", ("alternating_ms", "switch_load_ms")),
        Chart("installed", "Installed", ("installed_mb", "packages")),
    ),
    "cpu": _SERVING,
    "gpu": _SERVING,
}


def write(results: Results, folder: Path) -> list[str]:
    """Draw the plots of a run into a folder; the Markdown that shows them."""
    shown = []
    for chart in _CHARTS.get(results["suite"], ()):
        panels = [_panel(row, results) for row in rows_of(results) if chart.has(row)]
        if panels := [panel for panel in panels if panel.bars]:
            file = f"{results['suite']}-{chart.name}.svg"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(plot.draw(chart.title, panels))
            shown.append(f"![{chart.title}]({folder.name}/{file})")
    return shown


def _panel(row: Row, results: Results) -> plot.Panel:
    figures = results["figures"].get(row.key, {})
    bars = [
        plot.Bar(name, statistics.median(values), min(values), max(values), ours=name == OURS)
        for name in CONTENDERS
        if (values := figures.get(name))
    ]
    better = "more is better" if row.more else "less is better"
    return plot.Panel(f"{row.title.replace('`', '')}: {better}", bars, row.unit)
