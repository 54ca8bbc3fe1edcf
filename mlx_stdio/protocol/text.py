"""`tokenize`, `detokenize` and `applyTemplate`: a tokenizer is enough, no weights are loaded."""

from __future__ import annotations

from typing import Annotated, Any

from mlx_stdio.protocol.base import CanonicalId, Model, Params, Result, TokenId, doc
from mlx_stdio.protocol.inference import ChatMessage


class TokenizeParams(Params, kw_only=True, frozen=True):
    """Text to token ids."""

    text: Annotated[
        str, doc("May be empty; a special token that is spelled out in it is read as that token.")
    ]
    model: Model = None
    add_special_tokens: Annotated[
        bool | None, doc("Add what the tokenizer puts around a text. Default false.")
    ] = None


class TokenizeResult(Result, kw_only=True):
    """Token ids."""

    model: CanonicalId
    tokens: Annotated[list[int], doc("In the order of the text.")]


class DetokenizeParams(Params, kw_only=True, frozen=True):
    """Token ids to text."""

    tokens: Annotated[list[TokenId], doc("Ids, each below the vocabulary's size; may be empty.")]
    model: Model = None
    skip_special_tokens: Annotated[
        bool | None, doc("Leave special tokens out of the text. Default false.")
    ] = None


class DetokenizeResult(Result, kw_only=True):
    """Text."""

    model: CanonicalId
    text: Annotated[str, doc("Of all ids together; bytes that are no UTF-8 come out as U+FFFD.")]


class ApplyTemplateParams(Params, kw_only=True, frozen=True):
    """What `chat` would send to the model."""

    messages: Annotated[
        list[ChatMessage], doc("The conversation, oldest turn first.", min_length=1)
    ]
    model: Model = None
    tools: Annotated[list[dict[str, Any]] | None, doc("Given to the template as `tools`.")] = None
    enable_thinking: Annotated[bool | None, doc("Given to the template as `enable_thinking`.")] = (
        None
    )
    template_args: Annotated[dict[str, Any] | None, doc("Further variables for the template.")] = (
        None
    )
    add_generation_prompt: Annotated[
        bool | None, doc("End with the opening of the assistant's turn. Default true.")
    ] = None


class ApplyTemplateResult(Result, kw_only=True):
    """The rendered prompt and its tokens."""

    model: CanonicalId
    prompt: Annotated[str, doc("The rendered text, special tokens spelled out.")]
    tokens: Annotated[
        list[int], doc("Its ids; the tokenizer adds nothing to what the template wrote.")
    ]
