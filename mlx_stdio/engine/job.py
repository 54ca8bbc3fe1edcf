"""What the session gives the engine, and what it gets back. Plain values; no JSON, no arrays."""

from __future__ import annotations

import time
from typing import Literal, Protocol

from msgspec import Struct, field

from mlx_stdio.engine.draws import TokenScore
from mlx_stdio.engine.sampling import Sampling
from mlx_stdio.errors import EngineError
from mlx_stdio.models.card import Card
from mlx_stdio.text.stream import TextStream

Phase = Literal["queued", "loading", "prefill"]
Unit = Literal["requests", "bytes", "tokens"]
Rank = Literal[0, 1, 2]


class Outcome(Struct):
    """How a generation ended. Times in seconds."""

    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    queue: float
    load: float
    prefill: float
    first_token: float | None
    total: float
    decode: float


class Sink(Protocol):
    """Where a job's results go; every method may be called from the engine's thread."""

    @property
    def closed(self) -> bool:
        """Answered already (cancelled, timed out): the job is to be dropped."""

    def progress(self, phase: Phase, completed: int, total: int, unit: Unit) -> None:
        """What the job is waiting for."""

    def fail(self, error: EngineError) -> None:
        """The job's one end, if it failed."""


class GenerateSink(Sink, Protocol):
    """The sink of a generation."""

    def delta(self, text: str, tokens: list[int], scores: list[TokenScore]) -> None:
        """More text, and the tokens since the last call."""

    def finish(self, outcome: Outcome) -> None:
        """The job's one end, if it went well."""


class ModelSink(Sink, Protocol):
    """The sink of `models/load` and `models/unload`."""

    def loaded(self, seconds: float) -> None:
        """The model is resident."""

    def unloaded(self, freed: int) -> None:
        """The model is not resident any more."""


class Prompt(Struct, eq=False):
    """A prompt when it is ready: token ids, none outside the vocabulary, and its text stream.

    Attributes:
        borders: lengths of the prompt's beginnings that later prompts are likely to share (each
            ends a message), rising; where a cache that cannot be trimmed is worth a checkpoint.
    """

    tokens: list[int]
    text: TextStream
    stop_ids: frozenset[int]
    borders: tuple[int, ...] = ()


class Draft(Struct, eq=False):
    """Speculative decoding: what proposes tokens, and how many at once.

    Attributes:
        model_id: a draft model; None looks the tokens up in the request's own text.
        card: None while the draft model's folder is still looked at, or without one.
    """

    tokens: int
    model_id: str | None = None
    card: Card | None = None


class Job(Struct, eq=False):
    """A piece of work that concerns one model.

    A job is handed over when its request arrives, so that its place in the queue is that of its
    request; what takes time to find out (`card`, a prompt) is filled in later by another thread.

    Attributes:
        card: None while the model's folder is still looked at.
        rank: 0 interactive, 1 normal, 2 background.
        load_seconds: how long it waited for its model's weights.
        bytes_told: how far its model's load was when it was last told.
        place: its place in the queue, from 1, when it was last told.
    """

    sink: Sink
    model_id: str
    card: Card | None = None
    rank: Rank = 1
    arrived: float = field(default_factory=time.monotonic)
    load_seconds: float = 0.0
    bytes_told: int = -1
    first_place: int = 0
    place: int = 0


class GenerateJob(Job, eq=False):
    """Tokens from a prompt.

    Attributes:
        prompt: None while it is still tokenized.
        kv_bits: bits of a quantised KV cache; None keeps the model's type.
        max_kv_size: tokens that the KV cache holds at most; None holds all.
        cache_prompt: use the prefix cache, and leave the KV in it.
    """

    sink: GenerateSink
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 512
    prompt: Prompt | None = None
    kv_bits: int | None = None
    max_kv_size: int | None = None
    cache_prompt: bool = True
    draft: Draft | None = None


class LoadJob(Job, eq=False):
    """Make a model resident; it can start when its card is there.

    Attributes:
        pin: None leaves the pin as it is; so does `keep_alive`.
    """

    sink: ModelSink
    pin: bool | None = None
    keep_alive: float | None = None


class UnloadJob(Job, eq=False):
    """Give a model's memory back once the jobs before it have ended."""

    sink: ModelSink
