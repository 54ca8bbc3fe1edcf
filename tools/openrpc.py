"""Writes `protocol/openrpc.json`, the document that `rpc.discover` gives.

`python -m tools.openrpc` rewrites the file; with `--check` it changes nothing and fails if the file
is stale. `make docs` calls it, `tests/test_generated.py` checks it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mlx_stdio.protocol.openrpc import openrpc_document

FILE = Path(__file__).parent.parent / "protocol" / "openrpc.json"


def openrpc_text() -> str:
    """The document as it is committed: indented, so that a change shows as one line."""
    return json.dumps(openrpc_document(), indent=2, ensure_ascii=False) + "\n"


def write_or_check(file: Path, fresh: str) -> int:
    """Rewrite a generated file, or with `--check` compare it; the exit code."""
    if "--check" not in sys.argv:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(fresh, encoding="utf-8")
        return 0
    stale = not file.exists() or file.read_text(encoding="utf-8") != fresh
    if stale:
        print(f"{file.name} is stale: run `make docs`", file=sys.stderr)
    return int(stale)


if __name__ == "__main__":
    sys.exit(write_or_check(FILE, openrpc_text()))
