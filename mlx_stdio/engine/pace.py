"""How much of a prompt is read at once, so that running streams do not stall.

A stream's pause while a prompt is read is one decode step and what is read beside it. The rule:
what is read beside a step takes no longer than two steps or 20 ms, whichever is more (35 ms while
more prompts wait than rows stream). That is less than what is promised (4 steps or 50 ms): it is an
estimate, on a machine that others use too.
"""

from __future__ import annotations

from collections import deque

_BESIDE_STREAMS = 0.020
_MORE_WAIT = 0.035
"""Seconds where more prompts wait than rows stream: larger passes serve the many sooner."""

_STEPS = 2.0
_ALONE = 0.1
"""Seconds that are read at once when nobody streams: until a newcomer's turn comes."""

_FIRST = 16
"""Length of the first chunk beside streams, when nothing is known of the model's speed."""

_SUPERLINEAR = 1.25
"""A chunk of twice the length takes at most twice the time and so much: attention's share."""

_FORGET = 32
"""After so many other chunks a length is tried again as if nothing were known of it."""

_TOGETHER = 2
"""Several prompts in one pass may have so many times the tokens of one."""

_FIXED = 2.0
"""A pass takes some time whatever its length. So many times the shortest one is always spent: less
would make the pause no shorter, only the prompt endless."""


class Pace:
    """One model's speed, learnt as it runs: what chunks of 1, 2, 4, 8, … tokens take."""

    def __init__(self, most: int, first_alone: int = 128) -> None:
        """Args:
        most: tokens of a prompt that are read at once at most (`--prefill-step`).
        first_alone: what is tried first where nobody streams; a GPU takes more.
        """
        self._most = most
        self._latest: dict[int, deque[float]] = {}
        self._age: dict[int, int] = {}
        self._tried: set[int] = set()
        self._first_alone = first_alone
        self._steps: deque[float] = deque(maxlen=8)

    @property
    def step(self) -> float:
        """Seconds of a decode step; 0 before the first one.

        The fastest of the last ones: a slow one (a new kernel, another process) must not widen the
        budget.
        """
        return min(self._steps, default=0.0)

    def stepped(self, seconds: float) -> None:
        """A decode step with nothing beside it has taken so long."""
        self._steps.append(seconds)

    def chunk_read(self, tokens: int, seconds: float) -> None:
        """A chunk has taken so long."""
        size = 1 << (tokens - 1).bit_length()
        if tokens < 0.75 * size:
            return  # neither this size nor the one below
        if size not in self._tried:
            self._tried.add(size)
            return  # kernels were made for it, which happens once
        self._latest.setdefault(size, deque(maxlen=3)).append(seconds)
        self._age[size] = 0
        for other in [other for other in self._latest if other != size]:
            share = self._known(size) * other / size
            self._age[other] += other > size
            # Out of date is what cannot be true beside this: twice the length takes neither more
            # than twice the time (and a little), nor half the length less than half of it.
            wrong = (
                self._known(other) > share * _SUPERLINEAR
                if other > size
                else (self._known(other) * _SUPERLINEAR < share)
            )
            if wrong or self._age[other] > _FORGET:
                del self._latest[other], self._age[other]

    def _known(self, size: int) -> float:
        """The usual time of the last ones: one that was slow, or fast, by chance does not count."""
        times = sorted(self._latest[size])
        return times[1] if len(times) == 3 else times[0]

    def seconds(self, tokens: int) -> float:
        """What a chunk of so many tokens is likely to take; 0 if nothing is known."""
        sizes = sorted(self._latest)
        if not sizes:
            return 0.0
        below = [size for size in sizes if size <= tokens]
        above = [size for size in sizes if size >= tokens]
        if not below:
            return self._known(above[0]) * tokens / above[0]
        if above:
            return self._on_line(below[-1], above[0], tokens)
        if len(below) == 1:  # half of it may well be what a pass takes in any case
            return self._known(below[0]) * (0.5 + 0.5 * tokens / below[0])
        return max(self._known(below[-1]), self._on_line(below[-2], below[-1], tokens))

    def _on_line(self, low: int, high: int, tokens: int) -> float:
        """On the line through two known sizes; it may be beyond them."""
        if low == high:
            return self._known(low)
        slope = (self._known(high) - self._known(low)) / (high - low)
        return self._known(low) + slope * (tokens - low)

    def _fixed(self) -> float:
        """What a pass takes however short it is, as far as it is known."""
        if len(self._latest) == 1:
            return self._known(1) if 1 in self._latest else 0.0
        low, high = sorted(self._latest)[:2]
        return min(max(0.0, self._on_line(low, high, 0)), self._known(low))

    def budget(self, *, beside_streams: bool, more_wait: bool = False) -> float:
        """Seconds to spend on prompts in one step.

        Args:
            more_wait: whether more prompts are to be read than rows decode.
        """
        if not beside_streams:
            return _ALONE
        return max(_MORE_WAIT if more_wait else _BESIDE_STREAMS, _STEPS * self.step)

    def chunk(self, seconds: float, *, beside_streams: bool) -> int:
        """How many tokens to read in that time; at least one."""
        size = _FIRST if beside_streams else self._first_alone
        if self._latest:
            seconds = max(seconds, _FIXED * self._fixed())
            largest = 2 * max(self._latest)
            size = min(size, largest)
            while 2 * size <= largest and self.seconds(2 * size) <= seconds:
                size *= 2
            while size > 1 and self.seconds(size) > seconds:
                size //= 2
        return min(size, self._most)

    def together(self, seconds: float, *, beside_streams: bool) -> int:
        """How many tokens of several short prompts to read in one pass in that time."""
        size = self.chunk(seconds, beside_streams=beside_streams)
        if size == self._most and self.seconds(_TOGETHER * size) <= seconds:
            return _TOGETHER * size
        return size
