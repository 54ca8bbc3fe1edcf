"""Prompt look-up finds what a search of the whole text would find, and takes no time for it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from mlx_stdio.engine.lookup import Text


def searched(tokens: list[int], most: int) -> list[int]:
    """The look-up as it is defined, by searching the whole text."""
    for size in (3, 2, 1):
        for at in range(len(tokens) - 1, size - 1, -1):
            if tokens[at - size : at] == tokens[-size:]:
                text = list(tokens)
                for _ in range(most):
                    text.append(text[at])
                    at += 1
                return text[len(tokens) :]
    return []


def test_look_up_is_a_search() -> None:
    chance = random.Random(5)
    for kinds in (1, 2, 3, 8, 50):
        text = Text([chance.randrange(kinds)])
        for _ in range(150):
            for most in (0, 1, 4, 9):
                assert text.look_up(most) == searched(text.tokens, most)
            text.push(chance.randrange(kinds))


@pytest.mark.parametrize("kinds", [1, 20, 32000])
def test_look_up_looks_at_few_places_of_a_long_text(kinds: int) -> None:
    """Counted, not timed: what it reads of 32768 tokens."""

    class Counted(list[int]):
        reads = 0

        def __getitem__(self, at: Any) -> Any:
            Counted.reads += 1
            return super().__getitem__(at)

    chance = random.Random(kinds)
    text = Text([chance.randrange(kinds) for _ in range(32768)])
    text.tokens = Counted(text.tokens)
    text._before = Counted(text._before)
    text.look_up(4)
    assert Counted.reads < 2000
