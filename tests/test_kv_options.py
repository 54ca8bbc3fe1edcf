"""`kvBits` and `maxKvSize`: what `mlx_lm`'s own caches of these kinds give, beside a batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host import Host, RpcError, run_python, tokens_of
from tests.phases import let_pass
from tests.random_models import make_model

PROMPT = [5 + 7 * at % 200 for at in range(24)]
TOKENS = 100
SCRIPT = """
import json, sys
import mlx.core as mx
from mlx_lm import load
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import QuantizedKVCache, RotatingKVCache

folder, prompt, tokens = json.loads(sys.stdin.read())
model, _ = load(folder)
kinds = {
    "kvBits": lambda: QuantizedKVCache(group_size=64, bits=8),
    "maxKvSize": lambda: RotatingKVCache(max_size=48, keep=4),
}
answers = {}
for name, kind in kinds.items():
    cache = [kind() for _ in model.layers]
    steps = generate_step(mx.array(prompt), model, max_tokens=tokens, prompt_cache=cache)
    answers[name] = [int(token) for token, _ in steps]
print(json.dumps(answers))
"""
OPTIONS: dict[str, dict[str, int]] = {"kvBits": {"kvBits": 8}, "maxKvSize": {"maxKvSize": 48}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kv")
    make_model(folder / "wide", "llama", seed=8, head_dim=64)
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, list[int]]:
    import json

    answers: dict[str, list[int]] = run_python(
        "-c", SCRIPT, data=json.dumps([str(folder / "wide"), PROMPT, TOKENS])
    )
    return answers


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Host]:
    with Host("--models-dir", str(folder), "--model", "wide") as host:
        yield host


def ask(host: Host, **more: Any) -> Any:
    return host.start("generate", prompt=PROMPT, maxTokens=TOKENS, ignoreEos=True, **more)


def answer_of(host: Host, request_id: Any) -> list[int]:
    host.reply(request_id)
    return tokens_of(host.take_deltas(request_id))


@pytest.mark.parametrize("option", OPTIONS)
def test_the_tokens_are_those_of_mlx_lms_cache(
    engine: Host, expected: dict[str, list[int]], option: str
) -> None:
    assert answer_of(engine, ask(engine, **OPTIONS[option])) == expected[option]


@pytest.mark.parametrize("option", OPTIONS)
def test_they_are_served_beside_the_batch(
    engine: Host, expected: dict[str, list[int]], option: str
) -> None:
    """The batch is not drained: the streams that run go on while the special request does."""
    plain = answer_of(engine, ask(engine))
    endless = {"prompt": "ab", "maxTokens": 1900, "ignoreEos": True}
    neighbours = [engine.start("generate", **endless) for _ in range(3)]
    let_pass(engine, neighbours[0])
    special = ask(engine, **OPTIONS[option])
    beside = ask(engine)
    before = len(engine.lines)
    assert answer_of(engine, special) == expected[option]
    assert answer_of(engine, beside) == plain
    for neighbour in neighbours:
        mark = f'"requestId":{neighbour},'.encode()
        told = [line for line in engine.lines[before:] if mark in line]
        assert len(told) > 20
        engine.cancel(neighbour)
        with pytest.raises(RpcError) as caught:
            engine.reply(neighbour)
        assert caught.value.kind == "cancelled"


def test_a_bounded_cache_stays_bounded(engine: Host) -> None:
    """It takes no more memory for a long text than for a short one."""
    sizes = []
    for count in (60, 1500):
        request_id = engine.start(
            "generate", prompt=PROMPT, maxTokens=count, ignoreEos=True, maxKvSize=48
        )
        most = 0
        while True:
            message = engine.next()
            if message.get("id") == request_id:
                break
            most = max(most, engine.call("engine/status")["memory"]["kvBytes"])
        sizes.append(most)
    assert 0 < sizes[1] <= 1.5 * sizes[0]
