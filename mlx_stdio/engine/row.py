"""One running generation, seen from the host's side: what was drawn, what was told, when it ends.

A row knows no arrays. `reading.py` gives it a KV cache, `batch.py` and `speculative.py` draw its
tokens; each token that is certain comes here, through `accept`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from mlx_stdio.engine.draws import TokenScore
from mlx_stdio.engine.job import GenerateJob, Outcome, Prompt
from mlx_stdio.marks import mark

if TYPE_CHECKING:
    from mlx_stdio.kv.prefixes import Key
    from mlx_stdio.models.residency import Resident


class Row:
    """A prompt and what has been generated from it.

    Attributes:
        drawn: tokens drawn so far, the one that ended the text included.
        fed: how many tokens of `history` its KV cache has seen.
        cached: how many of them came from the prefix cache.
        draft: the draft model, if it speculates with one.
        drafted, accepted: tokens proposed by speculation, and those that were right.
        alone: never to be batched (again): its cache cannot be merged, or a batch with it failed.
    """

    def __init__(
        self, job: GenerateJob, prompt: Prompt, resident: Resident, draft: Resident | None = None
    ) -> None:
        self.job = job
        self.prompt = prompt
        self.resident = resident
        self.draft = draft
        self.drawn: list[int] = []
        self.fed = 0
        self.cached = 0
        self.alone = False
        self.drafted = 0
        self.accepted = 0
        self._unsent: list[int] = []
        self._unsent_scores: list[TokenScore] = []
        self._began = time.monotonic()
        self._prefilled: float | None = None
        self._first_token: float | None = None
        self.budget = self._token_budget()

    def _token_budget(self) -> int:
        """At most `maxTokens`, and never past the end of the context."""
        context = self.resident.card.context_length
        if context is None:
            return self.job.max_tokens
        return min(self.job.max_tokens, context - len(self.prompt.tokens))

    @property
    def cache_key(self) -> Key:
        """Rows with the same key can use each other's KV: a model, and a kind of cache."""
        return (self.resident.card.id, self.job.kv_bits, self.job.max_kv_size)

    @property
    def draft_key(self) -> Key:
        """The same for the draft model's KV."""
        assert self.draft is not None
        return (self.draft.card.id, None, None)

    @property
    def history(self) -> list[int]:
        """The prompt and all that was drawn."""
        return self.prompt.tokens + self.drawn

    @property
    def seen(self) -> list[int]:
        """The tokens that the KV cache holds."""
        return self.history[: self.fed]

    @property
    def left(self) -> int:
        """How many tokens it may still get."""
        return self.budget - len(self.drawn)

    def prompt_read(self) -> None:
        """Its prompt's KV is complete (told again when it had to be read again)."""
        if self._prefilled is None:
            self._prefilled = time.monotonic()
            mark("engine: the prompt is read")

    def accept(self, token: int, score: TokenScore | None = None) -> bool:
        """Take a drawn token, and send what is certain of the text.

        Returns:
            whether the row has ended; its sink has then been told.
        """
        self.drawn.append(token)
        if self._first_token is None:
            self._first_token = time.monotonic()
            mark("engine: the first token is drawn")
        if score is not None:
            self._unsent_scores.append(score)
        if token in self.prompt.stop_ids:
            return self._end("stop")
        self._unsent.append(token)
        piece = self.prompt.text.push(token)
        if self.prompt.text.stopped:
            return self._end("stop", piece)
        if self.left <= 0:
            return self._end("length", piece)
        if piece:
            self._send(piece)
        return False

    def _send(self, piece: str) -> None:
        self.job.sink.delta(piece, self._unsent, self._unsent_scores)
        self._unsent, self._unsent_scores = [], []

    def _end(self, reason: Literal["stop", "length"], piece: str = "") -> bool:
        piece += self.prompt.text.finish()
        if self.prompt.text.stopped:  # the last half of a stop string was still undecided
            reason = "stop"
        if piece or self._unsent or self._unsent_scores:
            self._send(piece)
        now = time.monotonic()
        job = self.job
        first = self._first_token or now
        job.sink.finish(
            Outcome(
                finish_reason=reason,
                prompt_tokens=len(self.prompt.tokens),
                cached_tokens=self.cached,
                completion_tokens=len(self.drawn),
                drafted_tokens=self.drafted,
                accepted_tokens=self.accepted,
                queue=self._began - job.arrived - job.load_seconds,
                load=job.load_seconds,
                prefill=(self._prefilled or now) - self._began,
                first_token=first - job.arrived,
                total=now - job.arrived,
                decode=now - first,
            )
        )
        return True
