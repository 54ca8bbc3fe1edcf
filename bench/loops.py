"""The contender without a wire: loops over `mlx_lm` as a script in the same process has them.

One stream is `stream_generate`, many are `BatchGenerator` with the settings of `batch_generate`.
Prompts are token ids before the clock starts, which favours these loops.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from bench import words
from bench.sizes import Sizes
from bench.stream import BenchError, Stream, median

_STEPS = 100_000
"""More steps than any scenario takes."""


@dataclass
class Loops:
    """A loaded model and the workload."""

    model: str
    sizes: Sizes
    vocabulary: int

    def __post_init__(self) -> None:
        self._loaded: tuple[Any, Any] | None = None
        self._words = words.word_list(self.vocabulary)

    def load(self) -> tuple[Any, Any]:
        """The model and its tokenizer; they stay."""
        from mlx_lm import load

        if self._loaded is None:
            self._loaded = load(self.model)[:2]
        return self._loaded

    def streams(self, seed: int, count: int, *, new: int | None = None) -> dict[str, float]:
        """See `Scenarios.streams`."""
        tokenizer = self.load()[1]
        sizes = self.sizes
        wanted = new or sizes.new
        prompts = [self._ids(sizes.prompt, seed, "streams", i) for i in range(count)]
        if count == 1:
            return self._one_stream(prompts[0], wanted)
        generator = self._generator()
        results: dict[int, list[int]] = {}
        first: list[float] = []
        begin = time.perf_counter()
        generator.insert(prompts, [wanted] * count)
        while responses := generator.next_generated():
            for response in responses:
                if response.uid not in results:
                    results[response.uid] = []
                    first.append((time.perf_counter() - begin) * 1000)
                results[response.uid].append(response.token)
        for tokens in results.values():
            tokenizer.decode(tokens)
        seconds = time.perf_counter() - begin
        generator.close()
        total = sum(map(len, results.values()))
        if total != count * wanted:
            raise BenchError(f"{total} tokens, not {count * wanted}")
        return {f"streams_{count}": total / seconds, f"streams_{count}_first_ms": median(first)}

    def beside_decoding(self, seed: int) -> dict[str, float]:
        """See `Scenarios.beside_decoding`."""
        generator = self._generator()
        prompt = self._ids(self.sizes.prompt, seed, "long")
        (long,) = generator.insert([prompt], [self.sizes.endless])
        self._until(generator, long, 8)
        times = []
        for probe in range(self.sizes.probes):
            prompt = self._ids(self.sizes.short, seed, "short", probe)
            begin = time.perf_counter()
            (short,) = generator.insert([prompt], [4])
            self._until(generator, short, 1)
            times.append((time.perf_counter() - begin) * 1000)
            self._until(generator, short, 3)
            self._until(generator, long, 8)
        generator.close()
        return {"beside_decoding_ms": median(times)}

    def beside_reading(self, seed: int) -> dict[str, float]:
        """See `Scenarios.beside_reading`; the newcomer waits for the call that is running."""
        times = []
        for probe in range(self.sizes.reading_probes):
            generator = self._generator()
            prompt = self._ids(self.sizes.reading, seed, "reading", probe)
            arrival = time.perf_counter() + self.sizes.read_seconds
            generator.insert([prompt], [2])
            responses: list[Any] = []
            while time.perf_counter() < arrival and not responses:
                responses = generator.next()[1]
            if responses:
                continue  # it is read already
            prompt = self._ids(self.sizes.short, seed, "read", probe)
            (short,) = generator.insert([prompt], [4])
            self._until(generator, short, 1)
            times.append((time.perf_counter() - arrival) * 1000)
            generator.close()
        return {"beside_reading_ms": median(times)}

    def joining(self, seed: int) -> dict[str, float]:
        """See `Scenarios.joining`."""
        sizes = self.sizes
        generator = self._generator()
        prompt = self._ids(sizes.short, seed, "running")
        (uid,) = generator.insert([prompt], [sizes.endless])
        running = Stream()
        self._until(generator, uid, sizes.settle + 8, running)
        quiet = running.gaps_ms(running.arrivals[8], time.perf_counter())
        prompt = self._ids(sizes.joining, seed, "joining")
        begin = time.perf_counter()
        (joined,) = generator.insert([prompt], [4])
        for _ in range(_STEPS):
            seen = [response.uid for response in generator.next()[1]]
            now = time.perf_counter()
            if uid in seen:
                running.piece(now, "")
            if joined in seen:
                break
        self._until(generator, uid, 4, running)
        generator.close()
        worst, step = max(running.gaps_ms(begin, time.perf_counter())), median(quiet)
        return {
            "joining_gap_ms": worst,
            "joining_step_ms": step,
            "joining_gap_steps": worst / step,
            "joining_first_ms": (now - begin) * 1000,
        }

    def second_turn(self, seed: int) -> dict[str, float]:
        """See `Scenarios.second_turn`; the script keeps the chat's cache itself."""
        from mlx_lm import stream_generate
        from mlx_lm.models.cache import make_prompt_cache

        model, tokenizer = self.load()
        figures = {}
        for name, cold in (("second_turn_ms", False), ("second_turn_cold_ms", True)):
            turns = [{"role": "user", "content": self._text(self.sizes.chat, seed, name)}]
            cache = make_prompt_cache(model)
            reply = self._text(16, seed, "reply")
            if not cold:
                prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True)
                first = stream_generate(model, tokenizer, prompt, 16, prompt_cache=cache)
                reply = "".join(response.text for response in first)
            turns.append({"role": "assistant", "content": reply})
            turns.append({"role": "user", "content": self._text(32, seed, "second")})
            begin = time.perf_counter()
            prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True)
            rest = prompt[cache[0].offset :]
            stream = stream_generate(model, tokenizer, rest, 4, prompt_cache=cache)
            next(stream)
            figures[name] = (time.perf_counter() - begin) * 1000
            for _ in stream:
                pass
            if not cold:
                figures["second_turn_cached"] = 100 * (1 - len(rest) / len(prompt))
        return figures

    def _one_stream(self, prompt: list[int], new: int) -> dict[str, float]:
        from mlx_lm import stream_generate

        model, tokenizer = self.load()
        stream = Stream()
        for response in stream_generate(model, tokenizer, prompt, new):
            stream.piece(time.perf_counter(), response.text)
        if len(stream.arrivals) != new:
            raise BenchError(f"{len(stream.arrivals)} tokens, not {new}")
        seconds = stream.arrivals[-1] - stream.sent
        return {"streams_1": new / seconds, "streams_1_first_ms": stream.first_ms}

    def _generator(self) -> Any:
        from mlx_lm.generate import BatchGenerator

        model, tokenizer = self.load()
        stop = [[token] for token in tokenizer.eos_token_ids]
        return BatchGenerator(model, stop_tokens=stop, completion_batch_size=self.sizes.concurrency)

    @staticmethod
    def _until(generator: Any, uid: int, tokens: int, stream: Stream | None = None) -> None:
        for _ in range(_STEPS):
            if tokens <= 0:
                return
            if any(response.uid == uid for response in generator.next()[1]):
                tokens -= 1
                if stream is not None:
                    stream.piece(time.perf_counter(), "")
        raise BenchError("the loop does not end")

    def _text(self, tokens: int, *seed: object) -> str:
        return words.text(self._words, tokens, *seed)

    def _ids(self, tokens: int, *seed: object) -> list[int]:
        tokenizer = self.load()[1]
        ids: list[int] = tokenizer.encode(self._text(tokens, *seed))
        if len(ids) != tokens:
            raise BenchError(f"{len(ids)} prompt tokens, not {tokens}")
        return ids
