"""Runs the scripts in `tests/node`, whose packages `make node` installs."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from tests.host import PATIENCE, ROOT

FOLDER = ROOT / "tests" / "node"

needs_node = pytest.mark.skipif(
    shutil.which("node") is None or shutil.which("npm") is None, reason="needs Node.js and npm"
)


def run_node(script: str, data: Any = None, *arguments: str) -> Any:
    """Run a script; the JSON value that it prints.

    Args:
        data: what it reads on stdin, as JSON.
        arguments: its command line.
    """
    subprocess.run(["make", "--silent", "node"], cwd=ROOT, check=True, timeout=2 * PATIENCE)
    done = subprocess.run(
        ["node", str(FOLDER / script), *arguments],
        input=json.dumps(data),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)
