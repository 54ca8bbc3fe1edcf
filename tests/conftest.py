"""Fixtures: engines as child processes, and small random models made by `mlx_lm` itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host import Host
from tests.random_models import make_model


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two small random models, `tiny` and `other` (the same kind, other weights)."""
    folder = tmp_path_factory.mktemp("models")
    make_model(folder / "tiny", "llama", seed=1)
    make_model(folder / "other", "llama", seed=2)
    return folder


@pytest.fixture
def host(models: Path) -> Iterator[Host]:
    """A fresh engine whose default model is `tiny`."""
    with Host("--models-dir", str(models), "--model", "tiny", "--log-level", "debug") as host:
        yield host


@pytest.fixture(scope="module")
def shared_host(models: Path) -> Iterator[Host]:
    """One engine for all tests of a module: for tests that leave nothing behind."""
    with Host("--models-dir", str(models), "--model", "tiny") as host:
        yield host
