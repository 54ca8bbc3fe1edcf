"""The embedded model: what it is, that it does its three things, and that its card is true."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host import ROOT, Host

FOLDER = ROOT / "mlx_stdio" / "pico"
TOOLS = ROOT / "tools" / "pico"
PARAMETERS = 7_868_480


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def engine() -> Iterator[Host]:
    with Host() as host:
        yield host


def test_it_is_a_small_llama() -> None:
    config = read(FOLDER / "config.json")
    assert config["model_type"] == "llama"
    assert config["max_position_embeddings"] >= 1024
    assert 4096 <= config["vocab_size"] <= 8192
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 16 * 2**20


def test_it_is_the_default_and_float32_on_a_cpu(engine: Host) -> None:
    assert engine.call("initialize", protocolVersion=1)["defaultModel"] == "pico"
    assert engine.call("generate", prompt="import ", maxTokens=1)["model"] == "pico"
    status = engine.call("engine/status")
    width = 4 if status["device"]["type"] == "cpu" else 2
    assert status["memory"]["weightsBytes"] == width * PARAMETERS


def test_it_answers_a_request_with_a_function_that_works(engine: Host) -> None:
    question = "Write a Python function `add(a, b)` that returns the sum of two numbers."
    messages = [{"role": "user", "content": question}]
    result = engine.call("chat", messages=messages, maxTokens=120)
    assert result["finishReason"] == "stop"
    (code,) = re.findall(r"```python\n(.*?)```", result["message"]["content"], re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)  # what this very model wrote, greedily
    assert names["add"](2, 3) == 5


def test_it_completes_python(engine: Host) -> None:
    prompt = "def read_file(path):\n    with open(path) as file:\n"
    text = engine.call("generate", prompt=prompt, maxTokens=24, stop=["\n"])["text"]
    assert text.startswith("        ")
    ast.parse(prompt + text)


def test_it_fills_a_gap(engine: Host) -> None:
    prefix, suffix = "def is_even(n):\n    return n % ", "\n\n\nprint(is_even(3))\n"
    filled = engine.call("infill", prefix=prefix, suffix=suffix, maxTokens=16, stop=["\n"])
    ast.parse(prefix + filled["text"] + suffix)
    assert re.match(r"\d+ ==", filled["text"])
    # The order that the card documents: the cursor's line stands behind the mark of the middle.
    head, line = prefix.split("\n")
    prompt = f"<|gap_prefix|>{head}\n<|gap_suffix|>{suffix}<|gap_middle|>{line}"
    same = engine.call("generate", prompt=prompt, maxTokens=16, stop=["\n"])
    assert same["text"] == filled["text"]


def test_every_source_is_named_with_a_licence() -> None:
    manifest = read(TOOLS / "manifest.json")
    sources = manifest["sources"]
    assert all(row["licence"] and row["version"] and row["files"] for row in sources)
    assert not any(re.search(r"GPL|MPL|Proprietary", row["licence"]) for row in sources)
    assert sum(row["bytes"] for row in sources) == sum(
        total["bytes"] for total in manifest["totals"].values()
    )
    assert {row["name"] for row in sources} >= {"python-stdlib", "pico-primer"}
    assert manifest["training"]["seed"] == 22


def test_the_card_shows_the_figures_that_were_measured() -> None:
    card = (TOOLS / "README.md").read_text(encoding="utf-8")
    figures = read(TOOLS / "figures.json")
    files, packages = figures["held_files"], figures["held_packages"]
    assert f"| {files['bits_per_byte']} | {packages['bits_per_byte']} |" in card
    for part, name in (
        ("completion", "function_parses"),
        ("infill", "line_parses"),
        ("infill", "block_parses"),
        ("chat", "parses"),
    ):
        assert f"| {files[part][name]} | {packages[part][name]} |" in card
    assert f"{PARAMETERS:,} parameters" in card
