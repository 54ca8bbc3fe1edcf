"""`models/list`, `models/load` and `models/unload`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from mlx_stdio.protocol.base import Params, Result, doc
from mlx_stdio.settings import MAX_SECONDS

State = Literal["available", "loading", "ready"]


class ModelState(Result, kw_only=True):
    """One model that the engine knows."""

    id: Annotated[str, doc("Canonical id: names the model in requests and in results.")]
    state: Annotated[
        State,
        doc(
            "`ready`: resident; `loading`: its weights are being read; `available`: it can be "
            "loaded."
        ),
    ]
    path: Annotated[str | None, doc("The folder.")] = None
    model_type: Annotated[str | None, doc("The architecture, from its config.")] = None
    context_length: Annotated[int | None, doc("Tokens; absent if the model sets none.")] = None
    vocabulary_size: Annotated[
        int | None, doc("Token ids are below it; absent where only the weights tell.")
    ] = None
    bytes: Annotated[int | None, doc("Weights in memory, or on disk while not loaded.")] = None
    pinned: Annotated[
        bool | None, doc("Whether `models/load` has pinned it; absent unless `ready`.")
    ] = None
    running: Annotated[
        int | None,
        doc("Generations that use it now, also as `draftModel`; absent unless `ready`."),
    ] = None
    last_used_seconds_ago: Annotated[
        float | None,
        doc(
            "Since a generation on it last began or ended, or it was last loaded or asked for by "
            "`models/load`; absent unless `ready`."
        ),
    ] = None
    keep_alive_seconds: Annotated[
        float | None,
        doc(
            "It is let go after so long without use, unless pinned; absent if never, or unless "
            "`ready`."
        ),
    ] = None
    tokenizer: Annotated[
        Literal["tokenizers", "transformers"] | None,
        doc(
            "The library that reads its texts, `transformers` where the folder needs it; "
            "absent while the tokenizer is not loaded."
        ),
    ] = None


class ModelListResult(Result, kw_only=True):
    """Resident models first, then what can be loaded."""

    models: Annotated[
        list[ModelState],
        doc("Each model once, whatever its names; folders that are broken are left out."),
    ]


class LoadParams(Params, kw_only=True, frozen=True):
    """Make a model resident."""

    model: Annotated[
        str, doc("Named as in `generate`, but never left to the default.", min_length=1)
    ]
    pin: Annotated[
        bool | None, doc("A pinned model is never evicted; `false` takes a pin off.")
    ] = None
    keep_alive_seconds: Annotated[
        Annotated[float, msgspec.Meta(ge=0, le=MAX_SECONDS)] | None,
        doc("Unload after so long without a request. Default: `--keep-alive`."),
    ] = None
    adapter: Annotated[str | None, doc("Not built: `unsupported`.")] = None
    stream_token: Annotated[str | int | None, doc("Echoed in `$/progress`.")] = None
    timeout_ms: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None,
        doc(
            "So long after its arrival the request ends with `deadlineExceeded`; a load that "
            "others wait for goes on."
        ),
    ] = None


class LoadResult(Result, kw_only=True, omit_defaults=False):
    """The resident model."""

    model: Annotated[ModelState, doc("As it is now; its `state` is `ready`.")]
    load_ms: Annotated[float, doc("0 when it was resident already.")]


class UnloadParams(Params, kw_only=True, frozen=True):
    """Give a model's memory back, once the requests that came before have finished."""

    model: Annotated[
        str,
        doc(
            "Named as in `generate`; a resident one's id, even if its folder is gone.", min_length=1
        ),
    ]
    timeout_ms: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None,
        doc(
            "So long after its arrival the request ends with `deadlineExceeded`, and the model "
            "stays where it is."
        ),
    ] = None


class UnloadResult(Result, kw_only=True):
    """What came back; 0 when the model was not resident."""

    freed_bytes: Annotated[int, doc("Those of the model's weights.")]
