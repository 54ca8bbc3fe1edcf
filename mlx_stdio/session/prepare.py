"""From typed parameters to a job: defaults, limits, and the refusal of what is not built.

Everything here happens before any work is done for a request.
"""

from __future__ import annotations

import os
from typing import Any, Final

from mlx_stdio.engine.job import Draft, Prompt, Rank
from mlx_stdio.engine.sampling import Sampling
from mlx_stdio.errors import EngineError, invalid_params
from mlx_stdio.models.card import Card
from mlx_stdio.protocol.generation import Generation
from mlx_stdio.protocol.inference import ChatMessage, ChatParams, GenerateParams, InfillParams
from mlx_stdio.protocol.methods import UNSUPPORTED_PARAMS
from mlx_stdio.protocol.models import LoadParams
from mlx_stdio.text.fim import infill_prompt
from mlx_stdio.text.model import TextModel
from mlx_stdio.text.stream import TextStream

DEFAULT_MAX_TOKENS: Final = 512
DEFAULT_DRAFT_TOKENS: Final = 4
DEFAULT_REPETITION_CONTEXT: Final = 20
_MOST_BORDERS: Final = 8
RANKS: Final[dict[str | None, Rank]] = {"interactive": 0, "normal": 1, None: 1, "background": 2}

_SAMPLING_FIELDS: Final = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "xtc_probability",
    "xtc_threshold",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
_SHAPING: Final = ("top_p", "top_k", "min_p", "xtc_probability")


def refuse_unbuilt(params: Generation | LoadParams) -> None:
    """Refuse features that are defined but not built, by name.

    Raises:
        EngineError: `unsupported`, with the parameter's path.
    """
    for name in UNSUPPORTED_PARAMS:
        field = _snake(name)
        value = getattr(params, field, None)
        if value is None or (name == "responseFormat" and value.type == "text"):
            continue
        raise EngineError("unsupported", f"`{name}` is not built in this version", path=f"$.{name}")


def sampling_of(params: Generation, card: Card) -> Sampling:
    """A request's sampling: its own values, else the model's, else greedy.

    A request that shapes the distribution (`topP`, `topK`, `minP`, `xtcProbability`) but gives no
    temperature, to a model that gives none either, is sampled at temperature 1: taking the most
    likely token would silently ignore what it asked for.

    Raises:
        EngineError: `invalidParams` for ids beyond the vocabulary.
    """
    own = {name: value for name in _SAMPLING_FIELDS if (value := getattr(params, name)) is not None}
    values = {**_model_sampling(card), **own}
    if "temperature" not in values and any(own.get(name) for name in _SHAPING):
        values["temperature"] = 1.0
    vocabulary = card.vocabulary_size
    if vocabulary is not None:
        # A model's own `top_k` beyond its vocabulary is its author's mistake; it means "all".
        if own.get("top_k", 0) >= vocabulary:
            raise invalid_params("$.topK", f"must be below the vocabulary ({vocabulary})")
        if values.get("top_k", 0) >= vocabulary:
            values["top_k"] = 0
        for name, ids in (("logitBias", params.logit_bias), ("stopTokens", params.stop_tokens)):
            if any(not 0 <= token < vocabulary for token in ids or ()):
                raise invalid_params(f"$.{name}", f"an id beyond the vocabulary ({vocabulary})")
    elif any(token < 0 for token in params.logit_bias or ()):
        raise invalid_params("$.logitBias", "a negative token id")
    return Sampling(
        **values,
        penalty_context=params.repetition_context or DEFAULT_REPETITION_CONTEXT,
        logit_bias=params.logit_bias or {},
        seed=int.from_bytes(os.urandom(4)) if params.seed is None else params.seed,
        logprobs=params.logprobs,
    )


def _model_sampling(card: Card) -> dict[str, Any]:
    """`generation_config.json` in our terms; without `do_sample` it means greedy decoding."""
    config = card.generation
    values: dict[str, Any] = {}
    if config.get("do_sample") is True:
        values["temperature"] = 1.0
        for name in ("temperature", "top_p", "min_p"):
            if isinstance(value := config.get(name), (int, float)):
                values[name] = float(value)
        if isinstance(top_k := config.get("top_k"), int):
            values["top_k"] = max(0, top_k)
    penalty = config.get("repetition_penalty")
    if isinstance(penalty, (int, float)) and penalty > 0:
        values["repetition_penalty"] = float(penalty)
    return values


def max_tokens_of(params: Generation, card: Card) -> int:
    """How many tokens a request wants.

    Raises:
        EngineError: `invalidParams` beyond the context.
    """
    if params.max_tokens is None:
        return DEFAULT_MAX_TOKENS
    if card.context_length is not None and params.max_tokens > card.context_length:
        raise invalid_params("$.maxTokens", f"beyond the context ({card.context_length} tokens)")
    return params.max_tokens


def draft_of(params: Generation, model_id: str | None) -> Draft | None:
    """How a request speculates, if it does.

    Args:
        model_id: the draft model that `draftModel` names, resolved.
    """
    if model_id is None and params.num_draft_tokens is None:
        return None
    return Draft(params.num_draft_tokens or DEFAULT_DRAFT_TOKENS, model_id)


def prompt_of(params: Generation, text: TextModel) -> Prompt:
    """Tokenize a request's prompt and check it against the model.

    Raises:
        EngineError: `invalidParams` for an empty prompt or an id beyond the vocabulary,
            `contextLengthExceeded`, `unsupported` where the model has no template or FIM tokens.
    """
    tokens, path, ends = _tokens(params, text)
    if not tokens:
        raise invalid_params(path, "an empty prompt")
    card = text.card
    if card.vocabulary_size is not None and max(tokens) >= card.vocabulary_size:
        raise invalid_params(path, f"a token id beyond the vocabulary ({card.vocabulary_size})")
    if card.context_length is not None and len(tokens) >= card.context_length:
        raise EngineError(
            "contextLengthExceeded",
            f"the prompt has {len(tokens)} tokens, the context {card.context_length}",
            promptTokens=len(tokens),
            contextLength=card.context_length,
        )
    stops = frozenset(params.stop_tokens or ())
    if not params.ignore_eos:
        stops |= text.eos_ids | ends
    stream = TextStream(text.tokenizer.detokenizer(), params.stop or ())
    borders: list[int] = []
    if isinstance(params, ChatParams):
        # In every template, a message ends with one of the tokens that end a text.
        borders = [at + 1 for at, token in enumerate(tokens) if token in text.eos_ids]
    # The first is that of a system prompt, which other conversations share.
    kept = borders[:1] + borders[1:][-_MOST_BORDERS:]
    return Prompt(tokens, stream, stops, tuple(kept))


def _tokens(params: Generation, text: TextModel) -> tuple[list[int], str, frozenset[int]]:
    """The prompt's ids, the path of what they came from, and tokens that end this kind of text."""
    if isinstance(params, GenerateParams):
        if isinstance(params.prompt, str):
            return text.encode_prompt(params.prompt), "$.prompt", frozenset()
        return params.prompt, "$.prompt", frozenset()
    if isinstance(params, InfillParams):
        tokens, ends = infill_prompt(text.tokenizer, params.prefix, params.suffix)
        return tokens, "$.prefix", ends
    assert isinstance(params, ChatParams)
    rendered = text.render(
        template_messages(params.messages),
        variables=template_variables(params.enable_thinking, params.template_args),
    )
    return text.tokenizer.encode(rendered, special=False), "$.messages", frozenset()


def template_messages(messages: list[ChatMessage]) -> list[dict[str, Any]]:
    """Messages as templates expect them: `transformers`' names, content as one string."""
    rendered: list[dict[str, Any]] = []
    for message in messages:
        content = message.content
        if isinstance(content, list):
            content = "".join(part.text for part in content)
        row: dict[str, Any] = {"role": message.role, "content": content or ""}
        optional = {
            "name": message.name,
            "reasoning_content": message.reasoning,
            "tool_calls": message.tool_calls,
            "tool_call_id": message.tool_call_id,
        }
        row.update({key: value for key, value in optional.items() if value is not None})
        rendered.append(row)
    return rendered


def template_variables(
    enable_thinking: bool | None, arguments: dict[str, Any] | None
) -> dict[str, Any]:
    """What a template gets beside the messages."""
    thinking = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
    return {**(arguments or {}), **thinking}


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name)
