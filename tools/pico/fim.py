"""Turns documents into fill-in-the-middle examples (prefix, suffix, middle order).

Four kinds of gap are cut, because an editor asks for all of them: an arbitrary span of
characters, some whole lines, the rest of the line at the cursor, and the rest of a block.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

CHUNK_CHARS = 5000  # about 1,500 tokens: prefix, suffix and middle stay inside one window
MAX_MIDDLE = 1200


@dataclass(frozen=True)
class Gap:
    """A document cut in three."""

    prefix: str
    suffix: str
    middle: str


def chunks(text: str, rng: random.Random) -> list[str]:
    """Cut a document at line ends into pieces of a random size of at most CHUNK_CHARS."""
    pieces: list[str] = []
    current: list[str] = []
    size, limit = 0, rng.randint(400, CHUNK_CHARS)
    for line in text.splitlines(keepends=True):
        if size + len(line) > limit and current:
            pieces.append("".join(current))
            current, size, limit = [], 0, rng.randint(400, CHUNK_CHARS)
        current.append(line)
        size += len(line)
    if current:
        pieces.append("".join(current))
    return pieces


def _span_gap(text: str, rng: random.Random) -> tuple[int, int]:
    """Any characters: lengths spread evenly over their orders of magnitude."""
    length = min(int(2 ** rng.uniform(0, 10.2)), len(text) // 2, MAX_MIDDLE)
    start = rng.randint(0, len(text) - length)
    return start, start + length


def _line_starts(text: str) -> list[int]:
    starts, at = [0], 0
    for line in text.splitlines(keepends=True):
        at += len(line)
        starts.append(at)
    return starts


def _lines_gap(text: str, rng: random.Random) -> tuple[int, int]:
    """Whole lines, 1 to 12 of them; half the time their indentation is typed already."""
    starts = _line_starts(text)
    count = min(rng.choice((1, 1, 1, 2, 2, 3, 4, 5, 6, 8, 12)), len(starts) - 1)
    first = rng.randint(0, len(starts) - 1 - count)
    start, end = starts[first], starts[first + count]
    if rng.random() < 0.5:
        while start < end and text[start] == " ":
            start += 1
    # The line end mostly belongs to the suffix, as it does when a cursor stands on the line.
    return start, end - 1 if rng.random() < 0.8 and end > start else end


def _rest_of_line_gap(text: str, rng: random.Random) -> tuple[int, int]:
    """From a cursor inside a line (preferably after a blank or a bracket) to the line's end."""
    for _ in range(8):
        cursor = rng.randint(0, len(text) - 1)
        if text[cursor - 1] in " (.[=,:" or rng.random() < 0.3:
            end = text.find("\n", cursor)
            end = len(text) if end < 0 else end
            if cursor < end and text[cursor:end].strip():
                return cursor, end
    return _lines_gap(text, rng)


def _block_gap(text: str, rng: random.Random) -> tuple[int, int]:
    """The body of a block, or what is left of it from a cursor on."""
    starts = _line_starts(text)
    lines = text.splitlines()
    heads = [i for i, line in enumerate(lines[:-1]) if line.endswith(":") and line.strip()]
    if not heads:
        return _lines_gap(text, rng)
    head = rng.choice(heads)
    indent = len(lines[head]) - len(lines[head].lstrip())
    last = head + 1
    while last < len(lines) and (
        not lines[last].strip() or len(lines[last]) - len(lines[last].lstrip()) > indent
    ):
        last += 1
    while last > head + 1 and not lines[last - 1].strip():
        last -= 1
    first = rng.randint(head + 1, max(head + 1, min(last - 1, head + 4)))
    start, end = starts[first], starts[last] - 1
    if rng.random() < 0.6:
        while start < end and text[start] == " ":
            start += 1
    return start, end


def cut(text: str, rng: random.Random) -> Gap:
    """Cut a text at a gap of a random kind."""
    kinds = (_span_gap, _lines_gap, _rest_of_line_gap, _block_gap)
    start, end = rng.choices(kinds, (0.25, 0.25, 0.3, 0.2))[0](text, rng)
    end = min(max(start, end), start + MAX_MIDDLE, len(text))
    return Gap(text[:start], text[end:], text[start:end])


def render(gap: Gap) -> str:
    """The training text of a gap."""
    return (
        f"<|gap_prefix|>{gap.prefix}<|gap_suffix|>{gap.suffix}<|gap_middle|>"
        f"{gap.middle}<|endoftext|>"
    )
