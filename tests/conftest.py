"""Fixtures: engines as child processes, and small random models made by `mlx_lm` itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mlx_stdio.models import lean
from tests.host import Host, LateHost
from tests.random_models import make_model
from tests.residents import copy_model


@pytest.fixture(scope="session")
def mx() -> Any:
    """MLX in the tests' own process, for what the wire cannot show."""
    lean.install()
    import mlx.core

    return mlx.core


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two small random models, `tiny` and `other` (the same kind, other weights)."""
    folder = tmp_path_factory.mktemp("models")
    make_model(folder / "tiny", "llama", seed=1)
    make_model(folder / "other", "llama", seed=2)
    return folder


@pytest.fixture(scope="session")
def shelf(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four small models of one size, `a` to `d`, two of 127 MB, `big` and `twin`, and `broken`.

    The large ones are read in four slices, so that something can happen during their load.
    """
    folder = tmp_path_factory.mktemp("shelf")
    for name, source in (("a", "tiny"), ("b", "other"), ("c", "tiny"), ("d", "other")):
        copy_model(models / source, folder / name)
    size = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8}
    make_model(folder / "big", "llama", seed=3, **size)
    copy_model(folder / "big", folder / "twin")
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{}")
    return folder


@pytest.fixture(scope="session")
def slow(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models with which a phase lasts: `big` and `twin` of the shelf, and `roomy`, with a context
    of 32768 tokens.
    """
    folder = tmp_path_factory.mktemp("slow")
    for name in ("big", "twin"):
        copy_model(shelf / name, folder / name)
    file = copy_model(shelf / "a", folder / "roomy") / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "max_position_embeddings": 32768}))
    return folder


@pytest.fixture
def spawn(shelf: Path) -> Iterator[Callable[..., Host]]:
    """Spawns engines that know the models of the shelf, with the options that it is given."""
    with ExitStack() as stack:
        yield lambda *options: stack.enter_context(
            Host("--models-dir", str(shelf), "--model", "a", *options)
        )


@pytest.fixture
def host(models: Path) -> Iterator[Host]:
    """A fresh engine whose default model is `tiny`."""
    with Host("--models-dir", str(models), "--model", "tiny", "--log-level", "debug") as host:
        yield host


@pytest.fixture
def late_host(models: Path) -> Iterator[LateHost]:
    """An engine whose host does not read yet."""
    with LateHost("--models-dir", str(models), "--model", "tiny") as host:
        yield host


@pytest.fixture(scope="module")
def shared_host(models: Path) -> Iterator[Host]:
    """One engine for all tests of a module: for tests that leave nothing behind."""
    with Host("--models-dir", str(models), "--model", "tiny") as host:
        yield host
