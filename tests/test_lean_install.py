"""The lean install of README.md, made for real: no `transformers`, no hub client, and it works.

A fresh environment gets what `requirements/lean.txt` lists and the wheel of this checkout. The
engine in it never sees the checkout or the environment that runs the tests.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host import ROOT, Host, RpcError
from tests.random_models import reference
from tests.residents import copy_model, row

ABSENT = {"transformers", "huggingface-hub", "sentencepiece", "protobuf", "pyyaml", "regex"}
SHORT: dict[str, Any] = {"prompt": "the quick", "maxTokens": 6, "temperature": 0}

NAMES = """
import json, re
from importlib.metadata import distributions
print(json.dumps([re.sub("[-_.]+", "-", d.name).lower() for d in distributions()]))
"""
ARCHITECTURES = """
import importlib, json, pkgutil
from mlx_stdio.models.lean import install, load_model_function
install()
load_model_function()
import mlx_lm.models
count, failures = 0, []
for module in pkgutil.iter_modules(mlx_lm.models.__path__):
    count += 1
    try:
        importlib.import_module("mlx_lm.models." + module.name)
    except BaseException:
        failures.append(module.name)
print(json.dumps([count, failures]))
"""


def run(*arguments: str | Path) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def lean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of a lean environment."""
    folder = tmp_path_factory.mktemp("lean")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "wheels")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    binaries = folder / "venv" / "bin"
    pip = (sys.executable, "-m", "pip", "--python", binaries / "python", "--quiet")
    install = (*pip, "install", "--no-deps", "--disable-pip-version-check")
    run(*install, "--require-hashes", "-r", ROOT / "requirements" / "lean.txt")
    run(*install, next((folder / "wheels").glob("*.whl")))
    return binaries


def outside(lean: Path, *code: str) -> Any:
    """The JSON that the lean environment's Python prints last for this code, isolated."""
    return json.loads(run(lean / "python", "-I", "-c", *code).splitlines()[-1])


@pytest.fixture(scope="module")
def engine(lean: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """An engine of the lean environment, in another folder, that knows two small models."""
    folder = tmp_path_factory.mktemp("elsewhere")
    copy_model(models / "tiny", folder / "tiny")
    (copy_model(models / "other", folder / "bare") / "tokenizer.json").unlink()
    with Host(
        *("--models-dir", str(folder), "--model", "tiny"),
        command=[str(lean / "mlx-stdio")],
        env={"PYTHONPATH": ""},
        cwd=folder,
    ) as host:
        yield host


@pytest.mark.timeout(300)  # a slow line may have to bring 70 MB
def test_nothing_that_the_lean_path_never_imports_is_installed(lean: Path) -> None:
    names = set(outside(lean, NAMES))
    assert {"mlx-stdio", "mlx", "mlx-lm", "tokenizers"} <= names
    assert not names & ABSENT
    assert len(names) < 16


def test_the_lean_engine_is_the_installed_one(lean: Path) -> None:
    path = Path(outside(lean, "import json, mlx_stdio; print(json.dumps(mlx_stdio.__file__))"))
    assert path.is_relative_to(lean.parent)


def test_a_lean_engine_runs_a_folder_with_a_tokenizer_json(engine: Host, models: Path) -> None:
    (expected,) = reference(models / "tiny", [SHORT["prompt"]], SHORT["maxTokens"])
    result, deltas = engine.stream("generate", **SHORT)
    assert [token for delta in deltas for token in delta["tokens"]] == expected["tokens"]
    assert result["text"] == expected["text"]
    assert row(engine, "tiny")["tokenizer"] == "tokenizers"
    chat = engine.call("chat", messages=[{"role": "user", "content": "ab"}], maxTokens=2)
    assert chat["usage"]["promptTokens"] > 0


def test_a_lean_engine_runs_the_embedded_model(engine: Host) -> None:
    result = engine.call(
        "generate", model="pico", prompt="def add(a, b):", maxTokens=8, temperature=0
    )
    assert "return a + b" in result["text"]


def test_a_lean_engine_refuses_a_folder_without_a_tokenizer_json_and_goes_on(engine: Host) -> None:
    with pytest.raises(RpcError) as caught:
        engine.call("generate", model="bare", **SHORT)
    assert caught.value.kind == "modelLoadFailed"
    assert engine.call("generate", **SHORT)["usage"]["completionTokens"] > 0


def test_every_architecture_is_there(lean: Path) -> None:
    count, failures = outside(lean, ARCHITECTURES)
    assert count > 100
    assert failures in (["olmo"], [])  # it asks for a package that `mlx-lm` does not declare


def test_a_lean_engine_leaves_in_order(engine: Host) -> None:
    engine.call("shutdown")
    engine.notify("exit")
    assert engine.wait() == 0
