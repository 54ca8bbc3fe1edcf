"""The wire's own cost: a request and a token through the engine's pipes, less the same in process.

Both sides run the same engine on the same small model, in one process each, and take turns; the
side without a wire gives its jobs straight to the engine's thread and is told of each token by a
call. So the difference is what the wire adds: JSON, envelopes, checks, pipes, a client's reading.

Run as a process of its own, so that the bench itself never imports MLX:
`python -m bench.wire_cost FOLDER` prints one JSON object of lists.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

from bench.engine import Engine as Pipe
from bench.models import Shape, make_model
from bench.words import text, word_list

SHAPE = Shape(hidden=64, layers=2, heads=2, kv_heads=1, head_dim=32, intermediate=128)
"""Small, so that the model's own time, which varies, does not hide the wire's."""

ROUNDS = 15
REQUESTS = 40
TOKENS = 512


class _Sink:
    """Where the engine's thread puts what a client would read."""

    closed = False

    def __init__(self) -> None:
        self.done = threading.Event()
        self.text = ""
        self.error: Exception | None = None

    def progress(self, *_: Any) -> None:
        """Nobody asks."""

    def delta(self, text: str, _tokens: list[int], _scores: list[Any]) -> None:
        self.text += text

    def finish(self, _outcome: Any) -> None:
        self.done.set()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.done.set()


class InProcess:
    """The engine without its wire."""

    def __init__(self, folder: Path) -> None:
        from mlx_stdio.engine.engine import Engine
        from mlx_stdio.log import Log
        from mlx_stdio.models.card import read_card
        from mlx_stdio.models.lean import install
        from mlx_stdio.settings import Settings
        from mlx_stdio.text.model import TextStore

        install()
        self._card = read_card(str(folder), folder)
        self._text = TextStore(Log("error"), trust_remote_code=False).load(self._card)
        self._engine = Engine(
            Settings(), Log("error"), lambda *_: None, on_fatal=_die, flush=lambda: None
        )

    def generate(self, prompt: str, tokens: int) -> str:
        """A greedy text of so many tokens."""
        from mlx_stdio.engine.job import GenerateJob, Prompt
        from mlx_stdio.text.stream import TextStream

        sink = _Sink()
        job = GenerateJob(sink, self._card.id, self._card, max_tokens=tokens)
        ids = self._text.encode_prompt(prompt)
        job.prompt = Prompt(ids, TextStream(self._text.tokenizer.detokenizer(), ()), frozenset())
        job.cache_prompt = False
        self._engine.submit(job)
        sink.done.wait(60)
        if sink.error is not None:
            raise sink.error
        return sink.text


class Piped:
    """The engine as a host has it."""

    def __init__(self, folder: Path) -> None:
        self._engine = Pipe("--model", str(folder))

    def generate(self, prompt: str, tokens: int) -> str:
        """The same, through the pipes; a text of several tokens is streamed."""
        request = self._engine.send(
            "generate",
            prompt=prompt,
            maxTokens=tokens,
            ignoreEos=True,
            temperature=0,
            cachePrompt=False,
            stream=tokens > 1,
        )
        reply: str = self._engine.reply(request)["text"]
        return reply

    def close(self) -> None:
        """End it."""
        self._engine.close()


def _die(error: BaseException) -> None:
    raise SystemExit(f"the engine has failed: {error!r}")


def measure(folder: Path) -> dict[str, list[float]]:
    """By row: what the wire adds to a 1-token request in ms, to a token of a stream in us."""
    words = word_list(SHAPE.vocabulary)
    sides = (Piped(folder), InProcess(folder))
    for side in sides:
        side.generate(text(words, 16, "warm"), TOKENS)
    rows: dict[str, list[float]] = {"wire_request_ms": [], "wire_token_us": []}
    for turn in range(ROUNDS):
        prompt = text(words, 16, "request", turn)
        requests = [_median(side, prompt, 1, REQUESTS) for side in sides]
        rows["wire_request_ms"].append((requests[0] - requests[1]) * 1e3)
        streams = [_median(side, prompt, TOKENS, 1) for side in sides]
        rows["wire_token_us"].append((streams[0] - streams[1]) / TOKENS * 1e6)
    if len({side.generate(prompt, 32) for side in sides}) != 1:
        raise SystemExit("the two sides do not give the same text")
    sides[0].close()
    return rows


def _median(side: Piped | InProcess, prompt: str, tokens: int, times: int) -> float:
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        side.generate(prompt, tokens)
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


if __name__ == "__main__":
    model = make_model(Path(sys.argv[1]), SHAPE)
    sys.stdout.write(json.dumps(measure(model)) + "\n")
    sys.stdout.flush()
    # The engine's thread owns MLX; the interpreter's own end would wait for it.
    import os

    os._exit(0)
