"""`tokenize`, `detokenize` and `applyTemplate`: a tokenizer is enough, no weights are loaded."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from mlx_stdio.protocol.base import Model, Params, Result, TokenId, doc
from mlx_stdio.protocol.inference import ChatMessage


class TokenizeParams(Params, kw_only=True, frozen=True):
    """Text to token ids."""

    text: str
    model: Model = None
    add_special_tokens: Annotated[
        bool | None, doc("Add what the tokenizer puts around a text. Default false.")
    ] = None


class TokenizeResult(Result, kw_only=True):
    """Token ids."""

    model: str
    tokens: list[int]


class DetokenizeParams(Params, kw_only=True, frozen=True):
    """Token ids to text."""

    tokens: list[TokenId]
    model: Model = None
    skip_special_tokens: Annotated[
        bool | None, doc("Leave special tokens out of the text. Default false.")
    ] = None


class DetokenizeResult(Result, kw_only=True):
    """Text."""

    model: str
    text: str


class ApplyTemplateParams(Params, kw_only=True, frozen=True):
    """What `chat` would send to the model."""

    messages: Annotated[list[ChatMessage], msgspec.Meta(min_length=1)]
    model: Model = None
    tools: Annotated[list[dict[str, Any]] | None, doc("Given to the template as `tools`.")] = None
    enable_thinking: bool | None = None
    template_args: dict[str, Any] | None = None
    add_generation_prompt: Annotated[
        bool | None, doc("End with the opening of the assistant's turn. Default true.")
    ] = None


class ApplyTemplateResult(Result, kw_only=True):
    """The rendered prompt and its tokens."""

    model: str
    prompt: str
    tokens: list[int]
