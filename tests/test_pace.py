"""How much of a prompt is read at once: learnt from what chunks took, on a noisy machine too.

Durations are scripted: a machine is a function of the chunk's length.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlx_stdio.engine.pace import Pace

MOST = 2048
Machine = Callable[[int], float]


def machine(per_token: float, overhead: float = 0.001) -> Machine:
    return lambda tokens: overhead + per_token * tokens


def slower(takes: Machine, factor: float) -> Machine:
    return lambda tokens: factor * takes(tokens)


def read(pace: Pace, takes: Machine, chunks: int, *, beside_streams: bool = True) -> list[int]:
    """Read so many chunks, one a step; their lengths."""
    sizes = []
    for _ in range(chunks):
        budget = pace.budget(beside_streams=beside_streams)
        sizes.append(pace.chunk(budget, beside_streams=beside_streams))
        pace.chunk_read(sizes[-1], takes(sizes[-1]))
    return sizes


@pytest.mark.parametrize("per_token", [1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
def test_chunks_fill_the_budget_and_do_not_exceed_it(per_token: float) -> None:
    pace, takes = Pace(MOST), machine(per_token)
    size = read(pace, takes, 30)[-1]
    budget = pace.budget(beside_streams=True)
    assert takes(size) <= budget or size == 1
    assert size == MOST or takes(4 * size) > budget


@pytest.mark.parametrize("per_token", [1e-5, 1e-4, 1e-3])
def test_a_pause_stays_within_what_is_promised(per_token: float) -> None:
    """From the first chunk on, where nothing is known yet: 50 ms or four steps."""
    step = 0.016
    pace, takes = Pace(MOST), machine(per_token)
    for _ in range(8):
        pace.stepped(step)
    for size in read(pace, takes, 50):
        assert step + takes(size) <= max(0.050, 4 * step)


def test_without_streams_more_is_read_at_once() -> None:
    takes = machine(1e-4)
    beside = read(Pace(MOST), takes, 20)[-1]
    alone = read(Pace(MOST), takes, 20, beside_streams=False)[-1]
    assert alone >= 2 * beside


def test_slow_steps_leave_more_time_for_prompts() -> None:
    pace = Pace(MOST)
    assert pace.budget(beside_streams=True) == 0.020
    assert pace.budget(beside_streams=True, more_wait=True) == 0.035
    for seconds in (0.1, 0.1, 0.9):  # an outlier widens nothing
        pace.stepped(seconds)
    assert pace.budget(beside_streams=True) == pytest.approx(0.2)
    assert pace.budget(beside_streams=True, more_wait=True) == pytest.approx(0.2)


@pytest.mark.parametrize("most", [1, 7, 16, 100])
def test_no_chunk_is_longer_than_the_option_allows(most: int) -> None:
    sizes = read(Pace(most), machine(1e-7), 20)
    assert max(sizes) == most
    assert min(sizes) >= 1


@pytest.mark.parametrize("slow", [0.1, 1.0, 60.0])
@pytest.mark.parametrize("when", [0, 1, 3, 20])
def test_one_slow_chunk_is_got_over(slow: float, when: int) -> None:
    pace, takes = Pace(MOST), machine(1e-4)
    settled = read(Pace(MOST), takes, 40)[-1]
    read(pace, takes, when)
    read(pace, lambda _: slow, 1)
    sizes = read(pace, takes, 24)
    assert sizes[-1] >= settled / 2
    assert sum(sizes) > 24 * settled / 4


@pytest.mark.parametrize("per_token", [1e-4, 1e-3])
def test_one_fast_chunk_makes_at_most_one_that_is_twice_as_long(per_token: float) -> None:
    pace, takes = Pace(MOST), machine(per_token)
    settled = read(pace, takes, 40)[-1]
    read(pace, lambda _: 1e-9, 1)
    sizes = read(pace, takes, 20)
    assert max(sizes) <= 2 * settled
    assert sizes.count(2 * settled) <= 2
    assert sizes[-1] == settled


def test_noise_neither_starves_nor_explodes() -> None:
    takes = machine(1e-4)
    settled = read(Pace(MOST), takes, 40)[-1]
    pace = Pace(MOST)
    sizes = []
    for number in range(300):
        factor = (1.0, 1.3, 0.8, 6.0, 1.1, 0.5, 1.0)[number % 7]
        sizes += read(pace, slower(takes, factor), 1)
    assert max(sizes[20:]) <= 2 * settled
    assert sum(sizes[20:]) / len(sizes[20:]) >= settled / 4


def test_a_machine_that_becomes_faster_is_noticed() -> None:
    pace = Pace(MOST)
    slow = read(pace, machine(1e-3), 40)[-1]
    fast = read(pace, machine(1e-5), 40)[-1]
    assert fast >= 32 * slow
    assert read(pace, machine(1e-3), 12)[-1] <= 2 * slow


def test_a_short_rest_of_a_prompt_teaches_nothing_wrong() -> None:
    pace, takes = Pace(MOST), machine(1e-4)
    settled = read(pace, takes, 40)[-1]
    for rest in (1, 3, 5, 9, 17, 33, 65, 70):
        pace.chunk_read(rest, takes(rest))
    assert read(pace, takes, 3)[-1] == settled


@pytest.mark.parametrize("overhead", [0.01, 0.03, 0.3])
@pytest.mark.parametrize("beside_streams", [True, False])
def test_where_a_pass_has_its_price_whatever_its_length_chunks_do_not_collapse(
    overhead: float, beside_streams: bool
) -> None:
    """A GPU is bound by its launches, a long KV by its being read: shorter chunks save nothing."""
    pace, takes = Pace(MOST), machine(1e-5, overhead)
    read(pace, lambda _: 2.0, 1, beside_streams=beside_streams)  # a kernel is compiled
    sizes = read(pace, takes, 60, beside_streams=beside_streams)
    assert sizes[-1] >= 256
    assert sum(sizes) > 60 * 128
