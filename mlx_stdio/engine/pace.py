"""How much of a prompt is read at once, so that running streams do not stall.

A stream's pause while a prompt is read is one decode step and what is read beside it. The rule:
what is read beside a step takes no longer than two steps or 25 ms, whichever is more. That is half
of what is promised (4 steps or 50 ms), because it is an estimate on a machine that others use too.
"""

from __future__ import annotations

from collections import deque

_BESIDE_STREAMS = 0.025
_STEPS = 2.0
_ALONE = 0.1
"""Seconds that are read at once when nobody streams: until a newcomer's turn comes."""

_FIRST = 16
_FIRST_ALONE = 128
"""Lengths of the first chunks, when nothing is known of the model's speed."""

_SUPERLINEAR = 1.25
"""A chunk of twice the length takes at most twice the time and so much: attention's share."""


class Pace:
    """One model's speed, learnt as it runs: what chunks of 1, 2, 4, 8, … tokens take."""

    def __init__(self, most: int) -> None:
        """Args:
        most: tokens of a prompt that are read at once at most (`--prefill-step`).
        """
        self._most = most
        self._seconds: dict[int, float] = {}
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
        old = self._seconds.get(size, seconds)
        self._seconds[size] = new = (old + seconds) / 2
        # What one slow chunk has made of a larger size is forgotten here: it is not tried again
        # before its estimate is better.
        for other in self._seconds:
            if other > size:
                bound = new * other / size * _SUPERLINEAR
                self._seconds[other] = min(self._seconds[other], bound)

    def seconds(self, tokens: int) -> float:
        """What a chunk of so many tokens is likely to take; 0 if nothing is known."""
        if not self._seconds:
            return 0.0
        known = min(self._seconds, key=lambda size: abs(size.bit_length() - tokens.bit_length()))
        return self._seconds[known] * tokens / known

    def budget(self, *, beside_streams: bool) -> float:
        """Seconds to spend on prompts in one step."""
        return max(_BESIDE_STREAMS, _STEPS * self.step) if beside_streams else _ALONE

    def chunk(self, seconds: float, *, beside_streams: bool) -> int:
        """How many tokens to read in that time; at least one."""
        size = _FIRST if beside_streams else _FIRST_ALONE
        if self._seconds:
            largest = 2 * max(self._seconds)
            size = min(size, largest)
            while 2 * size <= largest and self.seconds(2 * size) <= seconds:
                size *= 2
            while size > 1 and self.seconds(size) > seconds:
                size //= 2
        return min(size, self._most)
