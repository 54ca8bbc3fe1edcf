"""From tokens to the text that may leave: whole characters, and never a part of a stop string.

Text that could still become a stop string is held back until it is decided. So what `push` and
`finish` give, joined, is exactly the text of the reply.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlx_stdio.text.detokenizer import Detokenizer


class TextStream:
    """One request's text as it grows."""

    def __init__(self, detokenizer: Detokenizer, stops: Sequence[str] = ()) -> None:
        """Args:
        stops: strings that end the text; none is empty.
        """
        self._detokenizer = detokenizer
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Take one token.

        Returns:
            text that is certain now; `stopped` tells whether a stop string was met.
        """
        piece = self._detokenizer.push(token)
        if not self._stops:
            return piece
        return self._release(piece) if piece else ""

    def finish(self) -> str:
        """The tokens have ended without a stop string: what was held back goes out."""
        if self.stopped:
            return ""
        text = self._release(self._detokenizer.finish())
        if not self.stopped:
            text, self._held = text + self._held, ""
        return text

    def _release(self, piece: str) -> str:
        text = self._held + piece
        # The stop string that is complete first, so that how tokens cut the text does not matter.
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)[1]]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
