"""`tokenize`, `detokenize` and `applyTemplate`: answered from the text side alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlx_stdio.errors import invalid_params
from mlx_stdio.protocol.text import (
    ApplyTemplateParams,
    ApplyTemplateResult,
    DetokenizeParams,
    DetokenizeResult,
    TokenizeParams,
    TokenizeResult,
)
from mlx_stdio.session.prepare import template_messages, template_variables
from mlx_stdio.text.model import TextModel


def tokenize(params: TokenizeParams, text: TextModel) -> TokenizeResult:
    """Text to token ids."""
    tokens = text.tokenizer.encode(params.text, special=bool(params.add_special_tokens))
    return TokenizeResult(model=text.card.id, tokens=tokens)


def detokenize(params: DetokenizeParams, text: TextModel) -> DetokenizeResult:
    """Token ids to text.

    Raises:
        EngineError: `invalidParams` for an id beyond the vocabulary.
    """
    vocabulary = text.card.vocabulary_size
    # Ids that do not fit 32 bits overflow inside the tokenizer, whatever the vocabulary.
    limit = vocabulary if vocabulary is not None else 2**32
    if any(token >= limit for token in params.tokens):
        raise invalid_params("$.tokens", f"a token id beyond the vocabulary ({limit})")
    skip = bool(params.skip_special_tokens)
    decoded = text.tokenizer.decode(params.tokens, skip_special=skip)
    return DetokenizeResult(model=text.card.id, text=decoded)


def apply_template(params: ApplyTemplateParams, text: TextModel) -> ApplyTemplateResult:
    """What `chat` would send to the model."""
    prompt = text.render(
        template_messages(params.messages),
        tools=params.tools,
        add_generation_prompt=params.add_generation_prompt is not False,
        variables=template_variables(params.enable_thinking, params.template_args),
    )
    return ApplyTemplateResult(
        model=text.card.id, prompt=prompt, tokens=text.tokenizer.encode(prompt, special=False)
    )


TEXT_METHODS: dict[str, Callable[[Any, TextModel], Any]] = {
    "tokenize": tokenize,
    "detokenize": detokenize,
    "applyTemplate": apply_template,
}
"""By method: what takes its params and the model's text side, and gives the result."""
