"""The rows of the table: what each figure is called, and which way is better."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any

from bench.contenders import FASTAPI, FASTAPI_UNIX, IN_PROCESS, OURS, SERVER

PEERS = (IN_PROCESS, SERVER, FASTAPI, FASTAPI_UNIX)
CONTENDERS = (OURS, *PEERS)
Figures = dict[str, dict[str, list[float]]]
"""Values of all repetitions, by row and contender."""


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        more: more of it is better.
        judged: it is compared; else it stands there to explain another.
    """

    key: str
    title: str
    more: bool = False
    judged: bool = True

    @property
    def unit(self) -> str:
        """What the title names at its end; a mere count has none."""
        return self.title.rpartition(", ")[2] if ", " in self.title else ""


@dataclass(frozen=True)
class Comparison:
    """Our median over a peer's, and what that means."""

    row: Row
    peer: str
    ratio: float
    overlap: bool

    @property
    def worse(self) -> bool:
        """Ours is worse, by however little."""
        return self.row.judged and (self.ratio < 1 if self.row.more else self.ratio > 1)


def rows_of(results: dict[str, Any]) -> list[Row]:
    """The rows of a run's suite in the order of its table."""
    sizes = results["settings"]["sizes"]
    return _footprint_rows(sizes) if results["suite"] == "footprint" else _serving_rows(sizes)


def _footprint_rows(sizes: dict[str, Any]) -> list[Row]:
    return [
        Row("initialize_ms", "spawn to ready, ms"),
        Row("start_ms", "spawn to first token, ms"),
        Row("rss_mib", "idle memory, resident, MiB"),
        Row("uss_mib", "idle memory, private part of it, MiB"),
        Row("idle_cpu", "processor time while idle, ms/s"),
        Row("ping_ms", "`ping` or `GET /health`, ms"),
        Row("request_ms", "1-token request, ms"),
        Row("stream_first_ms", "time to first token of a stream, ms"),
        Row("stream_rate", f"one stream of {sizes['new']} tokens, tokens/s", more=True),
        Row("alternating_ms", "1-token request, two models in turn, ms"),
        Row("switch_load_ms", "1-token request, four models in turn, ms"),
        Row("installed_mb", "installed size, MB"),
        Row("packages", "packages installed"),
    ]


def _serving_rows(sizes: dict[str, Any]) -> list[Row]:
    counts = sizes["streams"]
    joining = f"a {sizes['joining']}-token prompt joins"
    chat = f"second turn of a chat of {sizes['chat']} tokens"
    return [
        *(
            Row(f"streams_{count}", f"{count} at once, tokens/s in all", more=True)
            for count in counts
        ),
        *(
            Row(f"streams_{count}_first_ms", f"{count} at once, median time to first token, ms")
            for count in counts
        ),
        Row("beside_decoding_ms", "first token of a short request beside a stream, ms"),
        Row(
            "beside_reading_ms",
            f"first token of a short request beside a {sizes['reading']}-token prompt, ms",
        ),
        Row("joining_gap_ms", f"worst pause of a stream while {joining}, ms"),
        Row("joining_step_ms", "its undisturbed step, ms", judged=False),
        Row("joining_gap_steps", "that pause in steps"),
        Row("joining_first_ms", f"first token of the prompt that joins, {sizes['joining']}, ms"),
        Row("second_turn_ms", f"{chat}: first token, prompt cache, ms"),
        Row("second_turn_cold_ms", f"{chat}: first token, no prompt cache, ms"),
        Row("second_turn_cached", "prompt tokens of that turn from the cache, %", judged=False),
    ]


def compare(rows: list[Row], figures: Figures) -> list[Comparison]:
    """Each row against each peer that has it."""
    found = []
    for row in rows:
        ours = figures.get(row.key, {}).get(OURS)
        for peer in PEERS:
            theirs = figures.get(row.key, {}).get(peer)
            if ours and theirs:
                ratio = _ratio(statistics.median(ours), statistics.median(theirs))
                overlap = min(ours) <= max(theirs) and min(theirs) <= max(ours)
                found.append(Comparison(row, peer, ratio, overlap))
    return found


def _ratio(ours: float, theirs: float) -> float:
    if theirs:
        return ours / theirs
    return math.inf if ours else 1.0
