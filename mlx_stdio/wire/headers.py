"""Content-Length framing, as the Language Server Protocol has it; no I/O here.

A message is a block of headers (`Content-Length`, perhaps `Content-Type`, in any order and case),
an empty line, and as many bytes as the length says. Rules this keeps:
- lines of headers end with `\\r\\n`; a bare `\\n` is taken too; other headers are passed over;
- a message longer than the limit is skipped as it arrives, and `Oversize` is given once;
- a block that cannot be understood is `Malformed`, and what follows is skipped up to the next whole
  `Content-Length` header: only there can a message begin again, and no line needs to end before it;
- a block that says another charset is `Malformed` too, but its length holds: the message is
  skipped;
- a block of headers is bounded too.

Source: Language Server Protocol 3.17, "Base Protocol".
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mlx_stdio.wire.framing import Malformed, Oversize

_MOST_HEADERS = 4096
"""Bytes of a block of headers."""

_LENGTH = b"content-length"
_TYPE = b"content-type"
_AGAIN = re.compile(rb"content-length:[ \t]{0,8}\d{1,18}[ \t]{0,8}\r?\n", re.IGNORECASE)
_LONGEST_AGAIN = 64
_CHARSETS = (b"utf-8", b"utf8")


class HeaderFramer:
    """Cuts a byte stream into messages of at most `limit` bytes by their headers."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held = bytearray()
        self._wanted: int | None = None  # bytes of the present body; None while in its headers
        self._skip = 0  # bytes of a body that are not wanted
        self._lost = False  # looking for the next message

    def feed(self, data: bytes) -> Iterator[bytes | Oversize | Malformed]:
        """Take bytes as they came and yield each message that they complete.

        Args:
            data: any number of bytes; message borders may fall anywhere.
        """
        self._held += data
        while True:
            if self._skip:
                skipped = min(self._skip, len(self._held))
                del self._held[:skipped]
                self._skip -= skipped
                if self._skip:
                    return
            if self._lost and not self._find_again():
                return
            if self._wanted is None:
                found = self._headers()
                if found is None:
                    return
                if isinstance(found, Malformed):
                    yield found
                    continue
                if found > self.limit:
                    self._skip = found
                    yield Oversize(self.limit)
                    continue
                self._wanted = found
            if len(self._held) < self._wanted:
                return
            body = bytes(self._held[: self._wanted])
            del self._held[: self._wanted]
            self._wanted = None
            yield body  # an empty one too: it is no JSON, and somebody waits for an answer

    def close(self) -> Iterator[bytes | Oversize | Malformed]:
        """End of file: an unfinished message is none."""
        if self._wanted is not None or (self._held.strip() and not self._lost):
            yield Malformed("the stream ends inside a message")
        self._held.clear()
        self._wanted, self._skip, self._lost = None, 0, False

    def _headers(self) -> int | Malformed | None:
        """The length that a whole block of headers gives, which is taken off; None: more is due."""
        # Empty lines between messages are not of the protocol, and harmless.
        while self._held.startswith((b"\r", b"\n")):
            del self._held[:1]
        length: int | None = None
        foreign = False
        at = 0
        while (end := self._held.find(b"\n", at, _MOST_HEADERS)) >= 0:
            line = bytes(self._held[at:end]).strip()
            at = end + 1
            if not line:
                if length is None:
                    return self._garbage(at)
                del self._held[:at]
                if foreign:
                    self._skip = length
                    return Malformed("a charset that is not UTF-8")
                return length
            name, colon, value = line.partition(b":")
            name, value = name.strip().lower(), value.strip()
            if not colon:
                return self._malformed("a header without a colon", at)
            if name == _LENGTH:
                if not value.isdigit() or len(value) > 18 or length is not None:
                    return self._malformed("Content-Length is no number, or there twice", at)
                length = int(value)
            elif name == _TYPE:
                foreign |= not _is_utf8(value)
        if len(self._held) >= _MOST_HEADERS:
            return self._malformed(f"more than {_MOST_HEADERS} bytes of headers", at or 1)
        return None

    def _garbage(self, read: int) -> Malformed:
        """A block without a length. Most often it is the rest of a message whose length was given
        too short, such as in characters, and the next message's header stands at its end."""
        again = _AGAIN.search(self._held, 1, read)
        return self._malformed("no Content-Length", again.start() if again else read)

    def _malformed(self, reason: str, read: int) -> Malformed:
        """What was read of the block is given up, so that it is not read again."""
        self._lost = True
        del self._held[:read]
        return Malformed(reason)

    def _find_again(self) -> bool:
        """Skip to the next header that may begin a message; whether it is there."""
        found = _AGAIN.search(self._held)
        if found is not None:
            del self._held[: found.start()]
            self._lost = False
            return True
        # It may be cut at the end of what has come.
        del self._held[: max(0, len(self._held) - _LONGEST_AGAIN)]
        return False


def _is_utf8(value: bytes) -> bool:
    """Whether a `Content-Type` names UTF-8, or no charset at all."""
    for part in value.lower().split(b";")[1:]:
        name, _, charset = part.partition(b"=")
        if name.strip() == b"charset" and charset.strip().strip(b'"') not in _CHARSETS:
            return False
    return True
