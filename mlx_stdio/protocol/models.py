"""`models/list`, `models/load` and `models/unload`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from mlx_stdio.protocol.base import Params, Result, doc
from mlx_stdio.settings import MAX_SECONDS

State = Literal["available", "loading", "ready"]


class ModelState(Result, kw_only=True):
    """One model that the engine knows."""

    id: str
    state: State
    path: Annotated[str | None, doc("The folder.")] = None
    model_type: Annotated[str | None, doc("The architecture, from its config.")] = None
    context_length: Annotated[int | None, doc("Tokens; absent if the model sets none.")] = None
    vocabulary_size: int | None = None
    bytes: Annotated[int | None, doc("Weights in memory, or on disk while not loaded.")] = None
    pinned: bool | None = None
    running: Annotated[int | None, doc("Requests that use it now.")] = None
    last_used_seconds_ago: float | None = None
    keep_alive_seconds: float | None = None
    tokenizer: Annotated[
        Literal["tokenizers", "transformers"] | None,
        doc(
            "The library that reads its texts, `transformers` where the folder needs it; "
            "absent while the tokenizer is not loaded."
        ),
    ] = None


class ModelListResult(Result, kw_only=True):
    """Resident models first, then what can be loaded."""

    models: list[ModelState]


class LoadParams(Params, kw_only=True, frozen=True):
    """Make a model resident."""

    model: Annotated[str, msgspec.Meta(min_length=1)]
    pin: Annotated[
        bool | None, doc("A pinned model is never evicted; `false` takes a pin off.")
    ] = None
    keep_alive_seconds: Annotated[
        Annotated[float, msgspec.Meta(ge=0, le=MAX_SECONDS)] | None,
        doc("Unload after so long without a request. Default: `--keep-alive`."),
    ] = None
    adapter: Annotated[str | None, doc("Not built: `unsupported`.")] = None
    stream_token: Annotated[str | int | None, doc("Echoed in `$/progress`.")] = None
    timeout_ms: Annotated[int, msgspec.Meta(ge=1)] | None = None


class LoadResult(Result, kw_only=True, omit_defaults=False):
    """The resident model."""

    model: ModelState
    load_ms: Annotated[float, doc("0 when it was resident already.")]


class UnloadParams(Params, kw_only=True, frozen=True):
    """Give a model's memory back, once the requests that came before have finished."""

    model: Annotated[str, msgspec.Meta(min_length=1)]
    timeout_ms: Annotated[int, msgspec.Meta(ge=1)] | None = None


class UnloadResult(Result, kw_only=True):
    """What came back; 0 when the model was not resident."""

    freed_bytes: int
