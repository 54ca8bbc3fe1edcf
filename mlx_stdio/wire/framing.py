"""Newline framing: bytes in, whole messages out; no I/O here.

Rules it keeps:
- a message ends at byte `\\n`; a `\\r` before it and blank lines are passed over;
- a message longer than the limit is never held in memory: its bytes are skipped as they arrive,
  `Oversize` is given once, and the stream goes on with the next line;
- bytes without a final newline at end-of-file are the last message.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

BLANK: Final = b" \t\r\n"
"""JSON's white space, and no other byte that Python would strip."""


class Oversize(NamedTuple):
    """A message that passed the limit and was skipped."""

    limit: int


class Malformed(NamedTuple):
    """Bytes that are no message, and why."""

    reason: str


class LineFramer:
    """Cuts a byte stream into lines of at most `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held = bytearray()  # not a list of pieces: those cost more than their bytes
        self._skipping = False

    def feed(self, data: bytes) -> Iterator[bytes | Oversize]:
        """Take bytes as they came and yield each message that they complete.

        Args:
            data: any number of bytes; message borders may fall anywhere.
        """
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            yield from self._take(data[start:end])
            yield from self._finish()
            start = end + 1
        yield from self._take(data[start:])

    def close(self) -> Iterator[bytes | Oversize]:
        """End of file: what is left without a newline is a message too."""
        yield from self._finish()

    def _take(self, piece: bytes) -> Iterator[Oversize]:
        if self._skipping or not piece:
            return
        # One byte of grace: the `\r` of a CRLF does not count.
        if len(self._held) + len(piece) > self.limit + 1:
            self._held = bytearray()
            self._skipping = True
            yield Oversize(self.limit)
            return
        self._held += piece

    def _finish(self) -> Iterator[bytes | Oversize]:
        line = bytes(self._held)
        self._held = bytearray()
        if self._skipping:
            self._skipping = False
            return
        if line.endswith(b"\r"):
            line = line[:-1]
        if len(line) > self.limit:
            yield Oversize(self.limit)
        elif line.strip(BLANK):
            yield line
