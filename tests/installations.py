"""Installations that lack a package."""

from __future__ import annotations

from pathlib import Path


def hide(folder: Path, *packages: str) -> Path:
    """Make packages look as if they were not installed, to whoever has this folder on its path."""
    folder.mkdir()
    for package in packages:
        code = f"raise ModuleNotFoundError(\"No module named '{package}'\", name='{package}')\n"
        (folder / f"{package}.py").write_text(code)
    return folder
