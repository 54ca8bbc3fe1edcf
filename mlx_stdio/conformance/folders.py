"""The folders that a transcript brings along: made before its process starts, gone afterwards."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def made(folders: dict[str, dict[str, str]]) -> Iterator[dict[str, str]]:
    """Make the folders in a temporary one.

    Yields:
        the absolute path of each, without symbolic links, by its name.
    """
    if not folders:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="conformance-") as root:
        paths = {name: Path(root).resolve() / name for name in folders}
        for name, files in folders.items():
            paths[name].mkdir()
            for path, text in files.items():
                file = paths[name] / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(text.encode())
        yield {name: str(path) for name, path in paths.items()}
