"""Weights into memory, a slice at a time.

A load is a generator: between two slices the engine's thread takes a step of the running
streams, sees a cancel, and reports the bytes. MLX's arrays belong to that one thread, so a thread
for loading is no alternative.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from mlx_stdio.errors import EngineError
from mlx_stdio.kv.geometry import Geometry
from mlx_stdio.models import ability
from mlx_stdio.models.card import Card
from mlx_stdio.models.catalog import EMBEDDED
from mlx_stdio.models.lean import load_model_function

_SLICE_BYTES = 32 * 1024 * 1024
_LONGEST = 2000
"""Characters of an error's text."""
_FEW_FILES = 16
"""Fewer than any limit of open files leaves room for."""
_OTHER_FILES = 256
"""More than the engine has open beside a model's."""


class Weights(Struct, frozen=True):
    """A model whose weights are in memory.

    Attributes:
        model: the `mlx.nn.Module`; called with token ids `[batch, length]` and a cache, it gives
            logits `[batch, length, vocabulary]`.
        bytes: of all parameters.
        vocabulary_size: ids that the embedding has rows for; any other id reads foreign memory.
        geometry: what its KV caches take.
    """

    model: Any
    bytes: int
    vocabulary_size: int
    geometry: Geometry


NO_WEIGHTS = Weights(None, 0, 0, Geometry(known=False))
"""What an evicted model has."""


def load_steps(card: Card, *, trust_remote_code: bool) -> Iterator[tuple[int, int] | Weights]:
    """Load a model.

    Yields:
        `(bytes done, bytes in all)` after each slice, and the `Weights` last.

    Raises:
        EngineError: `modelLoadFailed`, with what `mlx_lm` found wrong.
    """
    if card.code is not None and not trust_remote_code:
        raise EngineError(
            "modelLoadFailed",
            f"the model brings code of its own, {card.code!r}, which an engine runs only if it was "
            "started with --trust-remote-code (trust_remote_code of mlx_lm)",
            model=card.id,
        )
    try:
        yield (0, card.disk_bytes)
        yield from _steps(card, trust_remote_code)
        return
    except EngineError as error:
        failure = error.with_traceback(None)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a model's code may raise anything
        # `SystemExit` too: one architecture's module calls `sys.exit` when a package is missing.
        failure = EngineError("modelLoadFailed", _shortened(error), model=card.id)
    # Without the first error: its traceback would keep what was read so far in memory.
    raise failure


def _steps(card: Card, trust_remote_code: bool) -> Iterator[tuple[int, int] | Weights]:
    import mlx.core as mx
    from mlx.utils import tree_flatten

    load_model = load_model_function()
    if card.files > _FEW_FILES:
        _allow_open_files(card.files)
    model, _ = load_model(card.path, lazy=True, trust_remote_code=trust_remote_code)
    if card.id == EMBEDDED and mx.default_device() == mx.cpu:
        # Stored in 16 bits for the repository's sake; 32 is what a CPU computes fast.
        model.set_dtype(mx.float32)
    geometry = Geometry.probe(model)
    _check_ability(model, geometry, card)
    flat: list[Any] = tree_flatten(model.parameters())  # type: ignore[assignment]
    parameters = [value for _, value in flat]
    total = sum(value.nbytes for value in parameters)
    done = 0
    batch: list[Any] = []
    held = 0
    for value in parameters:
        batch.append(value)
        held += value.nbytes
        if held >= _SLICE_BYTES:
            mx.eval(batch)
            done += held
            batch, held = [], 0
            yield (done, total)
    mx.eval(batch)
    if held:
        yield (total, total)
    yield Weights(model, total, _vocabulary(model, card), geometry)


def _check_ability(model: Any, geometry: Geometry, card: Card) -> None:
    try:
        ability.check(model, geometry)
        return
    except Exception as error:  # noqa: BLE001 - a model's code may raise anything
        reason = f"this device cannot run the model: {_shortened(error)}"
    # Without the first error, as above.
    raise EngineError("modelLoadFailed", reason, model=card.id)


def _shortened(error: BaseException) -> str:
    """An error in one message; `mlx_lm` lists every tensor that it has no place for."""
    text = f"{type(error).__name__}: {error}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text)} characters)"


def _allow_open_files(count: int) -> None:
    """Let so many more files be open: MLX keeps each until the last of its tensors is read."""
    try:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = count + _OTHER_FILES
        if soft != resource.RLIM_INFINITY and soft < wanted:
            most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    except (ImportError, OSError, ValueError):
        return  # MLX says which file it could not open


def _vocabulary(model: Any, card: Card) -> int:
    """Rows of the token embedding: the config's figure where an embedding has it, else the most."""
    rows = [
        int(module.weight.shape[0])
        for _, module in model.named_modules()
        if "Embedding" in type(module).__name__ and hasattr(module, "weight")
    ]
    if card.vocabulary_size is not None and (card.vocabulary_size in rows or not rows):
        return card.vocabulary_size
    if not rows:
        raise EngineError("modelLoadFailed", "the model has no token embedding", model=card.id)
    return max(rows)


def give_back() -> None:
    """Return freed weights to the system: Python's cycles, MLX's pool, then the C heap."""
    import mlx.core as mx

    gc.collect()
    mx.clear_cache()
    _trim_heap()


def _trim_heap() -> None:
    import ctypes

    # glibc keeps freed memory for reuse; only it has the call.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
