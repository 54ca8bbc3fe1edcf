"""Which framing a host speaks, told by its first bytes.

JSON begins with a brace or a bracket, a block of headers with `Content-`. The first bytes that are
not blank decide for the whole stream, and the engine answers in kind. One byte order mark before
them is passed over: some libraries open a child's stdin as a text file in UTF-8, which writes one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, Protocol

from mlx_stdio.wire.framing import BLANK, LineFramer, Malformed, Oversize

Framing = Literal["newline", "content-length"]
Piece = bytes | Oversize | Malformed

_BEGIN = b"content-"
_MARK = b"\xef\xbb\xbf"


class Framer(Protocol):
    """Bytes in, whole messages out."""

    def feed(self, data: bytes) -> Iterator[Piece]:
        """Take bytes as they came and yield each message that they complete."""

    def close(self) -> Iterator[Piece]:
        """End of file."""


class AutoFramer:
    """Holds the first bytes until they tell the framing; then there is another framer for it."""

    def __init__(
        self, limit: int, on_known: Callable[[Framing], None], framing: Framing | None = None
    ) -> None:
        """Args:
        limit: bytes of a message.
        on_known: is told the framing, once, before the first message is yielded.
        framing: what it is, where the first bytes do not decide.
        """
        self._limit = limit
        self._on_known = on_known
        self._given = framing
        self._held = b""
        self._marked = False
        self._framer: Framer | None = None

    def feed(self, data: bytes) -> Iterator[Piece]:
        """See `Framer`."""
        if self._framer is not None:
            yield from self._framer.feed(data)
            return
        # Blanks are of no framing. They go at once, not only those of a piece that has nothing
        # else: what a stream means must not hang on how it was cut.
        self._held = (self._held + data).lstrip(BLANK)
        if not self._marked and self._held.startswith(_MARK):
            self._marked = True
            self._held = self._held[len(_MARK) :].lstrip(BLANK)
        if not self._held or (not self._marked and _MARK.startswith(self._held)):
            return
        begin = self._held[: len(_BEGIN)].lower()
        if self._given is not None:
            yield from self._known(self._given)
        elif begin == _BEGIN:
            yield from self._known("content-length")
        elif not _BEGIN.startswith(begin):
            yield from self._known("newline")

    def close(self) -> Iterator[Piece]:
        """See `Framer`."""
        if self._framer is None:
            yield from self._known(self._given or "newline")
        assert self._framer is not None
        yield from self._framer.close()

    def _known(self, framing: Framing) -> Iterator[Piece]:
        self._framer = _bare(framing, self._limit)
        self._on_known(framing)
        held, self._held = self._held, b""
        yield from self._framer.feed(held)


def make_framer(framing: Framing, limit: int) -> Framer:
    """A framer of one kind, whatever the first bytes are."""
    return AutoFramer(limit, lambda _: None, framing)


def _bare(framing: Framing, limit: int) -> Framer:
    if framing == "newline":
        return LineFramer(limit)
    from mlx_stdio.wire.headers import HeaderFramer

    return HeaderFramer(limit)


def with_length(message: bytes) -> bytes:
    """A message in a frame with its length."""
    return b"Content-Length: %d\r\n\r\n%b" % (len(message), message)
