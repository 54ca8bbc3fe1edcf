"""Bar charts as plain SVG, without a dependency.

A browser shows an SVG of a document in the colours that it has, whatever the page's theme is. So
the ground is transparent, and every colour is one that stands out from white and from near black.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.sax.saxutils import escape

_INK, _OURS, _OTHERS, _LINE = "#6e7681", "#2f81f7", "#8b949e", "#8b949e"
_WIDTH, _LABELS, _VALUES = 760, 200, 150
_TITLE, _BAR, _GAP, _AXIS = 28, 16, 8, 22
_DECADES = 1.3
"""Powers of ten between the least and the greatest value from which a scale is logarithmic."""


@dataclass(frozen=True)
class Bar:
    """One contender's value.

    Attributes:
        ours: it is drawn in another colour.
    """

    label: str
    value: float
    least: float
    most: float
    ours: bool = False


@dataclass(frozen=True)
class Panel:
    """The bars of one row; its title names the unit."""

    title: str
    bars: list[Bar]
    unit: str


@dataclass(frozen=True)
class Scale:
    """From a value to a length. `low` is the value at length zero."""

    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, bars: list[Bar]) -> Scale:
        """One that all bars fit on, logarithmic where they span decades."""
        values = [value for bar in bars for value in (bar.value, bar.least, bar.most)]
        positive = [value for value in values if value > 0]
        if not positive:
            return cls(0, 1, log=False)
        low, high = min(positive), max(positive)
        if math.log10(high / low) < _DECADES:
            return cls(0, high, log=False)
        # A decade below the least, lest its bar have no length.
        return cls(10 ** (math.floor(math.log10(low) - 0.3)), high, log=True)

    def length(self, value: float) -> float:
        """In pixels."""
        room = _WIDTH - _LABELS - _VALUES
        if value <= self.low:
            return 0.0
        if self.log:
            return room * math.log10(value / self.low) / math.log10(self.high / self.low)
        return room * value / self.high

    def ticks(self) -> list[float]:
        """Round values with a line each."""
        if self.log:
            first, last = math.log10(self.low), math.log10(self.high)
            return [10.0**power for power in range(round(first), math.floor(last) + 1)]
        step = 10.0 ** math.floor(math.log10(self.high))
        step /= next(part for part in (1, 2, 5) if self.high / step * part >= 3)
        return [step * count for count in range(math.floor(self.high / step) + 1)]


def draw(title: str, panels: list[Panel]) -> str:
    """The panels, one below the other."""
    parts: list[str] = []
    top = 0.0
    for panel in panels:
        drawn, height = _panel(panel, top)
        parts += drawn
        top += height
    return "\n".join(
        [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top:.0f}"'
                f' width="{_WIDTH}" height="{top:.0f}" role="img"'
                ' font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"'
                f' font-size="13" fill="{_INK}">'
            ),
            f"<title>{escape(title)}</title>",
            *parts,
            "</svg>\n",
        ]
    )


def number(value: float) -> str:
    """Three figures that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _panel(panel: Panel, top: float) -> tuple[list[str], float]:
    scale = Scale.of(panel.bars)
    kind = " (log scale)" if scale.log else ""
    first = top + _TITLE
    bottom = first + len(panel.bars) * (_BAR + _GAP)
    parts = [_text(0, top + 18, f"{panel.title}{kind}", ' font-weight="600"')]
    for tick in scale.ticks():
        x = _LABELS + scale.length(tick)
        parts.append(
            f'<line x1="{x:.1f}" y1="{first - 2:.1f}" x2="{x:.1f}" y2="{bottom:.1f}"'
            f' stroke="{_LINE}" stroke-opacity="0.35"/>'
        )
        parts.append(_text(x, bottom + 13, f"{tick:g}", ' font-size="11" text-anchor="middle"'))
    for index, bar in enumerate(panel.bars):
        parts += _bar(bar, scale, first + index * (_BAR + _GAP), panel.unit)
    return parts, bottom + _AXIS - top


def _bar(bar: Bar, scale: Scale, y: float, unit: str) -> list[str]:
    middle, length = y + _BAR / 2, scale.length(bar.value)
    least, most = _LABELS + scale.length(bar.least), _LABELS + scale.length(bar.most)
    colour = _OURS if bar.ours else _OTHERS
    return [
        _text(_LABELS - 8, middle + 4.5, bar.label, ' text-anchor="end"'),
        (
            f'<rect x="{_LABELS}" y="{y:.1f}" width="{max(length, 1):.1f}" height="{_BAR}"'
            f' rx="2" fill="{colour}"/>'
        ),
        (
            f'<line x1="{least:.1f}" y1="{middle:.1f}" x2="{most:.1f}" y2="{middle:.1f}"'
            f' stroke="{_INK}" stroke-width="2"/>'
        ),
        _text(max(most, _LABELS + length) + 8, middle + 4.5, f"{number(bar.value)} {unit}".strip()),
    ]


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(text)}</text>'
