"""Which models stay in memory: bounds by count and by bytes, room before a load, pins."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from mlx_stdio.kv.geometry import Geometry
from mlx_stdio.kv.prefixes import Prefixes
from mlx_stdio.models.card import Card
from mlx_stdio.models.ledger import Ledger
from mlx_stdio.models.loader import Weights
from mlx_stdio.models.residency import ModelCache
from tests.host import Host, RpcError, joined
from tests.residents import (
    await_note,
    changes,
    loads,
    memory,
    messages,
    progress,
    ready,
    replies,
    row,
    rss_grew,
)

Spawn = Callable[..., Host]
MIB = 2**20


def use(host: Host, model: str) -> None:
    host.call("generate", model=model, prompt="ab", maxTokens=2)


def size_of(host: Host, model: str) -> int:
    size: int = row(host, model)["bytes"]
    return size


@pytest.mark.parametrize("hit", ["generate", "models/load"])
def test_the_least_recently_used_model_goes_first(spawn: Spawn, hit: str) -> None:
    host = spawn("--max-models", "2")
    use(host, "a")
    use(host, "b")
    host.call(hit, model="a", **({"prompt": "ab", "maxTokens": 1} if hit == "generate" else {}))
    assert ready(host) == ["a", "b"]
    use(host, "c")
    assert ready(host) == ["c", "a"]
    use(host, "d")
    assert ready(host) == ["d", "c"]
    assert [change for change in changes(host) if change[1] == "available"] == [
        ("b", "available", "lru"),
        ("a", "available", "lru"),
    ]


def test_switching_between_resident_models_loads_nothing(spawn: Spawn) -> None:
    host = spawn("--max-models", "3")
    for _ in range(3):
        for model in "abc":
            use(host, model)
    assert loads(host) == 3
    assert memory(host)["weightsBytes"] == 3 * size_of(host, "a")


def test_bytes_are_a_bound_too(spawn: Spawn, shelf: Path) -> None:
    file = (shelf / "a" / "model.safetensors").stat().st_size
    host = spawn("--max-models", "9", "--memory-limit", str(int(2.5 * file)))
    for model in "abc":
        use(host, model)
    assert ready(host) == ["c", "b"]
    assert changes(host)[2:] == [("a", "available", "memory"), ("c", "ready", "request")]
    figures = memory(host)
    assert figures["weightsBytes"] <= figures["limitBytes"] == int(2.5 * file)


def test_a_large_model_takes_only_the_room_that_it_needs(spawn: Spawn, shelf: Path) -> None:
    small, large = ((shelf / name / "model.safetensors").stat().st_size for name in ("a", "big"))
    host = spawn("--max-models", "9", "--memory-limit", str(large + int(1.5 * small)))
    for model in "abc":
        use(host, model)
    host.call("models/load", model="big")
    assert ready(host) == ["big", "c"]
    assert changes(host)[3:5] == [("a", "available", "memory"), ("b", "available", "memory")]


def test_the_victim_leaves_before_the_newcomer_is_read(spawn: Spawn) -> None:
    host = spawn("--max-models", "1")
    for model in ("big", "twin", "big"):
        host.call("models/load", model=model)
    assert changes(host) == [
        ("big", "ready", "request"),
        ("big", "available", "lru"),
        ("twin", "ready", "request"),
        ("twin", "available", "lru"),
        ("big", "ready", "request"),
    ]
    order = [
        message["params"].get("phase", message["params"].get("state"))
        for message in messages(host)
        if message.get("method") in ("models/changed", "$/progress")
        and message["params"].get("phase") != "queued"
    ]
    first = ["loading"] * 5 + ["ready"]
    assert order == [*first, "available", *first, "available", *first]
    assert memory(host)["peakBytes"] < 1.3 * size_of(host, "big")


def test_memory_comes_back(spawn: Spawn) -> None:
    host = spawn()
    use(host, "a")
    host.call("models/unload", model="a")
    before = memory(host)
    rss: list[int] = []
    for _ in range(8):
        host.call("models/load", model="big")
        use(host, "big")
        size = size_of(host, "big")
        loaded = memory(host)
        assert loaded["weightsBytes"] == size > 100 * MIB
        grew = rss_grew(host, before, loaded)
        assert grew is None or grew > 0.8 * size
        host.call("models/unload", model="big")
        after = memory(host)
        assert after["weightsBytes"] == 0
        assert after["activeBytes"] + after["poolBytes"] < 0.01 * size
        rss.append(rss_grew(host, before, after) or 0)
    assert max(rss) < 0.25 * size
    assert rss[-1] - rss[0] < 0.1 * size


def test_requests_at_once_load_a_model_once(spawn: Spawn, shelf: Path) -> None:
    host = spawn()
    generations = [
        host.start("generate", model=name, prompt="ab", maxTokens=3, ignoreEos=True)
        for name in ("big", str(shelf / "big"), "big", "big")
    ]
    others = [host.start("models/load", model=name) for name in ("big", str(shelf / "big"))]
    texts = {host.reply(request_id)["text"] for request_id in generations}
    assert len(texts) == 1
    assert {host.reply(request_id)["model"]["id"] for request_id in others} == {"big"}
    assert loads(host) == 1
    assert changes(host) == [("big", "ready", "request")]


def test_a_model_in_use_is_no_victim(spawn: Spawn) -> None:
    host = spawn("--max-models", "1")
    ask: dict[str, Any] = {"model": "a", "prompt": "ab", "maxTokens": 200, "ignoreEos": True}
    alone = host.call("generate", **ask, stream=False)["text"]
    running = host.start("generate", **ask)
    await_note(host, "stream/delta", requestId=running)
    load = host.start("models/load", model="b")
    result = host.reply(running)
    assert joined(host.take_deltas(running)) == result["text"] == alone
    assert host.reply(load)["model"]["id"] == "b"
    assert replies(host, running, load) == [running, load]
    assert changes(host)[1:] == [("a", "available", "lru"), ("b", "ready", "request")]


def test_a_load_that_waits_for_room_is_not_overtaken_for_ever(spawn: Spawn) -> None:
    host = spawn("--max-models", "1", "--max-concurrent", "2")
    ask: dict[str, Any] = {"model": "a", "prompt": "ab", "ignoreEos": True}
    running = host.start("generate", **ask, maxTokens=80)
    await_note(host, "stream/delta", requestId=running)
    load = host.start("models/load", model="b")
    # Two at a time, of different lengths: left to themselves they would always keep `a` in use.
    others = [host.start("generate", **ask, maxTokens=50 + 10 * n) for n in range(8)]
    for request_id in (running, load, *others):
        host.reply(request_id)
    assert load in replies(host, load, *others)[:-2]
    assert loads(host) == 3  # and back again for the rest


def test_a_model_that_is_loading_is_no_victim(spawn: Spawn) -> None:
    host = spawn("--max-models", "1")
    ask: dict[str, Any] = {"model": "big", "prompt": "ab", "maxTokens": 3, "ignoreEos": True}
    generation = host.start("generate", **ask)
    await_note(host, "$/progress", requestId=generation, phase="loading")
    load = host.start("models/load", model="a")
    assert host.reply(generation)["usage"]["completionTokens"] == 3
    assert host.reply(load)["model"]["id"] == "a"
    assert changes(host) == [
        ("big", "ready", "request"),
        ("big", "available", "lru"),
        ("a", "ready", "request"),
    ]
    assert progress(host, load)[0]["completed"] == 0


def test_a_model_that_is_awaited_is_no_victim(spawn: Spawn) -> None:
    host = spawn("--max-models", "1")
    # The weights are there long before this is tokenized, and found to be too long.
    generation = host.start("generate", model="a", prompt="the quick brown fox " * 150_000)
    await_note(host, "models/changed", model="a", state="ready")
    load = host.start("models/load", model="b")
    with pytest.raises(RpcError):
        host.reply(generation)
    host.reply(load)
    assert replies(host, generation, load) == [generation, load]
    assert loads(host) == 2


def test_whatever_is_asked_the_bounds_hold_and_everything_is_answered(
    spawn: Spawn, shelf: Path
) -> None:
    """Requests at random, many at a time; the notifications tell who was in memory when."""
    file = (shelf / "a" / "model.safetensors").stat().st_size
    host = spawn("--max-models", "3", "--memory-limit", str(int(2.5 * file)))
    chance = random.Random(7)
    wanted: set[Any] = set()
    for _ in range(150):
        model = chance.choice("abcd")
        method = chance.choice(["generate", "generate", "generate", "models/load", "models/unload"])
        more: dict[str, Any] = {}
        if method == "generate":
            more = {"prompt": "ab", "maxTokens": chance.randint(1, 12)}
            more["priority"] = chance.choice(["interactive", "normal", "background"])
        elif method == "models/load":
            # Never two pins at a time, so that nothing has to be refused.
            more = {"pin": chance.random() < 0.3 if model == "a" else None}
            more["keepAliveSeconds"] = chance.choice([None, 0, 0.01])
        request_id = host.start(method, model=model, **more)
        if chance.random() < 0.1:
            host.reply(request_id)
        else:
            wanted.add(request_id)
    for request_id in wanted:
        host.reply(request_id)
    resident: set[str] = set()
    for model, state, _ in changes(host):
        assert (model in resident) == (state == "available")
        resident ^= {model}
        assert len(resident) <= 2  # two and a half fit by bytes
    assert resident == set(ready(host))
    figures = memory(host)
    assert figures["weightsBytes"] == sum(size_of(host, model) for model in resident)
    assert figures["activeBytes"] < figures["weightsBytes"] + MIB


def test_the_figures_can_be_read_while_the_models_change_places() -> None:
    """`engine/status` is answered by another thread than the one that uses the models."""
    cache = ModelCache(9, Ledger(lambda: 0, Prefixes(lambda: 0, None)), lambda *_: None)
    card = Card("", Path(), "llama", None, None, frozenset(), 1)
    residents = [
        cache.add(
            replace(card, id=name), Weights(None, 1, 1, Geometry(known=False)), keep_alive=None
        )
        for name in "abcd"
    ]
    ended = threading.Event()

    def use_all() -> None:
        while not ended.is_set():
            for resident in residents:
                cache.touch(resident)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    user = threading.Thread(target=use_all)
    user.start()
    try:
        for _ in range(60_000):
            assert cache.weight_bytes == 4
            assert len(cache.snapshot()) == 4
    finally:
        ended.set()
        user.join()
        sys.setswitchinterval(interval)
