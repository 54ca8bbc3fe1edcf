"""A JSON-RPC batch: its members run at once, its responses leave together in one array."""

from __future__ import annotations

import threading

from mlx_stdio.wire.writer import Frame, Writer


class Batch:
    """Collects the responses of one batch. Notifications of its requests are not held back."""

    def __init__(self, expected: int, writer: Writer) -> None:
        """Args:
        expected: members that want a response; more than zero.
        """
        self._expected = expected
        self._writer = writer
        self._responses: list[bytes] = []
        self._lock = threading.Lock()

    def respond(self, response: bytes) -> None:
        """One member's response; the last one sends the array."""
        with self._lock:
            self._responses.append(response)
            if len(self._responses) == self._expected:
                self._writer.put(Frame(b"[" + b",".join(self._responses) + b"]"))
