"""One running generation: reads its prompt in chunks, then decodes, one token a step.

Decoding is pipelined as in `mlx_lm.generate.generate_step`: the graph of the next token is built
and started before the present one is read, so Python works while the device computes.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

from mlx_stdio.engine.job import GenerateJob, Outcome, Prompt, TokenScore
from mlx_stdio.engine.sampling import Sampler, read_scores

if TYPE_CHECKING:
    import mlx.core as mx

    from mlx_stdio.models.residency import Resident


class Sequence:
    """A prompt, its KV cache and what has been generated from it."""

    def __init__(self, job: GenerateJob, prompt: Prompt, resident: Resident) -> None:
        import mlx.core as mx
        from mlx_lm.models.cache import make_prompt_cache

        self.job = job
        self.resident = resident
        self._mx = mx
        self._model = resident.weights.model
        self._prompt = prompt
        self._cache: list[Any] = make_prompt_cache(self._model)
        self._read = 0  # prompt tokens whose KV is in the cache
        self._sampler = Sampler(job.sampling, prompt.tokens)
        self._current: tuple[mx.array, tuple[mx.array, ...]] | None = None
        self._next: tuple[mx.array, tuple[mx.array, ...]] | None = None
        self._count = 0
        self._unsent: list[int] = []
        self._unsent_scores: list[TokenScore] = []
        self._began = time.monotonic()
        self._prefilled = self._began
        self._first_token: float | None = None
        self._budget = self._token_budget()

    def _token_budget(self) -> int:
        """At most `maxTokens`, and never past the end of the context."""
        context = self.resident.card.context_length
        if context is None:
            return self.job.max_tokens
        return min(self.job.max_tokens, context - len(self._prompt.tokens))

    @property
    def reading(self) -> bool:
        """Whether the prompt is still being read."""
        return self._current is None

    @property
    def kv_bytes(self) -> int:
        """Bytes of the cache; only looks at shapes, so any thread may ask."""
        return sum(getattr(layer, "nbytes", 0) for layer in self._cache)

    def read_chunk(self, most: int) -> None:
        """Read the next chunk of the prompt; the last one also starts the first token.

        Args:
            most: tokens to read at once.
        """
        mx = self._mx
        tokens = self._prompt.tokens
        # The last token is kept back: its logits give the first new one.
        end = min(self._read + most, len(tokens) - 1)
        if end > self._read:
            chunk = mx.array(tokens[self._read : end], dtype=mx.uint32)
            self._model(chunk[None], cache=self._cache)
            mx.eval([layer.state for layer in self._cache])
            self._read = end
            mx.clear_cache()
        if len(tokens) > most:
            self.job.sink.progress("prefill", self._read, len(tokens), "tokens")
        if self._read == len(tokens) - 1:
            self._current = self._forward(mx.array(tokens[-1:], dtype=mx.uint32))
            mx.async_eval(self._current)
            self._prefilled = time.monotonic()

    def launch(self) -> list[mx.array]:
        """Build the graph of the token after the present one.

        Returns:
            the arrays that `mx.async_eval` is to start; none when no further token is wanted.
        """
        assert self._current is not None
        if self._count + 1 >= self._budget:
            self._next = None
            return []
        self._next = self._forward(self._current[0])
        return [self._next[0], *self._next[1]]

    def advance(self) -> bool:
        """Wait for the present token and send what is certain of its text.

        Returns:
            whether the sequence has ended; its sink has then been told.
        """
        assert self._current is not None
        array, score_arrays = self._current
        token: int = array.item()  # type: ignore[assignment]  # one integer by its shape
        self._count += 1
        if self._first_token is None:
            self._first_token = time.monotonic()
        if score_arrays:
            own, top = read_scores(score_arrays)
            self._unsent_scores.append(TokenScore(token, own, tuple(top)))
        if token in self._prompt.stop_ids:
            return self._end("stop")
        self._unsent.append(token)
        piece = self._prompt.text.push(token)
        if self._prompt.text.stopped:
            return self._end("stop", piece)
        if self._count >= self._budget:
            return self._end("length", piece)
        if piece:
            self._send(piece)
        self._current, self._next = self._next, None
        return False

    def _forward(self, token: mx.array) -> tuple[mx.array, tuple[mx.array, ...]]:
        logits = self._model(token[None], cache=self._cache)
        return self._sampler.draw(logits[:, -1, :])

    def _send(self, piece: str) -> None:
        self.job.sink.delta(piece, self._unsent, self._unsent_scores)
        self._unsent, self._unsent_scores = [], []

    def _end(self, reason: Literal["stop", "length"], piece: str = "") -> bool:
        piece += self._prompt.text.finish()
        if self._prompt.text.stopped:  # the last half of a stop string was still undecided
            reason = "stop"
        if piece or self._unsent or self._unsent_scores:
            self._send(piece)
        now = time.monotonic()
        job = self.job
        job.sink.finish(
            Outcome(
                finish_reason=reason,
                prompt_tokens=len(self._prompt.tokens),
                completion_tokens=self._count,
                queue=self._began - job.arrived - job.load_seconds,
                load=job.load_seconds,
                prefill=self._prefilled - self._began,
                first_token=(self._first_token or now) - job.arrived,
                total=now - job.arrived,
                decode=now - (self._first_token or now),
            )
        )
        return True
