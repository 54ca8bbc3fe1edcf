"""The wire's own cost: of a request, and of a token in a stream.

A request through the engine's pipes is compared with the same one given straight to an engine's
thread in this process: the difference is JSON, envelopes, checks, pipes and a client's reading. A
streamed text is compared with one that comes as a whole, from the same process. Both pairs take
turns on one small model.

The difference is a hundredth of what is measured, and whatever else the machine does only adds to
it: so each figure is that of the fastest tenth of many turns, on either side.

Run as a process of its own, so that the bench itself never imports MLX:
`python -m bench.wire_cost FOLDER` prints one JSON object of lists.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.engine import Engine as Pipe
from bench.models import Shape, make_model
from bench.words import text, word_list

SHAPE = Shape(hidden=64, layers=2, heads=2, kv_heads=1, head_dim=32, intermediate=128)
"""Small, so that the model's own time, which varies, does not hide the wire's."""

ROUNDS = 5
REQUESTS = 100
STREAMS = 30
TOKENS = 96
WARM = 2000


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

    def generate(self, prompt: str, tokens: int, *, stream: bool = False) -> str:
        """The same, through the pipes."""
        request = self._engine.send(
            "generate",
            prompt=prompt,
            maxTokens=tokens,
            ignoreEos=True,
            temperature=0,
            cachePrompt=False,
            stream=stream,
        )
        reply: str = self._engine.reply(request)["text"]
        return reply

    def close(self) -> None:
        """End it."""
        self._engine.close()


def _die(error: BaseException) -> None:
    raise SystemExit(f"the engine has failed: {error!r}")


def measure(folder: Path) -> dict[str, list[float]]:
    """By row: what the wire adds to a 1-token request in ms, to a token of a stream in us; and
    the latter's processor time where no model runs between two tokens.
    """
    words = word_list(SHAPE.vocabulary)
    piped, bare = Piped(folder), InProcess(folder)
    rows: dict[str, list[float]] = {"wire_request_ms": [], "wire_token_us": []}
    for turn in range(-1, ROUNDS):  # the first one warms up
        prompt = text(words, 16, "request", turn)
        texts = {
            piped.generate(prompt, TOKENS),
            piped.generate(prompt, TOKENS, stream=True),
            bare.generate(prompt, TOKENS),
        }
        if len(texts) != 1:
            raise SystemExit("the sides do not give the same text")
        request = _difference(
            lambda: piped.generate(prompt, 1),  # noqa: B023 - called at once
            lambda: bare.generate(prompt, 1),  # noqa: B023
            REQUESTS,
        )
        stream = _difference(
            lambda: piped.generate(prompt, TOKENS, stream=True),  # noqa: B023
            lambda: piped.generate(prompt, TOKENS),  # noqa: B023
            STREAMS,
        )
        if turn >= 0:
            rows["wire_request_ms"].append(request * 1e3)
            rows["wire_token_us"].append(stream / TOKENS * 1e6)
    piped.close()
    rows["wire_warm_us"] = [_warm() for _ in range(ROUNDS)]
    return rows


def _warm() -> float:
    """Microseconds of a token's way from the engine's thread into a pipe, with nothing between two.

    Between two tokens of a model its arithmetic empties the processor's caches, and the first lines
    of Python after it take many times as long as here.
    """
    from mlx_stdio.session.request import GenerationRequest
    from mlx_stdio.wire.writer import Writer

    reading, writing = os.pipe()

    def drain() -> None:
        while os.read(reading, 65536):
            pass

    reader = threading.Thread(target=drain)
    reader.start()
    writer = Writer(writing, on_broken=lambda: None)
    request = GenerationRequest(1, lambda _: None, writer, lambda *_: None)
    begin = time.thread_time()
    for token in range(WARM):
        request.delta(" word", [token], [])
        writer.flush()
    seconds = time.thread_time() - begin
    os.close(writing)
    reader.join()
    os.close(reading)
    return seconds / WARM * 1e6


def _difference(first: Callable[[], str], second: Callable[[], str], turns: int) -> float:
    """Seconds that the first takes longer than the second."""
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(turns):
        for run, seconds in zip((first, second), found, strict=True):
            begin = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - begin)
    fast = [statistics.quantiles(seconds, n=10)[0] for seconds in found]
    return fast[0] - fast[1]


if __name__ == "__main__":
    model = make_model(Path(sys.argv[1]), SHAPE)
    sys.stdout.write(json.dumps(measure(model)) + "\n")
    sys.stdout.flush()
    # The engine's thread owns MLX; the interpreter's own end would wait for it.
    os._exit(0)
