"""From a model's name to its folder, and the list of what could be loaded.

A name is, in this order: `pico`, a folder inside `--models-dir`, a path of a folder, or an id in
the local Hugging Face cache. Nothing here ever goes to the network: what is not on this disk does
not exist. The cache's layout is the hub's documented one (`models--org--name/snapshots/<commit>`,
with the commit of a branch in `refs/<branch>`).
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from mlx_stdio.errors import EngineError

EMBEDDED = "pico"
EMBEDDED_FOLDER = Path(__file__).parent.parent / "pico"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class Catalog:
    """Resolves model names on this machine."""

    def __init__(self, models_dir: str | None = None) -> None:
        self.models_dir = Path(models_dir).expanduser().absolute() if models_dir else None
        self._ids: dict[Path, str] = {}  # the first id of each folder, links followed

    def resolve(self, name: str) -> tuple[str, Path]:
        """Find a model.

        Returns:
            its canonical id (two names of one folder give the same one) and its folder.

        Raises:
            EngineError: `modelNotFound`.
        """
        if name == EMBEDDED:
            return EMBEDDED, EMBEDDED_FOLDER
        if "\0" in name:
            raise EngineError("modelNotFound", "a model's name has no NUL byte", model=name)
        if self.models_dir is not None and (folder := self._inside(name)) is not None:
            return self._canonical(folder, name)
        path = _expanded(name)
        if _is_dir(path):
            return self._canonical(path, None)
        if _HUB_ID.fullmatch(name) and (snapshot := self._snapshot(name)) is not None:
            return self._canonical(snapshot, name)
        raise EngineError(
            "modelNotFound",
            f"no folder and no model in the local Hugging Face cache is named {name!r}",
            model=name,
        )

    def known(self) -> list[tuple[str, Path]]:
        """Every model that can be named without a path: id and folder, sorted by id."""
        named: list[tuple[Path, str]] = []
        if self.models_dir is not None and _is_dir(self.models_dir):
            configs = sorted(self.models_dir.glob("*/config.json"))
            named += [(config.parent, config.parent.name) for config in configs]
        hub = hub_folder()
        for entry in sorted(hub.glob("models--*--*")) if _is_dir(hub) else ():
            name = entry.name.removeprefix("models--").replace("--", "/", 1)
            snapshot = self._snapshot(name)
            if snapshot is not None and (snapshot / "config.json").is_file():
                named.append((snapshot, name))
        found = {EMBEDDED: EMBEDDED_FOLDER}
        for folder, name in named:
            with contextlib.suppress(EngineError):
                found.setdefault(*self._canonical(folder, name))
        return sorted(found.items())

    def _inside(self, name: str) -> Path | None:
        assert self.models_dir is not None
        if name in {".", ".."} or "/" in name:
            return None
        folder = self.models_dir / name
        return folder if _is_dir(folder) else None

    def _canonical(self, folder: Path, name: str | None) -> tuple[str, Path]:
        """One id for a folder, by whatever name or link it is reached.

        Args:
            name: what it is called if nothing else has named it; None for its path.

        Raises:
            EngineError: `modelNotFound` for bytes that are no UTF-8: JSON cannot carry them.
        """
        real = folder.resolve()
        try:
            f"{real}{name}".encode()
        except UnicodeEncodeError:
            shown = (name or str(real)).encode(errors="replace").decode()
            raise EngineError(
                "modelNotFound", f"the path of {shown} is not UTF-8", model=shown
            ) from None
        if real == EMBEDDED_FOLDER.resolve():
            return EMBEDDED, EMBEDDED_FOLDER
        if self.models_dir is not None and real.parent == self.models_dir.resolve():
            return real.name, real
        return self._ids.setdefault(real, name or str(real)), real

    @staticmethod
    def _snapshot(name: str) -> Path | None:
        repository = hub_folder() / ("models--" + name.replace("/", "--"))
        try:
            commit = (repository / "refs" / "main").read_text().strip()
        except (OSError, ValueError):  # unreadable, or no text
            return None
        snapshot = repository / "snapshots" / commit
        return snapshot if commit and "/" not in commit and _is_dir(snapshot) else None


def hub_folder() -> Path:
    """Where the Hugging Face hub client keeps its cache (its environment variables are obeyed)."""
    if explicit := os.environ.get("HF_HUB_CACHE"):
        return Path(explicit).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "huggingface" / "hub"


def _expanded(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # the home of a user who does not exist
        return Path(name)


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long, a folder that may not be read
        return False
