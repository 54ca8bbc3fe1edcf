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

    text: Annotated[str, doc("Without the prompt, and without what ended it; may be empty.")]


class TextPart(Params, kw_only=True, frozen=True):
    """One part of a message's content."""

    type: Annotated[Literal["text"], doc("The only kind of part in this version.")]
    text: Annotated[str, doc("The parts of a message are joined with nothing between them.")]


class ChatMessage(Params, kw_only=True, frozen=True):
    """One turn. Which roles are possible is the template's affair."""

    role: Annotated[
        str, doc("Who speaks: as a rule `system`, `user`, `assistant` or `tool`.", min_length=1)
    ]
    content: Annotated[
        str | list[TextPart] | None, doc("Text, or text parts; absent is the empty text.")
    ] = None
    name: Annotated[str | None, doc("The speaker's; given to the template as `name`.")] = None
    reasoning: Annotated[
        str | None,
        doc("What an assistant thought; given to the template as `reasoning_content`."),
    ] = None
    tool_calls: Annotated[
        list[dict[str, Any]] | None,
        doc("Calls that an assistant made; given to the template as `tool_calls`, unchanged."),
    ] = None
    tool_call_id: Annotated[
        str | None, doc("The call that a tool answers; given to the template as `tool_call_id`.")
    ] = None


class ChatParams(Generation, kw_only=True, frozen=True):
    """Answer a conversation, rendered by the model's own chat template."""

    messages: Annotated[
        list[ChatMessage], doc("The conversation, oldest turn first.", min_length=1)
    ]
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

    content: Annotated[str, doc("Its text, without what ended it; may be empty.")]
    role: Annotated[Literal["assistant"], doc("As in a `ChatMessage`, to be sent back as one.")] = (
        "assistant"
    )


class ChatResult(Outcome, kw_only=True):
    """The model's turn and how it came about."""

    message: Annotated[AssistantMessage, doc("The turn that was generated.")]


class InfillParams(Generation, kw_only=True, frozen=True):
    """Fill the gap between two texts, for models with fill-in-the-middle tokens."""

    prefix: Annotated[str, doc("What stands before the gap; may be empty.")]
    suffix: Annotated[str, doc("What stands after the gap; may be empty.")]


class InfillResult(Outcome, kw_only=True):
    """The text for the gap."""

    text: Annotated[str, doc("Without prefix and suffix, and without what ended it.")]


class EmbedParams(Params, kw_only=True, frozen=True):
    """Vectors for texts. Not built: `unsupported`."""

    input: Annotated[list[str], doc("The texts, each of which gets one vector.", min_length=1)]
    model: Model = None
    pooling: Annotated[
        Literal["mean", "last", "cls"] | None,
        doc(
            "A text's vector: the mean of its tokens', the last one's, or the first one's (`cls`)."
        ),
    ] = None
    normalize: Annotated[bool | None, doc("Scale each vector to the length 1.")] = None


class EmbedUsage(Result, kw_only=True):
    """Tokens that went through the model."""

    prompt_tokens: Annotated[int, doc("Those of all inputs together.")]


class EmbedResult(Result, kw_only=True):
    """One vector for each input."""

    embeddings: Annotated[list[list[float]], doc("In the order of `input`, all of one length.")]
    usage: Annotated[EmbedUsage, doc("Tokens read.")]
