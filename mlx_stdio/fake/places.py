"""The fake engine's places: how many generations run at once, and who waits for whom.

Rules it keeps, as the engine does:
- those that wait are in the order of their priority, then of their arrival;
- an `interactive` one that finds no place free gets that of a `background` one, which goes on when
  a place is free that nobody else waits for; no other `background` one begins before it;
- of one model's prompts, that of the highest priority is read first, then the shortest.
"""

from __future__ import annotations

import itertools
from bisect import insort
from typing import Final

from mlx_stdio.engine.queue import tell_place
from mlx_stdio.fake.stage import Work
from mlx_stdio.session.prepare import RANKS
from mlx_stdio.session.request import GenerationRequest

_BACKGROUND: Final = RANKS["background"]
_LOOK_SECONDS: Final = 0.002


class Ticket:
    """What a generation holds from its arrival to its end.

    Attributes:
        model: whose prompt is to be read; empty when it has been read.
        length: of the prompt.
    """

    def __init__(self, request: GenerationRequest, rank: int, number: int) -> None:
        self.request = request
        self.rank = rank
        self.number = number
        self.model = ""
        self.length = 0
        self.first_place = self.place = 0

    @property
    def sink(self) -> GenerationRequest:
        """Who is told its place."""
        return self.request


class Places:
    """Used on the stage only, but for `running`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._numbers = itertools.count()
        self._waiting: list[Ticket] = []
        self._running: list[Ticket] = []
        self._aside: list[Ticket] = []

    @property
    def running(self) -> int:
        """How many have a place."""
        return len(self._running)

    def ask(self, request: GenerationRequest, priority: str | None, length: int) -> Ticket:
        """Queue up for a place.

        Args:
            length: of its prompt.
        """
        ticket = Ticket(request, RANKS[priority], next(self._numbers))
        ticket.model, ticket.length = request.model, length
        insort(self._waiting, ticket, key=lambda one: (one.rank, one.number))
        return ticket

    def wait(self, ticket: Ticket) -> Work:
        """Until it has a place, or nobody wants it any more."""
        while not ticket.request.closed:
            if self._waiting[0] is ticket and self._make_place(ticket):
                self._waiting.remove(ticket)
                self._running.append(ticket)
                return
            tell_place(ticket, self._waiting.index(ticket) + 1)
            yield _LOOK_SECONDS

    def turn(self, ticket: Ticket) -> Work:
        """Until its prompt may be read."""
        while not ticket.request.closed and any(
            (one.rank, one.length, one.number) < (ticket.rank, ticket.length, ticket.number)
            for one in self._running
            if one.model == ticket.model
        ):
            yield _LOOK_SECONDS

    def hold(self, ticket: Ticket) -> Work:
        """While it is set aside; called before each token."""
        ticket.model = ""
        while ticket in self._aside and not ticket.request.closed:
            urgent = any(one.rank < _BACKGROUND for one in self._waiting)
            if not urgent and len(self._running) < self._most:
                self._aside.remove(ticket)
                self._running.append(ticket)
            else:
                yield _LOOK_SECONDS

    def leave(self, ticket: Ticket) -> None:
        """It is over, wherever it was."""
        for line in (self._waiting, self._running, self._aside):
            if ticket in line:
                line.remove(ticket)

    def _make_place(self, ticket: Ticket) -> bool:
        """Whether there is one for the first that waits."""
        if ticket.rank == _BACKGROUND and self._aside:
            return False
        if len(self._running) < self._most:
            return True
        behind = [one for one in self._running if one.rank == _BACKGROUND]
        if ticket.rank > 0 or not behind:
            return False
        self._running.remove(behind[-1])
        self._aside.append(behind[-1])
        return True
