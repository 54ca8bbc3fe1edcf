"""Which model has the device next.

The rule: the model that has had the least of the device's time, among those with work, gets the
next turn; a turn lasts one step, or as many steps as fit into 20 ms. A model whose only work is
`background` is charged four times what it uses, so it gets a fifth of the device beside another. A
model with an `interactive` prompt to read goes first, unless it has had 200 ms more than another. A
model that was idle starts even with the one that has had least, so that nobody saves up time.

Time is measured with the device drained at each change of turns, so each model pays for its own.
"""

from __future__ import annotations

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
        self._holder: Runner | None = None
        self._turn = 0.0

    def next(self, busy: Sequence[Runner]) -> Runner:
        """Choose among runners that all have work; at least one."""
        least = min((self._used[r] for r in busy if r in self._used), default=0.0)
        self._used = {r: self._used.get(r, least) for r in busy}
        holder = self._holder
        urgent = [r for r in busy if r.urgent and self._used[r] < least + _AHEAD]
        goes_on = holder is not None and holder in self._used and self._turn < _TURN
        if holder is not None and goes_on and (not urgent or holder in urgent):
            return holder
        chosen = min(urgent or busy, key=lambda r: self._used[r])
        if chosen is not holder:
            if holder is not None and holder in self._used:
                holder.settle()
            self._holder = chosen
        self._turn = 0.0
        return chosen

    def charge(self, runner: Runner, seconds: float) -> None:
        """It has used the device for so long."""
        price = _BACKGROUND_PRICE if runner.background else 1.0
        self._used[runner] = self._used.get(runner, 0.0) + price * seconds
        self._turn += seconds
