"""Token sequences as bytes, so that comparing two of them is one `memcmp`.

A *packed* sequence holds four bytes a token, in the machine's order.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

WIDTH = 4
"""Bytes of a token."""


class Candidate(Protocol):
    """Something whose KV may be reused."""

    @property
    def tokens(self) -> bytes:
        """What its KV is of, packed."""

    def trimmable(self) -> bool:
        """Whether a part of it can be used alone; asked only where it decides."""


C = TypeVar("C", bound=Candidate)


def pack(tokens: Sequence[int]) -> bytes:
    """Token ids (0 … 2³²-1) as bytes."""
    packed = array("I", tokens)
    assert packed.itemsize == WIDTH
    return packed.tobytes()


def common(a: bytes, b: bytes, known: int = 0) -> int:
    """How many tokens two packed sequences share from the start.

    Args:
        known: tokens of which that is known already.
    """
    low, high = known, min(len(a), len(b)) // WIDTH
    # Grow by doubling, then halve: the cost is that of what is shared, not of what is there.
    step = 16
    while low < high:
        middle = min(low + step, high)
        if not a.startswith(b[low * WIDTH : middle * WIDTH], low * WIDTH):
            high = middle - 1
            break
        low = middle
        step *= 2
    while low < high:
        middle = (low + high + 1) // 2
        if a.startswith(b[low * WIDTH : middle * WIDTH], low * WIDTH):
            low = middle
        else:
            high = middle - 1
    return low


def longest(candidates: Iterable[C], wanted: bytes, most: int, floor: int) -> tuple[C, int] | None:
    """The candidate that shares the most tokens with `wanted`; the first of equals.

    Args:
        wanted: a packed sequence.
        most: tokens that may be used at most.
        floor: tokens; what shares no more is no help.

    Returns:
        the candidate and the number of tokens, `floor < number <= most`, or None.
    """
    best: tuple[C, int] | None = None
    most = min(most, len(wanted) // WIDTH)
    needed = wanted[: (floor + 1) * WIDTH]
    for candidate in candidates:
        if floor >= most:
            break
        if not candidate.tokens.startswith(needed):
            continue
        shared = min(common(wanted, candidate.tokens, floor + 1), most)
        if shared * WIDTH < len(candidate.tokens) and not candidate.trimmable():
            continue
        best, floor = (candidate, shared), shared
        needed = wanted[: (floor + 1) * WIDTH]
    return best
