"""Prompt lookup (Saxena 2023): what followed an earlier occurrence of a text's latest tokens."""

from __future__ import annotations

_NGRAM = 3
"""Longest run of latest tokens that is looked up; shorter ones are taken where it is not found."""

_LOOKED_AT = 256
"""Earlier occurrences of the latest token that are looked at, so that a look-up takes no time."""


class Text:
    """A row's tokens, and where each of them occurred before.

    A new token and a look-up cost the same however long the text is.

    Attributes:
        tokens: the history; grows by `push` only.
    """

    def __init__(self, tokens: list[int]) -> None:
        self.tokens: list[int] = []
        self._last: dict[int, int] = {}
        self._before: list[int] = []  # of each position: the one before it with the same token
        for token in tokens:
            self.push(token)

    def push(self, token: int) -> None:
        """One more token."""
        self._before.append(self._last.get(token, -1))
        self._last[token] = len(self.tokens)
        self.tokens.append(token)

    def look_up(self, most: int) -> list[int]:
        """What followed the last earlier occurrence of the latest tokens.

        Of the occurrences of three tokens the last is taken, else of two, else of one: the nearest
        is the likeliest to go on the same way. One that reaches the end is taken to go on with
        itself, so that a short period is proposed more than once.

        Returns:
            `most` tokens, or none.
        """
        tokens = self.tokens
        end = len(tokens)
        best, best_size = -1, 0
        at = self._before[-1]
        for _ in range(_LOOKED_AT):
            if at < 0:
                break
            size = 1
            while size < _NGRAM and size <= at and tokens[at - size] == tokens[end - 1 - size]:
                size += 1
            if size > best_size:
                best, best_size = at, size
                if size == _NGRAM:
                    break
            at = self._before[at]
        if best < 0:
            return []
        proposed = tokens[best + 1 : best + 1 + most]
        while len(proposed) < most:
            proposed += proposed[: most - len(proposed)]
        return proposed
