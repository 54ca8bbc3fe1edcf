"""Which framing a host speaks, told by its first bytes.

JSON begins with a brace or a bracket, a block of headers with `Content-`. The first bytes that are
not blank decide for the whole stream, and the engine answers in kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, Protocol

from mlx_stdio.wire.framing import LineFramer, Malformed, Oversize

Framing = Literal["newline", "content-length"]
Piece = bytes | Oversize | Malformed

_BEGIN = b"content-"


class Framer(Protocol):
    """Bytes in, whole messages out."""

    def feed(self, data: bytes) -> Iterator[Piece]:
        """Take bytes as they came and yield each message that they complete."""

    def close(self) -> Iterator[Piece]:
        """End of file."""


class AutoFramer:
    """Holds the first bytes until they tell the framing; then there is another framer for it."""

    def __init__(self, limit: int, on_known: Callable[[Framing], None]) -> None:
        """Args:
        limit: bytes of a message.
        on_known: is told the framing, once, before the first message is yielded.
        """
        self._limit = limit
        self._on_known = on_known
        self._held = b""
        self._framer: Framer | None = None

    def feed(self, data: bytes) -> Iterator[Piece]:
        """See `Framer`."""
        if self._framer is not None:
            yield from self._framer.feed(data)
            return
        self._held += data
        begin = self._held.lstrip()[: len(_BEGIN)].lower()
        if not begin:
            self._held = b""  # blank lines are of no framing
        elif begin == _BEGIN:
            yield from self._known("content-length")
        elif not _BEGIN.startswith(begin):
            yield from self._known("newline")

    def close(self) -> Iterator[Piece]:
        """See `Framer`."""
        if self._framer is None:
            yield from self._known("newline")
        assert self._framer is not None
        yield from self._framer.close()

    def _known(self, framing: Framing) -> Iterator[Piece]:
        self._framer = make_framer(framing, self._limit)
        self._on_known(framing)
        held, self._held = self._held, b""
        yield from self._framer.feed(held)


def make_framer(framing: Framing, limit: int) -> Framer:
    """A framer of one kind."""
    if framing == "newline":
        return LineFramer(limit)
    from mlx_stdio.wire.headers import HeaderFramer

    return HeaderFramer(limit)


def with_length(message: bytes) -> bytes:
    """A message in a frame with its length."""
    return b"Content-Length: %d\r\n\r\n%b" % (len(message), message)
