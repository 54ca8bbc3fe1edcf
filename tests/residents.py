"""What a host sees of the model cache: who is in memory, what changed, and when."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.host import Host

Change = tuple[str, str, str]
"""A model, its new state and the reason, as in `models/changed`."""


def ready(host: Host) -> list[str]:
    """The models in memory, most recently used first."""
    return [row["id"] for row in host.call("models/list")["models"] if row["state"] == "ready"]


def row(host: Host, model: str) -> dict[str, Any]:
    """A model's row of `models/list`."""
    rows = {row["id"]: row for row in host.call("models/list")["models"]}
    found: dict[str, Any] = rows[model]
    return found


def changes(host: Host) -> list[Change]:
    """Every `models/changed` so far, in order."""
    notes = [m["params"] for m in messages(host) if m.get("method") == "models/changed"]
    return [(note["model"], note["state"], note["reason"]) for note in notes]


def loads(host: Host) -> int:
    """How many models were loaded since the start."""
    count: int = host.call("engine/status")["counters"]["modelLoads"]
    return count


def memory(host: Host) -> dict[str, int]:
    """The memory figures of `engine/status`."""
    figures: dict[str, int] = host.call("engine/status")["memory"]
    return figures


def rss_grew(host: Host, before: dict[str, int], after: dict[str, int]) -> int | None:
    """How much the process has grown; None where that does not tell where the weights are."""
    on_cpu = host.call("engine/status")["device"]["type"] == "cpu"
    if sys.platform != "linux" or not on_cpu:  # macOS only tells the most that it ever was
        return None
    return after["rssBytes"] - before["rssBytes"]


def messages(host: Host) -> list[dict[str, Any]]:
    """Every message so far, in order."""
    return [json.loads(line) for line in list(host.lines)]


def replies(host: Host, *wanted: Any) -> list[Any]:
    """Those of the ids that were answered, in the order of their answers."""
    return [m["id"] for m in messages(host) if "method" not in m and m.get("id") in wanted]


def progress(host: Host, request_id: Any, phase: str = "loading") -> list[dict[str, Any]]:
    """Every `$/progress` of one request and phase so far, in order."""
    notes = [m["params"] for m in messages(host) if m.get("method") == "$/progress"]
    return [note for note in notes if note["requestId"] == request_id and note["phase"] == phase]


def await_note(host: Host, method: str, **wanted: Any) -> dict[str, Any]:
    """Wait for a notification with these members; everything stays readable in its order."""

    def is_wanted(message: Any) -> bool:
        if message.get("method") != method:
            return False
        return all(message["params"].get(name) == value for name, value in wanted.items())

    message, before = host.until(is_wanted)
    host._held = [*before, message, *host._held]
    params: dict[str, Any] = message["params"]
    return params


def copy_model(source: Path, target: Path) -> Path:
    """The same model under another name: the weights are one file, the rest can be edited."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        (os.link if file.suffix == ".safetensors" else shutil.copy)(file, target / file.name)
    return target


_GATE = """
from pathlib import Path
from mlx_lm.models.llama import Model as Llama, ModelArgs

class Model(Llama):
    def sanitize(self, weights):
        (Path(__file__).parent / "gate").read_bytes()  # until the test writes to it
        return super().sanitize(weights)
"""


def hold_load(folder: Path) -> Callable[[], object]:
    """Make a load of this model wait until the returned function is called.

    The engine must trust the code in the folder.
    """
    (folder / "code.py").write_text(_GATE)
    os.mkfifo(folder / "gate")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_file": "code.py"}))
    return lambda: (folder / "gate").write_bytes(b"")
