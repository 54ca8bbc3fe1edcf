"""Where a decode step's time goes in process, for several batch sizes; milliseconds a step.

The parts are measured one after the other, each with the device idle before it: a loop that builds
the next step while the device computes this one (as `mlx_lm` and the engine do) takes less than
their sum. "A step in flight" is that loop, and `BatchGenerator` is all of it with its own account.
Runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from bench import words
from bench.machine import describe
from bench.models import Shape
from bench.pipe import Pipe
from bench.processes import spawn
from bench.stream import median

_STEPS = 40


def run(
    model: Path,
    shape: Shape,
    batches: tuple[int, ...],
    context: int,
    repetitions: int,
    *,
    env: dict[str, str],
    line: str,
    engine_root: str | None,
) -> dict[str, Any]:
    """The profile, as results that have their `table`.

    Args:
        env: added to the environment of the process that is profiled.
        line: the command line, for the table.
        engine_root: a folder with the engine whose steps stand beside it.
    """
    arguments = [str(model), json.dumps(batches), str(context), str(repetitions)]
    child = spawn(["-m", "bench.step_profile", *arguments], env=env, stdout=subprocess.PIPE)
    output = child.communicate(timeout=540)[0]
    if child.returncode:
        raise SystemExit(f"the profile failed with code {child.returncode}")
    figures: dict[str, list[float]] = json.loads(output)
    engine = Pipe(model, max(32, *batches), root=engine_root)
    try:
        vocabulary = words.word_list(shape.vocabulary)
        figures["`mlx-stdio`, a step seen through its pipe"] = [
            _engine_step(engine, vocabulary, batch, context) for batch in batches
        ]
    finally:
        engine.close()
    machine = describe()
    lines = [
        f"- Machine: {machine['cpu']}, {machine['cores']} cores; device: {machine['device']}",
        (
            f"- Model: {shape}; {context} tokens of context; ms a step, medians of"
            f" {_STEPS * repetitions} steps, parts one after the other"
        ),
        f"- {time.strftime('%Y-%m-%d')}: `{line}`",
        "",
        f"| part | {' | '.join(f'batch of {batch}' for batch in batches)} |",
        "|---" * (len(batches) + 1) + "|",
    ]
    for name, values in figures.items():
        lines.append(f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} |")
    return {
        "suite": "profile",
        "machine": machine,
        "figures": figures,
        "errors": [],
        "table": "\n".join(lines),
    }


def _engine_step(engine: Pipe, vocabulary: list[str], batch: int, context: int) -> float:
    for name in ("warm", "engine"):  # the first round warms up
        streams = [
            engine.generate(words.text(vocabulary, context, name, row), 4 * _STEPS)
            for row in range(batch)
        ]
        for stream in streams:
            stream.wait(240)
    begin = max(stream.arrivals[0] for stream in streams)
    return median(streams[0].gaps_ms(begin, min(stream.ended for stream in streams)))


class Step:
    """One batch in the middle of its texts."""

    def __init__(self, model: Any, tokenizer: Any, batch: int, context: int) -> None:
        import mlx.core as mx
        from mlx_lm.models.cache import make_prompt_cache

        self._mx = mx
        self._model = model
        self._tokenizer = tokenizer
        self._batch = batch
        vocabulary = model.args.vocab_size
        self._prompts = [
            tokenizer.encode(words.text(words.word_list(vocabulary), context, "profile", row))
            for row in range(batch)
        ]
        self._cache = make_prompt_cache(model)
        if batch > 1:
            self._cache = [type(layer).merge([layer] * batch) for layer in self._cache]
        for at in range(0, context, 512):
            model(mx.array([prompt[at : at + 512] for prompt in self._prompts]), cache=self._cache)
            mx.eval([layer.state for layer in self._cache])
        self._tokens = mx.array([prompt[-1] for prompt in self._prompts])
        self._logits = self._forward(self._tokens)
        mx.eval(self._logits)

    def parts(self) -> dict[str, list[float]]:
        """Seconds of each part, one value a step."""
        mx = self._mx
        found: dict[str, list[float]] = {}

        def clock(name: str, action: Callable[[], Any]) -> Any:
            begin = time.perf_counter()
            value = action()
            found.setdefault(name, []).append(time.perf_counter() - begin)
            return value

        for _ in range(_STEPS):
            logits = clock("graph of the model, in Python", lambda: self._forward(self._tokens))
            tokens = mx.argmax(logits, axis=-1)
            clock("device, from the graph to token ids", tokens.tolist)
        for _ in range(_STEPS):
            clock("sampling: greedy, logits there", lambda: mx.argmax(self._logits, -1).tolist())
            clock("sampling: and log probabilities of all", self._log_probabilities)
            clock("sampling: at temperature 1", self._categorical)
        self._text_parts(clock)
        self._in_flight(clock)
        return found

    def generator(self) -> list[float]:
        """Seconds of each `BatchGenerator.next` in the middle of the texts."""
        from mlx_lm.generate import BatchGenerator

        generator = BatchGenerator(self._model, completion_batch_size=max(32, self._batch))
        generator.insert(self._prompts, [_STEPS + 16] * self._batch)
        times: list[float] = []
        for _ in range(1000):
            begin = time.perf_counter()
            responses = generator.next_generated()
            if len(responses) == self._batch:
                times.append(time.perf_counter() - begin)
            if len(times) > _STEPS:
                break
        generator.close()
        return times[2:]

    def _forward(self, tokens: Any) -> Any:
        return self._model(tokens[:, None], cache=self._cache)[:, -1, :]

    def _log_probabilities(self) -> None:
        mx = self._mx
        scores = self._logits - mx.logsumexp(self._logits, axis=-1, keepdims=True)
        tokens, rows = mx.argmax(scores, axis=-1), list(scores)
        mx.eval(tokens, rows)
        tokens.tolist()

    def _categorical(self) -> None:
        self._mx.random.categorical(self._logits).tolist()

    def _in_flight(self, clock: Callable[[str, Callable[[], Any]], Any]) -> None:
        mx = self._mx
        tokens = self._tokens

        def step() -> Any:
            following = mx.argmax(self._forward(tokens), axis=-1)
            mx.async_eval(following)
            tokens.tolist()
            return following

        for _ in range(_STEPS):
            tokens = clock("a step in flight: all but text and wire", step)

    def _text_parts(self, clock: Callable[[str, Callable[[], Any]], Any]) -> None:
        from tokenizers.decoders import DecodeStream

        tokenizer = self._tokenizer._tokenizer._tokenizer
        decoders = [DecodeStream(skip_special_tokens=True) for _ in range(self._batch)]
        reader, writer = os.pipe()
        threading.Thread(target=_drain, args=(reader,), daemon=True).start()
        for at in range(_STEPS):
            ids = [prompt[at % len(prompt)] for prompt in self._prompts]
            pairs = list(zip(decoders, ids, strict=True))
            texts = clock("detokenizing", partial(_texts, tokenizer, pairs))
            deltas = [_delta(row, at, texts[row], ids[row]) for row in range(self._batch)]
            lines = clock("JSON", partial(_lines, deltas))
            clock("one write to a pipe", partial(os.write, writer, lines))
        os.close(writer)


def _texts(tokenizer: Any, pairs: list[tuple[Any, int]]) -> list[str]:
    return [decoder.step(tokenizer, token) for decoder, token in pairs]


def _delta(row: int, seq: int, text: str, token: int) -> dict[str, Any]:
    params = {"requestId": row, "seq": seq, "text": text, "channel": "content", "tokens": [token]}
    return {"jsonrpc": "2.0", "method": "stream/delta", "params": params}


def _lines(deltas: list[dict[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(delta) + b"\n" for delta in deltas)


def _drain(descriptor: int) -> None:
    while os.read(descriptor, 1 << 16):
        pass
    os.close(descriptor)


def _main(folder: str, batches: list[int], context: int, repetitions: int) -> None:
    from mlx_lm import load

    model, tokenizer = load(folder)[:2]
    table: dict[str, list[float]] = {}
    for batch in batches:
        Step(model, tokenizer, batch, context).parts()  # warms up
        found: dict[str, list[float]] = {}
        for _ in range(repetitions):
            step = Step(model, tokenizer, batch, context)
            for name, times in step.parts().items():
                found.setdefault(name, []).extend(times)
            found.setdefault("`BatchGenerator.next`", []).extend(step.generator())
        for name, times in found.items():
            table.setdefault(name, []).append(statistics.median(times) * 1000)
    print(json.dumps(table))


if __name__ == "__main__":
    _main(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
