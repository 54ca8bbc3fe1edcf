"""What the engine says on its own: text as it comes, progress, model changes, its own death."""

from __future__ import annotations

from typing import Annotated, Literal

from mlx_stdio.protocol.base import Result, doc
from mlx_stdio.protocol.generation import TokenLogprobs

Channel = Literal["content", "reasoning", "toolCall"]
Phase = Literal["queued", "loading", "prefill"]
ChangeReason = Literal["request", "lru", "idle", "memory", "unload"]


class StreamDelta(Result, kw_only=True):
    """`stream/delta`: a piece of a running request's text; all come before the reply."""

    request_id: str | int
    seq: Annotated[int, doc("0, 1, 2, … within the request.")]
    text: Annotated[str, doc("Whole characters; joined, these are the reply's text.")]
    channel: Channel
    stream_token: str | int | None = None
    tokens: Annotated[list[int] | None, doc("The token ids generated since the last delta.")] = None
    logprobs: list[TokenLogprobs] | None = None


class Progress(Result, kw_only=True):
    """`$/progress`: `completed` rises strictly within a phase of one request."""

    request_id: str | int
    phase: Phase
    completed: int
    total: int
    unit: Literal["requests", "bytes", "tokens"]
    stream_token: str | int | None = None


class ModelChanged(Result, kw_only=True):
    """`models/changed`: a model's residency changed."""

    model: str
    state: Literal["available", "loading", "ready"]
    reason: ChangeReason


class Fatal(Result, kw_only=True):
    """`engine/fatal`: the engine failed as a whole; errors for all requests and the exit follow."""

    kind: str
    message: str


NOTIFICATIONS: dict[str, type[Result]] = {
    "stream/delta": StreamDelta,
    "$/progress": Progress,
    "models/changed": ModelChanged,
    "engine/fatal": Fatal,
}
