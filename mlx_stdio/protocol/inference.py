"""`generate`, `chat`, `infill` and `embed`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from mlx_stdio.protocol.base import Model, Params, Result, TokenId, doc
from mlx_stdio.protocol.generation import Generation, Outcome


class GenerateParams(Generation, kw_only=True, frozen=True):
    """Continue a prompt as it stands, without a chat template."""

    prompt: Annotated[
        Annotated[str, msgspec.Meta(min_length=1)]
        | Annotated[list[TokenId], msgspec.Meta(min_length=1)],
        doc("Text, or token ids that are used as they are."),
    ]


class GenerateResult(Outcome, kw_only=True):
    """The text that follows the prompt."""

    text: str


class TextPart(Params, kw_only=True, frozen=True):
    """One part of a message's content."""

    type: Literal["text"]
    text: str


class ChatMessage(Params, kw_only=True, frozen=True):
    """One turn. Which roles are possible is the template's affair."""

    role: Annotated[str, msgspec.Meta(min_length=1)]
    content: Annotated[str | list[TextPart] | None, doc("Text, or text parts.")] = None
    name: str | None = None
    reasoning: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class ChatParams(Generation, kw_only=True, frozen=True):
    """Answer a conversation, rendered by the model's own chat template."""

    messages: Annotated[list[ChatMessage], msgspec.Meta(min_length=1)]
    tools: Annotated[
        list[dict[str, Any]] | None, doc("Tool definitions. Not built: `unsupported`.")
    ] = None
    tool_choice: Annotated[str | dict[str, Any] | None, doc("Not built: `unsupported`.")] = None
    enable_thinking: Annotated[bool | None, doc("Given to the template as `enable_thinking`.")] = (
        None
    )
    template_args: Annotated[dict[str, Any] | None, doc("Further variables for the template.")] = (
        None
    )


class AssistantMessage(Result, kw_only=True, omit_defaults=False):
    """The model's turn."""

    content: str
    role: Literal["assistant"] = "assistant"


class ChatResult(Outcome, kw_only=True):
    """The model's turn and how it came about."""

    message: AssistantMessage


class InfillParams(Generation, kw_only=True, frozen=True):
    """Fill the gap between two texts, for models with fill-in-the-middle tokens."""

    prefix: Annotated[str, doc("What stands before the gap; may be empty.")]
    suffix: Annotated[str, doc("What stands after the gap; may be empty.")]


class InfillResult(Outcome, kw_only=True):
    """The text for the gap."""

    text: str


class EmbedParams(Params, kw_only=True, frozen=True):
    """Vectors for texts. Not built: `unsupported`."""

    input: Annotated[list[str], msgspec.Meta(min_length=1)]
    model: Model = None
    pooling: Literal["mean", "last", "cls"] | None = None
    normalize: bool | None = None


class EmbedUsage(Result, kw_only=True):
    """Tokens that went through the model."""

    prompt_tokens: int


class EmbedResult(Result, kw_only=True):
    """One vector for each input."""

    embeddings: list[list[float]]
    usage: EmbedUsage
