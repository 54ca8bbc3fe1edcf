"""One ledger of memory: its figures are true, it is asked first; who waits for room gets it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from mlx_stdio.engine.job import LoadJob
from tests.host import Host, RpcError
from tests.ledger import Ledger
from tests.phases import told, wait_until
from tests.random_models import make_model
from tests.residents import changes, memory, ready, replies, row
from tests.room import Record, Room

Spawn = Callable[..., Host]
MIB = 2**20

WIDE: dict[str, dict[str, Any]] = {
    # Much KV and little else to compute: fixed overheads do not matter.
    "llama": {"num_key_value_heads": 4, "head_dim": 64, "hidden_size": 128},
    "gemma3_text": {"num_key_value_heads": 4, "head_dim": 64, "sliding_window": 128},
    "mamba2": {"num_heads": 16, "head_dim": 64, "state_size": 64, "num_hidden_layers": 4},
    "qwen3_next": {"num_key_value_heads": 4, "head_dim": 64},
}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    for name, config in WIDE.items():
        make_model(folder / name, name, seed=7, **config)
    return folder


def disagreement(host: Host, *, recurrent: bool = False) -> float:
    """How far what is reported is from what MLX says, relatively; the middle of some looks.

    Args:
        recurrent: a step under way writes the new state beside the old one, so there may be as
            much again of it.
    """
    looks = []
    for _ in range(9):
        figures = memory(host)
        told = figures["weightsBytes"] + figures["kvBytes"] + figures["prefixCacheBytes"]
        active = figures["activeBytes"]
        most = told + figures["kvBytes"] * recurrent
        looks.append(max(told - active, active - most, 0) / max(1, active))
    return statistics.median(looks)


def prompt(length: int, seed: int) -> list[int]:
    return [1 + (seed * 37 + at * (seed + 3)) % 290 for at in range(length)]


@pytest.mark.parametrize("architecture", WIDE)
def test_the_figures_agree_with_mlx(wide: Path, architecture: str) -> None:
    with Host("--models-dir", str(wide), "--model", architecture) as host:
        host.call("models/load", model=architecture)
        assert disagreement(host) < 0.05  # only weights
        host.call("generate", prompt=prompt(400, 9), maxTokens=4, ignoreEos=True)
        # And a prefix, which is put away when the reply has left.
        wait_until(lambda: disagreement(host) < 0.05)
        ask = {"maxTokens": 1500, "ignoreEos": True}
        ids = [host.start("generate", prompt=prompt(400, n), **ask) for n in range(6)]
        wait_until(lambda: all(told(host, "stream/delta", one) for one in ids))
        assert memory(host)["kvBytes"] > 0
        recurrent = architecture in ("mamba2", "qwen3_next")
        assert disagreement(host, recurrent=recurrent) < 0.05  # while rows are decoded together
        again = [host.start("generate", prompt=prompt(400, n), **ask) for n in range(3)]
        wait_until(lambda: all(told(host, "stream/delta", one) for one in again))
        assert disagreement(host, recurrent=recurrent) < 0.05  # while some go on from prefixes
        for request_id in ids + again:
            host.cancel(request_id)
        for request_id in ids + again:
            with pytest.raises(RpcError):
                host.reply(request_id)
        wait_until(lambda: host.call("engine/status")["requests"] == {"running": 0, "queued": 0})
        wait_until(lambda: memory(host)["kvBytes"] == 0)
        assert disagreement(host) < 0.05
        host.call("models/unload", model=architecture)
        figures = memory(host)
        assert figures["weightsBytes"] == figures["kvBytes"] == figures["prefixCacheBytes"] == 0
        assert figures["activeBytes"] + figures["poolBytes"] < MIB


def test_a_prefix_limit_of_nothing_keeps_nothing(wide: Path) -> None:
    options = ("--models-dir", str(wide), "--model", "llama", "--prefix-cache-limit", "0")
    with Host(*options) as host:
        for _ in range(2):
            result = host.call("generate", prompt=prompt(400, 1), maxTokens=4, ignoreEos=True)
            assert result["usage"]["cachedTokens"] == 0
        assert memory(host)["prefixCacheBytes"] == 0


# The shelf's small models have 512 bytes of KV a token.


def sizes(host: Host) -> tuple[int, int]:
    """Bytes of a small model's weights, and of the large one's."""
    small = row(host, "a")["bytes"]
    large = row(host, "big")["bytes"]
    return small, large


def kv(prompt_tokens: int, max_tokens: int) -> int:
    return -(-(prompt_tokens + max_tokens) // 256) * 256 * 512


@pytest.fixture
def tight(spawn: Spawn, shelf: Path) -> Callable[..., Host]:
    """Spawns an engine with room for so many small models and so many bytes of KV."""
    file = (shelf / "a" / "model.safetensors").stat().st_size
    return lambda models, kv_bytes, *more: spawn(
        *("--memory-limit", str(models * file + kv_bytes), "--max-models", "9", *more)
    )


def refused(host: Host, request_id: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        host.reply(request_id)
    return caught.value


LONG: dict[str, Any] = {"prompt": [7] * 100, "maxTokens": 1800, "ignoreEos": True}
LONG_KV = kv(100, 1800)


def test_what_cannot_fit_even_alone_is_refused_with_the_figures(tight: Callable[..., Host]) -> None:
    host = tight(1, LONG_KV // 2)
    error = refused(host, host.start("generate", **LONG))
    assert (error.code, error.kind) == (1005, "outOfMemory")
    assert error.data["neededBytes"] == LONG_KV
    assert error.data["weightsBytes"] == row(host, "a")["bytes"]
    assert error.data["limitBytes"] == memory(host)["limitBytes"]
    assert error.data["neededBytes"] + error.data["weightsBytes"] > error.data["limitBytes"]
    shorter = host.call("generate", **{**LONG, "maxTokens": 100})
    assert shorter["usage"]["completionTokens"] == 100
    assert ready(host) == ["a"]


def test_what_does_not_fit_together_waits_and_finishes(tight: Callable[..., Host]) -> None:
    host = tight(1, int(1.2 * LONG_KV))
    host.call("models/load", model="a")
    ids = [host.start("generate", **{**LONG, "maxTokens": 1700 + n}) for n in range(3)]
    seen: set[int] = set()
    while set(replies(host, *ids)) != set(ids):
        seen.add(host.call("engine/status")["requests"]["running"])
        time.sleep(0.01)
    assert max(seen) == 1  # one at a time, but no deadlock
    for number, request_id in enumerate(ids):
        assert host.reply(request_id)["usage"]["completionTokens"] == 1700 + number
    assert replies(host, *ids) == ids


def test_who_waits_for_room_is_not_overtaken_for_ever(tight: Callable[..., Host]) -> None:
    host = tight(1, LONG_KV + kv(2, 2))
    host.call("models/load", model="a")
    short = {"prompt": [5, 6], "maxTokens": 200, "ignoreEos": True}
    first = [host.start("generate", **short) for _ in range(3)]
    waits = host.start("generate", **{**LONG, "maxTokens": 1700})
    later = [host.start("generate", **short) for _ in range(12)]
    for request_id in (*first, waits, *later):
        host.reply(request_id)
    order = replies(host, *first, waits, *later)
    assert set(order[:3]) == set(first)
    assert order.index(waits) < len(first) + len(later)
    assert not set(later) - set(order[order.index(first[-1]) :])


@pytest.mark.parametrize("end", ["cancel", "deadline"])
def test_who_waits_for_room_can_be_ended(tight: Callable[..., Host], end: str) -> None:
    host = tight(1, int(1.2 * LONG_KV))
    host.call("models/load", model="a")
    running = host.start("generate", **LONG)
    wait_until(lambda: told(host, "stream/delta", running))
    more = {"timeoutMs": 30} if end == "deadline" else {}
    waits = host.start("generate", **LONG, **more)
    behind = host.start("generate", prompt=[5], maxTokens=2, ignoreEos=True)
    if end == "cancel":
        wait_until(lambda: told(host, "$/progress", behind))
        host.cancel(waits)
    assert refused(host, waits).code == (-32800 if end == "cancel" else 1007)
    assert host.reply(behind)["usage"]["completionTokens"] == 2  # it was held back
    assert host.reply(running)["usage"]["completionTokens"] == 1800
    again = host.call("generate", **LONG)  # nothing is reserved any more
    assert again["usage"]["completionTokens"] == 1800
    assert Ledger(host.lines)[waits].partial["completionTokens"] == 0


def test_idle_models_leave_for_kv_only_if_they_must(tight: Callable[..., Host]) -> None:
    host = tight(3, LONG_KV // 2)
    for model in "bca":
        host.call("generate", model=model, prompt=[7] * 300, maxTokens=2, ignoreEos=True)
    assert memory(host)["prefixCacheBytes"] > 0
    # Prefixes are enough for this one.
    need = {"prompt": [9] * 20, "maxTokens": LONG_KV // 2 // 512 - 300, "ignoreEos": True}
    host.call("generate", model="a", cachePrompt=False, **need)
    assert sorted(ready(host)) == ["a", "b", "c"]
    assert not [change for change in changes(host) if change[1] == "available"]
    host.call("generate", model="a", cachePrompt=False, **LONG)
    assert ready(host)[0] == "a"
    gone = [change for change in changes(host) if change[1] == "available"]
    assert gone[0] == ("b", "available", "memory")


def test_prefixes_leave_before_idle_models(tight: Callable[..., Host], shelf: Path) -> None:
    file = (shelf / "b" / "model.safetensors").stat().st_size
    host = tight(2, int(0.9 * file), "--prefix-cache-limit", "1GiB")
    host.call("models/load", model="b")
    for seed in range(8):
        ask = {"prompt": prompt(200, seed), "maxTokens": 2, "ignoreEos": True}
        host.call("generate", model="a", **ask)
    figures = memory(host)
    held = figures["weightsBytes"] + figures["prefixCacheBytes"]
    assert figures["prefixCacheBytes"] > 0.3 * file
    assert held <= figures["limitBytes"]
    tokens = int(0.8 * file / 512)
    need = {"prompt": [9] * 20, "maxTokens": tokens, "ignoreEos": True}
    result = host.call("generate", model="a", cachePrompt=False, **need)
    assert result["usage"]["completionTokens"] == tokens
    assert sorted(ready(host)) == ["a", "b"]


def test_a_full_prefix_cache_fails_no_request(tight: Callable[..., Host]) -> None:
    host = tight(1, 2 * LONG_KV, "--prefix-cache-limit", "1GiB")
    for seed in range(10):
        ask = {"prompt": prompt(700, seed), "maxTokens": 3, "ignoreEos": True}
        assert host.call("generate", **ask)["usage"]["completionTokens"] == 3
        figures = memory(host)
        held = figures["weightsBytes"] + figures["prefixCacheBytes"] + figures["kvBytes"]
        assert held <= figures["limitBytes"]
    assert memory(host)["prefixCacheBytes"] > 0
    assert host.call("generate", **LONG)["usage"]["completionTokens"] == 1800


def test_weights_that_need_what_is_reserved_for_kv_wait(tight: Callable[..., Host]) -> None:
    host = tight(1, int(1.1 * LONG_KV))
    running = host.start("generate", **LONG)
    wait_until(lambda: told(host, "stream/delta", running))
    load = host.start("models/load", model="b")
    assert host.reply(running)["usage"]["completionTokens"] == 1800
    host.reply(load)
    assert replies(host, running, load) == [running, load]
    assert changes(host) == [("a", "ready", "request"), ("b", "ready", "request")]


def test_kv_does_not_take_the_room_of_a_load_in_progress(spawn: Spawn, shelf: Path) -> None:
    small, large = ((shelf / name / "model.safetensors").stat().st_size for name in ("a", "big"))
    host = spawn("--memory-limit", str(large + small + LONG_KV // 2), "--max-models", "9")
    host.call("models/load", model="a")
    load = host.start("models/load", model="big")
    wait_until(lambda: len(told(host, "$/progress", load)) > 1)
    wide = host.start("generate", **LONG)
    host.reply(load)
    assert host.reply(wide)["usage"]["completionTokens"] == 1800
    assert replies(host, load, wide) == [load, wide]  # it had to wait for the load, and to undo it
    assert ("big", "available", "memory") in changes(host)


def test_a_pinned_model_is_not_given_up_for_kv(tight: Callable[..., Host]) -> None:
    host = tight(2, int(0.7 * LONG_KV))
    host.call("models/load", model="b", pin=True)
    error = refused(host, host.start("generate", **LONG))
    assert (error.code, error.data["weightsBytes"]) == (1005, 2 * row(host, "b")["bytes"])
    host.call("models/load", model="b", pin=False)
    assert host.call("generate", **LONG)["usage"]["completionTokens"] == 1800
    assert ready(host) == ["a"]


# In the room.


def test_requests_on_a_pinned_model_do_not_starve_a_load(shelf: Path) -> None:
    file = (shelf / "a" / "model.safetensors").stat().st_size
    short = kv(3, 100)
    room = Room(shelf, max_models=9, memory_limit=2 * file + short + short // 2)
    room.load("a").pinned = True
    records = [room.ask("a", [5, 6, 7], 100)]
    room.ticks(5)
    other = Record()
    card = room.card("b")
    room.scheduler.add(LoadJob(other, "b", card))
    room.ticks(10)
    assert other.closed  # weights and one request's KV fit
    wide = Record()
    room.scheduler.add(LoadJob(wide, "c", replace(card, id="c", disk_bytes=file + short)))
    for _ in range(30):  # a flow that always keeps some KV reserved
        records.append(room.ask("a", [5, 6, 7], 100))
        room.ticks(40)
        if wide.closed:
            break
    assert wide.closed
    room.run()
    assert all(record.outcome is not None for record in records)
    assert room.engine.ledger.reserved_bytes == 0


@pytest.mark.parametrize("end", ["fails", "is abandoned", "finishes"])
def test_the_claim_of_a_load_ends_with_it(shelf: Path, end: str) -> None:
    room = Room(shelf)
    record = Record()
    card = room.card("big")
    if end == "fails":
        card = replace(card, path=shelf / "broken")
    room.scheduler.add(LoadJob(record, "big", card))
    room.scheduler.tick()
    assert room.engine.ledger.reserved_bytes == card.disk_bytes
    if end == "is abandoned":
        record.closed = True
    room.run()
    assert (record.error is not None) == (end == "fails")
    assert room.engine.ledger.reserved_bytes == 0
    assert (room.engine.cache.get("big") is not None) == (end == "finishes")
