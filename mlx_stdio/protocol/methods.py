"""The table of methods: name, parameters, result, and whether it is built."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from mlx_stdio.protocol import inference, lifecycle, models, text
from mlx_stdio.protocol.base import NoParams, Params


class Method(Struct, frozen=True):
    """One row of the table.

    Attributes:
        params: the typed structure of its parameters.
        result: the typed structure of its result; None for a notification, `type(None)` for null.
        errors: kinds of application errors it can end with, beside those of every request.
        built: whether this version can do it.
    """

    name: str
    summary: str
    params: type[Params]
    result: Any
    errors: tuple[str, ...] = ()
    built: bool = True
    notification: bool = False


_LOADING = ("modelNotFound", "modelLoadFailed", "outOfMemory")
_RUNNING = (*_LOADING, "contextLengthExceeded", "overloaded", "unsupported", "deadlineExceeded")
_TEXT = ("modelNotFound", "modelLoadFailed")

METHODS: dict[str, Method] = {
    row.name: row
    for row in (
        Method(
            "initialize",
            "Handshake: versions, capabilities and limits.",
            lifecycle.InitializeParams,
            lifecycle.InitializeResult,
        ),
        Method("ping", "Answered at once, whatever the engine does.", NoParams, lifecycle.Empty),
        Method(
            "shutdown",
            "Accept no more requests; those in flight go on until `exit`.",
            NoParams,
            type(None),
        ),
        Method("rpc.discover", "The OpenRPC document.", NoParams, dict[str, Any]),
        Method(
            "engine/status",
            "Device, memory, requests and counters.",
            NoParams,
            lifecycle.StatusResult,
        ),
        Method(
            "models/list",
            "Models that are resident or can be loaded.",
            NoParams,
            models.ModelListResult,
        ),
        Method(
            "models/load",
            "Make a model resident.",
            models.LoadParams,
            models.LoadResult,
            (*_LOADING, "unsupported", "deadlineExceeded"),
        ),
        Method(
            "models/unload",
            "Give a model's memory back.",
            models.UnloadParams,
            models.UnloadResult,
            ("modelNotFound", "deadlineExceeded"),
        ),
        Method(
            "generate",
            "Continue a prompt.",
            inference.GenerateParams,
            inference.GenerateResult,
            _RUNNING,
        ),
        Method(
            "chat",
            "Answer a conversation.",
            inference.ChatParams,
            inference.ChatResult,
            _RUNNING,
        ),
        Method(
            "infill",
            "Fill the gap between two texts.",
            inference.InfillParams,
            inference.InfillResult,
            _RUNNING,
        ),
        Method(
            "embed",
            "Vectors for texts.",
            inference.EmbedParams,
            inference.EmbedResult,
            ("unsupported",),
            built=False,
        ),
        Method("tokenize", "Text to token ids.", text.TokenizeParams, text.TokenizeResult, _TEXT),
        Method(
            "detokenize", "Token ids to text.", text.DetokenizeParams, text.DetokenizeResult, _TEXT
        ),
        Method(
            "applyTemplate",
            "Messages to the prompt that `chat` would use.",
            text.ApplyTemplateParams,
            text.ApplyTemplateResult,
            (*_TEXT, "unsupported"),
        ),
        Method(
            "$/cancelRequest",
            "Cancel a request; it is answered once, with -32800.",
            lifecycle.CancelParams,
            None,
            notification=True,
        ),
        Method(
            "exit",
            "Leave now: exit code 0 after `shutdown`, else 1.",
            NoParams,
            None,
            notification=True,
        ),
    )
}

UNSUPPORTED_PARAMS: tuple[str, ...] = (
    "adapter",
    "responseFormat",
    "toolChoice",
    "tools",
)
"""Parameters that are defined and refused before any work (`applyTemplate` does take `tools`)."""
