"""Which class a folder's tokenizer is loaded as, against what `AutoTokenizer` chooses."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mlx_stdio.text import classes
from mlx_stdio.text.choice import Choice, choose
from mlx_stdio.text.rewrites import REWRITES
from tests.auto_tokenizer import answers
from tests.host import run_python
from tests.made_tokenizers import byte_level, pieces

RUNNABLE = """
import json, pkgutil
from pathlib import Path
from mlx_stdio.models.lean import load_model_function
names = set(load_model_function().__globals__["MODEL_REMAPPING"])
import mlx_lm.models
for folder in mlx_lm.models.__path__:
    for module in pkgutil.iter_modules([folder]):
        if "class ModelArgs" in Path(folder, module.name + ".py").read_text():
            names.add(module.name)
print(json.dumps(sorted(names)))
"""
NAMED = (None, "PreTrainedTokenizerFast", "LlamaTokenizerFast", "Qwen2Tokenizer")


@pytest.fixture(scope="module")
def model_types() -> list[str]:
    """Every architecture that `mlx_lm` runs, by each of its names."""
    found: list[str] = run_python("-c", RUNNABLE)
    return found


def write(folder: Path, file: Path, model: dict[str, Any], config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    os.link(file, folder / "tokenizer.json")
    (folder / "config.json").write_text(json.dumps(model))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def disagreements(folders: list[Path]) -> list[tuple[str, str, Choice]]:
    """Folders that are loaded as another class than `AutoTokenizer` takes."""
    found = []
    for name, answer in answers(folders).items():
        folder = next(path for path in folders if path.name == name)
        config = json.loads((folder / "tokenizer_config.json").read_text())
        own = choose(folder, config, trust_remote_code=False)
        if own.reason is None and answer.get("class", answer.get("error")) != own.name:
            found.append((name, str(answer), own))
    return found


def test_the_register_knows_every_architecture(model_types: list[str]) -> None:
    assert len(model_types) > 100
    assert set(model_types) <= classes.UNREGISTERED | set(classes.REGISTERED)
    assert not classes.UNREGISTERED & set(classes.REGISTERED)
    assert set(classes.REGISTERED.values()) <= set(REWRITES) | {classes.PLAIN}


def test_the_class_is_auto_tokenizers_for_every_architecture(
    model_types: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "tokenizer.json"
    byte_level().save(str(file))
    folders = [
        write(
            tmp_path / f"{model_type}-{name}",
            file,
            {"model_type": model_type},
            {"tokenizer_class": name} if name else {},
        )
        for model_type in sorted({*model_types, *classes.REGISTERED, "no_such_type"})
        for name in NAMED
    ]
    assert disagreements(folders) == []
    # None of them needs the fallback but the one that nobody knows.
    needy = [
        folder.name
        for folder in folders
        if choose(
            folder,
            json.loads((folder / "tokenizer_config.json").read_text()),
            trust_remote_code=False,
        ).reason
    ]
    assert needy == ["no_such_type-None"]


def test_the_class_is_auto_tokenizers_for_every_name(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    pieces().save(str(file))
    names = [name + fast for name in REWRITES for fast in ("", "Fast")]
    folders = [
        write(
            tmp_path / f"{model_type}-{name}-{place}-{code}",
            file,
            {"model_type": model_type, **({"tokenizer_class": name} if place == "model" else {})},
            {
                **({"tokenizer_class": name} if place == "config" else {}),
                **({"auto_map": {"AutoTokenizer": ["a.B", None]}} if code else {}),
            },
        )
        for model_type in ("llama", "qwen2", "qwen3", "phi3", "mistral", "gemma2", "phi-msft")
        for name in (*names, "TokenizersBackend", "PreTrainedTokenizerFast", "BloomTokenizerFast")
        for place in ("config", "model")
        for code in (False, True)
        if place == "config" or not code
    ]
    assert disagreements(folders) == []


@pytest.mark.parametrize(
    ("config", "trust", "word"),
    [
        ({"auto_map": {"AutoTokenizer": ["a.B", None]}}, False, "code"),
        ({"auto_map": ["a.B", None], "tokenizer_class": "Mine"}, False, "code"),
        ({"auto_map": ["a.B", None], "tokenizer_class": "LlamaTokenizer"}, True, "code"),
        ({"auto_map": ["a.B", None], "tokenizer_class": "LlamaTokenizer"}, False, None),
        ({"auto_map": {"AutoModel": "a.B"}}, True, None),
        ({"tokenizer_class": "XLNetTokenizer"}, False, "XLNetTokenizer"),
        ({"tokenizer_class": 7}, False, None),
        ({"init_inputs": [1]}, False, "init_inputs"),
        ({"fast_tokenizer_files": ["tokenizer.4.0.0.json"]}, False, "fast_tokenizer_files"),
    ],
)
def test_why_a_folder_needs_the_fallback(
    config: dict[str, Any], trust: bool, word: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "tokenizer.json"
    file.touch()
    folder = write(tmp_path / "model", file, {"model_type": "llama"}, config)
    reason = choose(folder, config, trust_remote_code=trust).reason
    assert reason is None if word is None else word in (reason or "")
    (folder / "tokenizer.json").unlink()
    assert "tokenizer.json" in (choose(folder, config, trust_remote_code=trust).reason or "")


def test_tekken_counts_where_it_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tokenizer.json"
    file.touch()
    folder = write(tmp_path / "model", file, {"model_type": "mistral"}, {})
    (folder / "tekken.json").touch()
    assert choose(folder, {}, trust_remote_code=False).reason is None
    package = tmp_path / "packages" / "mistral_common"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(package.parent))
    assert "tekken" in (choose(folder, {}, trust_remote_code=False).reason or "")
