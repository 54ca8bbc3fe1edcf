"""A process with loops inside: reads one JSON command a line, answers each with one line.

`Child` is the bench's side of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.processes import spawn, stop
from bench.sizes import Sizes
from bench.stream import BenchError


class Child:
    """The loops of another process; it loads its model at the first call and keeps it."""

    def __init__(
        self, model: Path, sizes: Sizes, vocabulary: int, *, env: dict[str, str] | None
    ) -> None:
        settings = {
            "model": str(model),
            "sizes": asdict(sizes),
            "vocabulary": vocabulary,
        }
        self._process = spawn(
            ["-m", "bench.child", json.dumps(settings)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin = self._process.stdin
        self._stdout = self._process.stdout

    def call(self, scenario: str, *arguments: int, patience: float, **named: int) -> dict[str, Any]:
        """Run a scenario over there; what it gives.

        Raises:
            BenchError: it failed, or takes too long; then the process is gone.
        """
        guard = threading.Timer(patience, self._process.kill)
        guard.start()
        try:
            command = {"scenario": scenario, "arguments": arguments, "named": named}
            self._stdin.write(json.dumps(command).encode() + b"\n")
            self._stdin.flush()
            line = self._stdout.readline()
        except OSError as error:
            raise BenchError(str(error)) from error
        finally:
            guard.cancel()
        if not line:
            raise BenchError("the process in which the loop runs has ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BenchError(answer["error"])
        return answer

    def close(self) -> None:
        """End the process."""
        self._stdin.close()
        stop(self._process, patience=10)
        self._stdout.close()


def _main(settings: dict[str, Any]) -> None:
    from bench.loops import Loops

    settings["sizes"]["streams"] = tuple(settings["sizes"]["streams"])
    settings["sizes"] = Sizes(**settings["sizes"])
    loops = Loops(**settings)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(loops, command["scenario"])(*command["arguments"], **command["named"])
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
