"""What is asked of a contender behind a wire; `bench/loops.py` asks the same in process.

Every function gives named figures. Prompts follow from the seed, so all contenders read the same
text, and none has read it before.
"""

from __future__ import annotations

import random
import time

from bench import words
from bench.sizes import Sizes
from bench.stream import BenchError, Client, Stream, median

PATIENCE = 240.0
"""Seconds that any one answer may take."""


class Scenarios:
    """One client and the workload that it is given."""

    def __init__(self, client: Client, sizes: Sizes, vocabulary: int) -> None:
        self._client = client
        self._sizes = sizes
        self._words = words.word_list(vocabulary)

    def streams(self, seed: int, count: int, *, new: int | None = None) -> dict[str, float]:
        """Tokens a second, all together, from the first request sent to the last reply."""
        sizes = self._sizes
        wanted = new or sizes.new
        prompts = [self._text(sizes.prompt, seed, "streams", i) for i in range(count)]
        begin = time.perf_counter()
        running = [self._client.generate(prompt, wanted) for prompt in prompts]
        for stream in running:
            stream.wait(PATIENCE)
        for stream in running:
            self._check(stream, sizes.prompt, wanted)
        seconds = max(stream.ended for stream in running) - begin
        return {
            f"streams_{count}": sum(stream.tokens for stream in running) / seconds,
            f"streams_{count}_first_ms": median([stream.first_ms for stream in running]),
        }

    def beside_decoding(self, seed: int) -> dict[str, float]:
        """Time to the first token of a short request while another stream decodes."""
        sizes = self._sizes
        long = self._client.generate(self._text(sizes.prompt, seed, "long"), sizes.endless)
        long.wait_pieces(8, PATIENCE)
        times = []
        draw = random.Random(seed)
        for probe in range(sizes.probes):
            time.sleep(draw.uniform(0.05, 0.1))  # at no particular moment of a step
            if long.done.is_set():
                raise BenchError("the long stream ended too early")
            stream = self._client.generate(self._text(sizes.short, seed, "short", probe), 4)
            times.append(stream.wait(PATIENCE).first_ms)
        self._client.cancel(long)
        return {"beside_decoding_ms": median(times)}

    def beside_reading(self, seed: int) -> dict[str, float]:
        """Time to the first token of a short request while a long prompt is read."""
        sizes = self._sizes
        times = []
        for probe in range(sizes.reading_probes):
            long = self._client.generate(self._text(sizes.reading, seed, "reading", probe), 2)
            time.sleep(sizes.read_seconds)
            early = bool(long.arrivals)
            stream = self._client.generate(self._text(sizes.short, seed, "read", probe), 4)
            first = stream.wait(PATIENCE).first_ms
            long.wait(PATIENCE)
            if not early:
                times.append(first)
        return {"beside_reading_ms": median(times)}

    def joining(self, seed: int) -> dict[str, float]:
        """The worst pause of a running stream while a long prompt joins, and its usual step."""
        sizes = self._sizes
        running = self._client.generate(self._text(sizes.short, seed, "running"), sizes.endless)
        running.wait_pieces(sizes.settle + 8, PATIENCE)
        quiet = running.gaps_ms(running.arrivals[8], time.perf_counter())
        joined = self._client.generate(self._text(sizes.joining, seed, "joining"), 4)
        joined.wait(PATIENCE)
        if running.done.is_set():
            raise BenchError("the running stream ended before the prompt had joined")
        running.wait_pieces(len(running.arrivals) + 2, PATIENCE)
        self._client.cancel(running)
        worst = max(running.gaps_ms(joined.sent, joined.ended))
        step = median(quiet)
        return {
            "joining_gap_ms": worst,
            "joining_step_ms": step,
            "joining_gap_steps": worst / step,
            "joining_first_ms": joined.first_ms,
        }

    def second_turn(self, seed: int) -> dict[str, float]:
        """Time to the first token of a chat's second turn, with and without its first one known."""
        figures = {}
        for name, cold in (("second_turn_ms", False), ("second_turn_cold_ms", True)):
            turns = [{"role": "user", "content": self._text(self._sizes.chat, seed, name)}]
            if cold:
                reply = self._text(16, seed, "reply")
            else:
                reply = self._client.chat(turns, 16, cold=False).wait(PATIENCE).text
            turns.append({"role": "assistant", "content": reply})
            turns.append({"role": "user", "content": self._text(32, seed, "second")})
            stream = self._client.chat(turns, 4, cold=cold).wait(PATIENCE)
            figures[name] = stream.first_ms
            if not cold:
                figures["second_turn_cached"] = 100 * stream.cached / stream.prompt_tokens
        return figures

    def _text(self, tokens: int, *seed: object) -> str:
        return words.text(self._words, tokens, *seed)

    def _check(self, stream: Stream, prompt: int, new: int) -> None:
        if (stream.prompt_tokens, stream.tokens) != (prompt, new):
            raise BenchError(
                f"{stream.prompt_tokens} and {stream.tokens} tokens, not {prompt} and {new}"
            )
