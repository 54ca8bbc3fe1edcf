"""What the engine says on its own: text as it comes, progress, model changes, its own death."""

from __future__ import annotations

from typing import Annotated, Literal

from mlx_stdio.protocol.base import CanonicalId, Result, doc
from mlx_stdio.protocol.generation import TokenLogprobs

Channel = Literal["content", "reasoning", "toolCall"]
Phase = Literal["queued", "loading", "prefill"]
ChangeReason = Literal["request", "lru", "idle", "memory", "unload"]
RequestId = Annotated[str | int, doc("Id of the request that this belongs to.")]
StreamToken = Annotated[str | int | None, doc("The request's own; absent if it has none.")]


class StreamDelta(Result, kw_only=True):
    """`stream/delta`: a piece of a running request's text; all come before the reply."""

    request_id: RequestId
    seq: Annotated[int, doc("0, 1, 2, … within the request.")]
    text: Annotated[str, doc("Whole characters; joined, these are the reply's text.")]
    channel: Annotated[Channel, doc("`content`: the reply's text; the others are kept for later.")]
    stream_token: StreamToken = None
    tokens: Annotated[
        list[int] | None,
        doc("Ids generated since the last delta, without an end token; absent if none."),
    ] = None
    logprobs: Annotated[
        list[TokenLogprobs] | None,
        doc(
            "Scores of `tokens`, and of an end token that came after them; only if `logprobs` was "
            "given."
        ),
    ] = None


class Progress(Result, kw_only=True):
    """`$/progress`: `completed` rises strictly within a phase of one request."""

    request_id: RequestId
    phase: Annotated[
        Phase,
        doc(
            "What the request waits for: its turn (`queued`), its model's weights (`loading`), its "
            "prompt to be read (`prefill`)."
        ),
    ]
    completed: Annotated[
        int,
        doc(
            "Places gained, bytes read, or tokens read, those found in the prompt cache included; "
            "the phase may end below `total`."
        ),
    ]
    total: Annotated[
        int,
        doc(
            "The request's first place in the queue (1 is next), the weights' bytes, or the "
            "prompt's tokens; it may be corrected on the way."
        ),
    ]
    unit: Annotated[
        Literal["requests", "bytes", "tokens"],
        doc(
            "Of both numbers: `requests` if `queued`, `bytes` if `loading`, `tokens` if `prefill`."
        ),
    ]
    stream_token: StreamToken = None


class ModelChanged(Result, kw_only=True):
    """`models/changed`: a model's residency changed."""

    model: CanonicalId
    state: Annotated[
        Literal["available", "loading", "ready"],
        doc("`ready`: it has become resident; `available`: it was let go."),
    ]
    reason: Annotated[
        ChangeReason,
        doc(
            "With `ready`: `request` (or `--preload`). With `available`: `lru` (another model "
            "needed its place), `memory` (its bytes were needed), `idle` (its keep-alive ran out) "
            "or `unload` (`models/unload`)."
        ),
    ]


class Fatal(Result, kw_only=True):
    """`engine/fatal`: the engine failed as a whole; errors for all requests and the exit follow."""

    kind: Annotated[str, doc("As in the errors' `data.kind`: `engineFault`.")]
    message: Annotated[str, doc("What failed, for a person; the errors' `message` too.")]


NOTIFICATIONS: dict[str, type[Result]] = {
    "stream/delta": StreamDelta,
    "$/progress": Progress,
    "models/changed": ModelChanged,
    "engine/fatal": Fatal,
}
