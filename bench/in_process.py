"""The contender without a wire: `mlx_lm.load` and `stream_generate`, as a script would use them.

Run as a process of its own, which reads one JSON request a line and answers each with one line of
clock readings. The clock is the system's, so that the bench can set its own spawn beside them.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def main(folder: str) -> None:
    """Say when the import is done, then serve the bench until its end of input."""
    from bench.proposal.models import Models

    models = Models(folder)
    print(json.dumps({"ready": time.perf_counter()}), flush=True)
    for line in sys.stdin:
        try:
            answer = _generate(models, **json.loads(line))
        except (RuntimeError, ValueError, TypeError, OSError) as error:
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


def _generate(models: Any, prompt: str, tokens: int, model: str) -> dict[str, Any]:
    sent = time.perf_counter()
    arrivals: list[float] = []
    count = 0
    for response in models.stream(model, prompt, tokens):
        count += 1
        if response.text:
            arrivals.append(time.perf_counter())
    return {"sent": sent, "arrivals": arrivals, "ended": time.perf_counter(), "tokens": count}


if __name__ == "__main__":
    main(sys.argv[1])
