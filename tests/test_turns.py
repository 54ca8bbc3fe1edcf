"""Models with work share the device by the rule of `turns.py`.

The rule itself with scripted durations; then two real models in a room, and over the pipe.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mlx_stdio.engine import turns as module
from mlx_stdio.engine.runner import Runner
from mlx_stdio.engine.turns import Turns
from tests.host import Host
from tests.ledger import Ledger
from tests.phases import wait_until
from tests.residents import replies
from tests.room import Room


class Clock:
    """Time that passes when something is done."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Work:
    """A runner as `Turns` sees it: a step starts work and waits for that of the step before."""

    def __init__(self, clock: Clock, cost: float, *, background: bool = False) -> None:
        self.clock = clock
        self.cost = cost
        self.background = background
        self.urgent = False
        self.device = 0.0  # what it has really used
        self._started = 0.0

    def step(self) -> None:
        self.settle()
        self._started = self.cost
        self.device += self.cost

    def settle(self) -> None:
        self.clock.now += self._started
        self._started = 0.0


class Table:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.turns: Any = Turns()

    def run(self, seconds: float, busy: Callable[[], list[Work]]) -> list[Work]:
        """Let them work for so long; who had each step."""
        end = self.clock.now + seconds
        had: list[Work] = []
        while self.clock.now < end:
            chosen = self.turns.next(busy())
            began = self.clock.now
            chosen.step()
            self.turns.charge(chosen, self.clock.now - began)
            had.append(chosen)
            self.clock.now += 1e-6
        return had


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.mark.parametrize("costs", [(0.001, 0.001), (0.001, 0.03), (0.0002, 0.3), (0.03, 0.05)])
def test_two_models_get_the_same_time_whatever_their_steps_cost(
    clock: Clock, costs: tuple[float, float]
) -> None:
    one, other = (Work(clock, cost) for cost in costs)
    Table(clock).run(60, lambda: [one, other])
    assert one.device == pytest.approx(other.device, rel=0.1)


def test_five_models_too(clock: Clock) -> None:
    works = [Work(clock, cost) for cost in (0.001, 0.002, 0.01, 0.05, 0.1)]
    Table(clock).run(60, lambda: works)
    assert max(w.device for w in works) < 1.15 * min(w.device for w in works)


def test_a_turn_is_20_ms_or_one_step(clock: Clock) -> None:
    fast, slow = Work(clock, 0.002), Work(clock, 0.06)
    had = Table(clock).run(30, lambda: [fast, slow])
    changes = sum(a is not b for a, b in pairwise(had))
    assert changes > 2 * 30 / (0.06 * 2 * 2 + 0.08)  # not one long turn each
    assert had.count(fast) / changes > 5  # nor a change at each step


def test_a_newly_busy_model_neither_starves_nor_hoards(clock: Clock) -> None:
    old, new = Work(clock, 0.005), Work(clock, 0.005)
    table = Table(clock)
    table.run(10, lambda: [old])
    before = old.device
    table.run(0.2, lambda: [old, new])
    assert new.device >= 0.06  # at once
    table.run(5, lambda: [old, new])
    assert new.device == pytest.approx(old.device - before, rel=0.1)


def test_a_pause_saves_nothing_up(clock: Clock) -> None:
    one, other = Work(clock, 0.005), Work(clock, 0.005)
    table = Table(clock)
    table.run(1, lambda: [one, other])
    table.run(10, lambda: [one])
    before = one.device, other.device
    table.run(2, lambda: [one, other])
    assert other.device - before[1] == pytest.approx(one.device - before[0], rel=0.1)


def test_a_pause_wipes_nothing_out(clock: Clock) -> None:
    """Requests that come one by one, each a single long step, get no more than their half."""
    steady, jumpy = Work(clock, 0.001), Work(clock, 0.09)
    jumpy_has_work = True
    table = Table(clock)
    while clock.now < 30:
        busy = [steady, jumpy] if jumpy_has_work else [steady]
        chosen = table.run(1e-9, lambda busy=busy: busy)[0]  # type: ignore[misc]
        jumpy_has_work = chosen is not jumpy
    assert jumpy.device < 1.15 * steady.device


def test_who_ran_alone_for_an_hour_owes_nothing(clock: Clock) -> None:
    one, other = Work(clock, 0.05), Work(clock, 0.005)
    table = Table(clock)
    table.run(3600, lambda: [one])
    table.run(0.5, lambda: [other])  # the work changes from one to the other at one go
    before = one.device, other.device
    table.run(2, lambda: [one, other])
    assert one.device - before[0] == pytest.approx(other.device - before[1], rel=0.15)


def test_background_work_gets_a_fifth(clock: Clock) -> None:
    normal, background = Work(clock, 0.005), Work(clock, 0.005, background=True)
    Table(clock).run(60, lambda: [normal, background])
    assert background.device / (normal.device + background.device) == pytest.approx(0.2, abs=0.02)


def test_background_work_alone_gets_everything(clock: Clock) -> None:
    background = Work(clock, 0.005, background=True)
    Table(clock).run(1, lambda: [background])
    assert background.device == pytest.approx(1, rel=0.05)


def test_an_interactive_prompt_goes_first_but_not_for_ever(clock: Clock) -> None:
    normal, urgent = Work(clock, 0.005), Work(clock, 0.005)
    table = Table(clock)
    table.run(1, lambda: [normal])
    urgent.urgent = True
    assert set(table.run(0.15, lambda: [normal, urgent])) == {urgent}
    table.run(10, lambda: [normal, urgent])
    ahead = urgent.device - (normal.device - 1)
    assert 0.1 < ahead < 0.4


def test_who_is_interrupted_goes_on_when_the_prompt_is_read(clock: Clock) -> None:
    normal, urgent = Work(clock, 0.005), Work(clock, 0.005)
    table = Table(clock)
    table.run(1, lambda: [normal])
    urgent.urgent = True
    table.run(0.1, lambda: [normal, urgent])
    urgent.urgent = False
    had = table.run(0.1, lambda: [normal, urgent])
    assert had[-1] is normal
    assert had.count(normal) > 3 * had.count(urgent)


def test_models_that_are_gone_are_forgotten(clock: Clock) -> None:
    table = Table(clock)
    for _ in range(50):
        work = Work(clock, 0.005)
        table.run(0.1, lambda work=work: [work])  # type: ignore[misc]
    assert len(table.turns._used) <= 2


# Real models.


@pytest.fixture
def spent(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds of wall time that each model's steps took."""
    used: dict[str, float] = {}

    def timed(name: str) -> Any:
        real = getattr(Runner, name)

        def run(self: Runner, *more: Any) -> None:
            began = time.monotonic()
            real(self, *more)
            model = self.resident.card.id
            used[model] = used.get(model, 0.0) + time.monotonic() - began

        return run

    for name in ("step", "settle"):
        monkeypatch.setattr(Runner, name, timed(name))
    return used


def test_a_small_and_a_large_model_get_the_same_time(shelf: Path, spent: dict[str, float]) -> None:
    room = Room(shelf, max_models=4)
    for model in ("a", "big"):
        room.load(model)
    records = {model: room.ask(model, [5, 9, 14], 1900) for model in ("a", "big")}
    room.ticks(40)
    spent.clear()
    started = {model: len(record.tokens) for model, record in records.items()}
    while len(records["a"].tokens) < 1500 and len(records["big"].tokens) < 300:
        room.scheduler.tick()
    drawn = {model: len(records[model].tokens) - started[model] for model in records}
    assert drawn["a"] > 2 * drawn["big"] > 0
    assert 0.5 < spent["a"] / spent["big"] < 2


def test_every_stream_of_both_models_makes_progress(shelf: Path) -> None:
    with Host("--models-dir", str(shelf), "--model", "a") as host:
        for model in ("a", "big"):
            host.call("models/load", model=model)
        ask = {"prompt": "ab", "maxTokens": 2000, "ignoreEos": True}
        ids = [
            host.start("generate", **ask, model=model) for model in ("a", "big") for _ in range(3)
        ]
        wait_until(lambda: {*ids[3:]} <= Ledger(list(host.lines)).accounts.keys())
        now = {one: len(acc.tokens) for one, acc in Ledger(list(host.lines)).accounts.items()}

        def grown() -> bool:
            accounts = Ledger(list(host.lines)).accounts
            return all(len(accounts[one].tokens) >= now.get(one, 0) + 4 for one in ids[3:]) and all(
                accounts[one].reply is not None or len(accounts[one].tokens) > now.get(one, 0) + 4
                for one in ids[:3]
            )

        wait_until(grown)
        assert not set(replies(host, *ids[3:]))
