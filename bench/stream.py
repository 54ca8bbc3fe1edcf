"""One streamed generation, as its client sees it: clock readings, nothing else per token."""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol


class BenchError(RuntimeError):
    """A contender did not do what a row needs; the row goes without it."""


@dataclass(eq=False)
class Stream:
    """A request in flight. Times are of `time.perf_counter`, in seconds.

    Attributes:
        sent: before its first byte was written, or its connection opened.
        arrivals: when each piece of text came.
        ended: when its last message came.
        tokens: completion tokens, as the contender counted them.
        cached: prompt tokens that it took from its prompt cache.
    """

    sent: float = field(default_factory=time.perf_counter)
    arrivals: list[float] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    ended: float = 0.0
    tokens: int = 0
    prompt_tokens: int = 0
    cached: int = 0
    error: str = ""
    done: threading.Event = field(default_factory=threading.Event)
    stopped: bool = False

    def piece(self, now: float, text: str) -> None:
        """Text has come."""
        self.arrivals.append(now)
        self.pieces.append(text)

    def finish(self, now: float, error: str = "") -> None:
        """Nothing more will come."""
        self.ended = now
        self.error = error
        self.done.set()

    @property
    def text(self) -> str:
        """All the text so far."""
        return "".join(self.pieces)

    @property
    def first_ms(self) -> float:
        """Milliseconds to the first text."""
        if not self.arrivals:
            raise BenchError(f"no text came {self.error}")
        return (self.arrivals[0] - self.sent) * 1000

    def gaps_ms(self, begin: float, end: float) -> list[float]:
        """Pauses between pieces that overlap a span of time."""
        return [(b - a) * 1000 for a, b in pairwise(self.arrivals) if b > begin and a < end]

    def wait(self, timeout: float) -> Stream:
        """Wait for the end.

        Raises:
            BenchError: it failed, or takes too long.
        """
        if not self.done.wait(timeout):
            raise BenchError(f"no end within {timeout:.0f} s")
        if self.error:
            raise BenchError(self.error)
        return self

    def wait_pieces(self, count: int, timeout: float) -> None:
        """Wait until so many pieces have come."""
        until = time.perf_counter() + timeout
        while len(self.arrivals) < count:
            if self.done.is_set() or time.perf_counter() > until:
                raise BenchError(f"{len(self.arrivals)} of {count} pieces came {self.error}")
            time.sleep(0.001)


class Client(Protocol):
    """A contender that is spoken to from outside its process."""

    def generate(self, prompt: str, tokens: int) -> Stream:
        """Start a greedy, streamed generation of exactly so many tokens."""

    def chat(self, messages: list[dict[str, str]], tokens: int, *, cold: bool) -> Stream:
        """The same from messages.

        Args:
            cold: without the prompt cache, where the contender can be told so.
        """

    def cancel(self, stream: Stream) -> None:
        """Give a stream up, and wait until it has ended."""

    def close(self) -> None:
        """End the process."""


def median(values: list[float]) -> float:
    """The median.

    Raises:
        BenchError: there are no values.
    """
    if not values:
        raise BenchError("nothing was measured")
    return statistics.median(values)
