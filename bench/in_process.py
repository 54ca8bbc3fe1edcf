"""The contender without a wire: `mlx_lm.load` and `stream_generate`, as a script would use them.

Run as a process of its own; prints one JSON object of milliseconds and bytes.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

BEGAN = time.perf_counter()


def main(folder: str, prompt: str, runs: int) -> None:
    """Load, generate one token `runs` times, report."""
    from mlx_lm import load, stream_generate

    model, tokenizer = load(folder)[:2]
    next(iter(stream_generate(model, tokenizer, prompt, max_tokens=1)))
    first = time.perf_counter()
    rss = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        for _response in stream_generate(model, tokenizer, prompt, max_tokens=1):
            pass
        times.append((time.perf_counter() - begin) * 1000)
    print(
        json.dumps(
            {
                "inside_ms": (first - BEGAN) * 1000,
                "rss": rss,
                "request_ms": statistics.median(times),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
