"""Greedy output equals `mlx_lm.stream_generate`, token for token, on every kind of architecture.

Each model answers alone, then all of its prompts at once: neighbours must not change a token.

The text is the tokenizer's own decoding of those tokens. `mlx_lm`'s differs from that in three
ways, which are not copied: it drops a first space, shows NUL as another letter, and shows special
tokens. Where none of these occurs the texts are compared too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host import ROOT, Host, joined, tokens_of
from tests.random_models import ARCHITECTURES

MAX_TOKENS = 24
LONG = "the quick brown fox jumps over the lazy dog; " * 4
PROMPTS: list[Any] = ["hello", "def add(a, b):\n    return", LONG, [7, 8, 9, 300, 12]]

# One process makes all models and all references: importing `mlx_lm` costs more than either.
SCRIPT = """
import json, sys
from pathlib import Path
from tests.random_models import ARCHITECTURES, _make, _reference
folder, prompts, most = json.loads(sys.stdin.read())
rows = {}
for name in ARCHITECTURES:
    _make(f"{folder}/{name}", name, 3, {})
    rows[name] = _reference(f"{folder}/{name}", prompts, most)
# The same weights with an end token that greedy decoding is known to reach.
for name, reference in list(rows.items()):
    here = Path(folder) / name
    ending = Path(folder) / f"{name}-ending"
    ending.mkdir()
    for file in here.iterdir():
        (ending / file.name).symlink_to(file)
    config = json.loads((here / "config.json").read_text())
    config["eos_token_id"] = [reference[0]["tokens"][5], 0]
    (ending / "config.json").unlink()
    (ending / "config.json").write_text(json.dumps(config))
    rows[ending.name] = _reference(str(ending), prompts[:1], most)
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(f"{folder}/llama")
for references in rows.values():
    for row in references:
        tokens = row["tokens"][:-1] if row["reason"] == "stop" else row["tokens"]
        row["decoded"] = tokenizer.decode(tokens, skip_special_tokens=True)
        row["special"] = row["decoded"] != tokenizer.decode(tokens, skip_special_tokens=False)
print(json.dumps(rows))
"""


class Made:
    """The folder of all models, and what `mlx_lm` makes of the prompts by model."""

    def __init__(self, folder: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            input=json.dumps([str(folder), PROMPTS, MAX_TOKENS]),
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        self.folder = folder
        self.expected: dict[str, list[dict[str, Any]]] = json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("architectures"))


@pytest.fixture(scope="module")
def engine(made: Made) -> Iterator[Host]:
    with Host(
        "--models-dir", str(made.folder), "--prefill-step", "32", "--max-models", "2"
    ) as host:
        yield host


def check(result: dict[str, Any], deltas: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    tokens = tokens_of(deltas)
    wanted = expected["tokens"]
    if expected["reason"] == "stop":
        wanted = wanted[:-1]  # `mlx_lm` counts the end token among the tokens of the text
    assert tokens == wanted
    assert result["usage"]["completionTokens"] == len(expected["tokens"])
    assert result["finishReason"] == expected["reason"]
    assert joined(deltas) == result["text"] == expected["decoded"]
    if comparable(expected):
        assert result["text"] == expected["text"]


def comparable(expected: dict[str, Any]) -> bool:
    text: str = expected["decoded"]
    return not (text.startswith(" ") or "\0" in text or expected["special"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_output_is_mlx_lms(architecture: str, made: Made, engine: Host) -> None:
    expected = made.expected[architecture]
    for prompt, row in zip(PROMPTS, expected, strict=True):
        result, deltas = engine.stream(
            "generate", model=architecture, prompt=prompt, maxTokens=MAX_TOKENS
        )
        check(result, deltas, row)
    ids = [
        engine.start("generate", model=architecture, prompt=prompt, maxTokens=MAX_TOKENS)
        for prompt in PROMPTS
    ]
    for request_id, row in zip(ids, expected, strict=True):
        check(engine.reply(request_id), engine.take_deltas(request_id), row)


@pytest.mark.parametrize("architecture", ["llama", "mamba2", "gemma3_text"])
def test_end_token_ends_the_text_as_in_mlx_lm(architecture: str, made: Made, engine: Host) -> None:
    name = f"{architecture}-ending"
    row = made.expected[name][0]
    assert row["reason"] == "stop"
    result, deltas = engine.stream("generate", model=name, prompt=PROMPTS[0], maxTokens=MAX_TOKENS)
    check(result, deltas, row)
    # `ignoreEos` goes on as if the end token were any other.
    result, deltas = engine.stream(
        "generate", model=name, prompt=PROMPTS[0], maxTokens=MAX_TOKENS, ignoreEos=True
    )
    check(result, deltas, made.expected[architecture][0])


def test_the_long_prompt_exceeds_the_sliding_window(made: Made, engine: Host) -> None:
    tokens = engine.call("tokenize", model="gemma3_text", text=LONG)["tokens"]
    assert len(tokens) >= 100 > ARCHITECTURES["gemma3_text"]["sliding_window"]


def test_most_texts_are_comparable(made: Made) -> None:
    rows = [row for rows in made.expected.values() for row in rows]
    assert sum(map(comparable, rows)) > len(rows) / 2


def test_architectures_side_by_side_do_not_mix(made: Made, engine: Host) -> None:
    pair = ["qwen3", "gpt_neox"]
    ids = [
        (name, engine.start("generate", model=name, prompt=prompt, maxTokens=MAX_TOKENS), index)
        for index, prompt in enumerate(PROMPTS)
        for name in pair
    ]
    for name, request_id, index in ids:
        check(engine.reply(request_id), engine.take_deltas(request_id), made.expected[name][index])
