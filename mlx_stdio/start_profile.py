"""`mlx-stdio --profile-start`: where the milliseconds of a start go.

Starts the engine as a host does, shakes hands, has one token generated, and prints the marks that
the engine left on the way (`marks.py`), by thread. The threads share one interpreter: what one
computes in Python, another waits for.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from typing import Any

_Row = tuple[float, float | None, str, str]
"""When, and what the thread had computed by then, in ms; the thread; what was done."""

_FLAG = "--profile-start"
_SECONDS = 300.0
"""A start that takes longer is ended."""


def run(arguments: list[str]) -> int:
    """Start, generate one token, print; the exit code.

    Args:
        arguments: of the command line; all others are the engine's.
    """
    others = [argument for argument in arguments if argument != _FLAG]
    spawned = time.monotonic()
    engine = subprocess.Popen(
        [*_command(), *others, "--log-level", "debug"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    guard = threading.Timer(_SECONDS, engine.kill)
    guard.daemon = True
    guard.start()
    assert engine.stdin is not None
    assert engine.stdout is not None
    rows: list[_Row] = [(0.0, None, "host", "the process is spawned")]

    def call(method: str, params: dict[str, Any], said: str) -> bool:
        """Send a request and note when its reply is here; whether it went well."""
        request = {"jsonrpc": "2.0", "id": method, "method": method, "params": params}
        engine.stdin.write(json.dumps(request).encode() + b"\n")  # type: ignore[union-attr]
        engine.stdin.flush()  # type: ignore[union-attr]
        for line in engine.stdout:  # type: ignore[union-attr]
            reply = json.loads(line)
            if reply.get("id") == method:
                rows.append(((time.monotonic() - spawned) * 1000, None, "host", said))
                if "error" in reply:
                    sys.stderr.write(f"{method}: {reply['error']['message']}\n")
                return "result" in reply
        return False

    well = call("initialize", {"protocolVersion": 1}, "the reply to `initialize` is here")
    well = well and call(
        "generate", {"prompt": "a", "maxTokens": 1, "stream": False}, "the first token is here"
    )
    _, log = engine.communicate()
    if not well:
        sys.stderr.buffer.write(log)
        return 1
    for line in log.splitlines():
        entry = json.loads(line) if line.startswith(b"{") else {}
        if entry.get("event") == "start.marks":
            for name, at, cpu in entry["marks"]:
                thread, _, what = name.partition(": ")
                rows.append((at / 1000 - spawned * 1000, cpu / 1000, thread, what))
    sys.stdout.write(_table(rows))
    return 0


def _command() -> list[str]:
    """What starts this program again: a standalone build has no interpreter beside it."""
    if "__compiled__" in globals():
        return [sys.argv[0]]
    return [sys.executable, "-m", "mlx_stdio"]


def _table(rows: list[_Row]) -> str:
    lines = [
        "    ms  thread    processor  what is done",
        "------  --------  ---------  ------------",
    ]
    last: dict[str, float] = {}
    for at, cpu, thread, what in sorted(rows):
        spent = ""
        if cpu is not None:
            spent = f"{cpu - last.get(thread, 0.0):+.1f}"
            last[thread] = cpu
        lines.append(f"{at:6.1f}  {thread:8}  {spent:>9}  {what}")
    lines.append("\n`processor`: milliseconds that the thread computed since its last line.")
    return "\n".join(lines) + "\n"
