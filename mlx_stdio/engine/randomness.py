"""Randomness as a pure function of a request's seed and a token's position.

splitmix64 of both gives the key of MLX's counter-based generator. So what is drawn does not depend
on what else runs, or ran before: not on neighbours, not on speculation, not on a second attempt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mlx.core as mx

DRAW, XTC = 0, 1
"""What a position's randomness is used for; each use has a key of its own."""

_MASK = 2**64 - 1


def keys(rows: Sequence[tuple[int, int]], use: int) -> mx.array:
    """Keys for rows of `(seed, position)`: `[n, 2]`, as `mx.random.key` makes them of 64 bits."""
    import mlx.core as mx

    numbers = [mix(seed, 2 * position + use) for seed, position in rows]
    return mx.array([[number >> 32, number & 0xFFFFFFFF] for number in numbers], dtype=mx.uint32)


def mix(seed: int, counter: int) -> int:
    """splitmix64 of two numbers: neighbouring seeds and positions give unrelated keys."""
    z = (mix_once(seed) + counter * 0x9E3779B97F4A7C15) & _MASK
    return mix_once(z)


def mix_once(z: int) -> int:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014)."""
    z = (z + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
