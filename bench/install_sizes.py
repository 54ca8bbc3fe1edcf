"""What `bench/installed.py` found, as rows of the footprint suite, where it has been run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench import installed
from bench.contenders import FASTAPI, FASTAPI_UNIX, IN_PROCESS, OURS, SERVER

_INSTALLS = {
    OURS: "mlx-stdio[cpu]",
    IN_PROCESS: "mlx-lm server",
    SERVER: "mlx-lm server",
    FASTAPI: "FastAPI",
    FASTAPI_UNIX: "FastAPI",
}
"""What each contender needs installed. The server is part of what a script installs."""


def attach(results: dict[str, Any], path: Path) -> None:
    """Put the sizes into a run's results; without the file they stay as they are."""
    if not path.exists():
        return
    installs = results["installs"] = json.loads(path.read_text())
    for key, field in (("installed_mb", "megabytes"), ("packages", "packages")):
        results["figures"][key] = {
            contender: [float(installs[name][field])]
            for contender, name in _INSTALLS.items()
            if name in installs and field in installs[name]
        }


def table(results: dict[str, Any]) -> str:
    """All installations in Markdown, those that no contender stands for included."""
    installs = results.get("installs")
    if not installs:
        return "Installed size and packages: not measured (`python -m bench.installed`)."
    return installed.table(installs)
