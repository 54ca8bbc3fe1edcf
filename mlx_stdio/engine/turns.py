"""Which model has the device next.

The rule: the model that has had the least of the device's time, among those with work, gets the
next turn; a turn lasts one step, or as many steps as fit into 20 ms. A model whose only work is
`background` is charged four times what it uses, so it gets a fifth of the device beside another. A
model with an `interactive` prompt to read goes first, unless it has had 200 ms more than another. A
model that was idle starts even with the one that has had least, so that nobody saves up time, or
with what it had more when its work ended, so that a pause wipes nothing out.

Time is measured with the device drained at each change of turns, so each model pays for its own.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_stdio.engine.runner import Runner

_TURN = 0.020
_AHEAD = 0.2
_BACKGROUND_PRICE = 4.0


class Turns:
    """Takes turns among the runners that have work."""

    def __init__(self) -> None:
        self._used: dict[Runner, float] = {}
        self._least = 0.0  # of those with work, as far as it ever got
        self._busy: list[Runner] = []
        self._holder: Runner | None = None
        self._turn = 0.0

    def next(self, busy: Sequence[Runner]) -> Runner:
        """Choose among runners that all have work; at least one."""
        went_on = [self._used[r] for r in self._busy if r in busy]
        least = self._least = max(self._least, min(went_on, default=0.0))
        # Who has no work and has had no more than others is forgotten.
        self._used = {r: used for r, used in self._used.items() if r in busy or used > least}
        self._used |= {r: max(self._used.get(r, least), least) for r in busy}
        self._busy = list(busy)
        holder = self._holder
        urgent = [r for r in busy if r.urgent and self._used[r] < least + _AHEAD]
        goes_on = holder is not None and holder in busy and self._turn < _TURN
        if holder is not None and goes_on and (not urgent or holder in urgent):
            return holder
        chosen = min(urgent or busy, key=lambda r: self._used[r])
        if chosen is not holder:
            if holder is not None and holder in busy:
                began = time.monotonic()
                holder.settle()
                self.charge(holder, time.monotonic() - began)
            self._holder = chosen
        self._turn = 0.0
        return chosen

    def charge(self, runner: Runner, seconds: float) -> None:
        """It has used the device for so long."""
        price = _BACKGROUND_PRICE if runner.background else 1.0
        self._used[runner] = self._used.get(runner, 0.0) + price * seconds
        self._turn += seconds
