"""What the command line decides, as one immutable value."""

from __future__ import annotations

from typing import NamedTuple

MIB = 1024 * 1024
GIB = 1024 * MIB

MAX_SECONDS = 1e9
"""Longest time that can be set (31 years): the system's timers do not take any number."""


class Settings(NamedTuple):
    """Everything that is fixed for the life of the process.

    Attributes:
        model: the model of requests that name none; `pico` is the embedded one.
        preload: load `model` at start instead of at its first request.
        models_dir: folders inside it can be named without their path.
        max_models: how many models may be resident at once.
        memory_limit: bytes that weights, KV caches and prefixes may take; None leaves it to the
            device's share.
        prefix_cache_limit: bytes of KV kept for later prompts; None means a quarter of the limit,
            0 keeps nothing.
        prompt_cache_dir: a folder that keeps prefixes on disk; None keeps none.
        prompt_cache_limit: bytes of files in it.
        keep_alive: seconds without a request after which a model is unloaded; None: never.
        max_message_bytes: the longest message accepted, its newline not counted.
        max_concurrent: requests that are read or decoded at the same time.
        max_queued: requests that may wait for a place before `overloaded` is answered.
        prefill_step: prompt tokens read at once at most.
        framing: `newline`, `content-length`, or `auto`, which the host's first bytes decide.
        blas: `auto` uses a system OpenBLAS on a Linux CPU when there is one, `bundled` never.
        trust_remote_code: run code that a model folder brings.
        log_level: `debug`, `info`, `warning` or `error`.
    """

    model: str = "pico"
    preload: bool = False
    models_dir: str | None = None
    max_models: int = 3
    memory_limit: int | None = None
    prefix_cache_limit: int | None = None
    prompt_cache_dir: str | None = None
    prompt_cache_limit: int = 4 * GIB
    keep_alive: float | None = None
    max_message_bytes: int = 32 * MIB
    max_concurrent: int = 32
    max_queued: int = 1024
    prefill_step: int = 2048
    framing: str = "auto"
    blas: str = "auto"
    trust_remote_code: bool = False
    log_level: str = "info"
