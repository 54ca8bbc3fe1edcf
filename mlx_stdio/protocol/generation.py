"""Parameters that all generating methods share, and the outcome that they share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from mlx_stdio.protocol.base import CanonicalId, Model, Params, Result, TokenId, doc

Priority = Literal["interactive", "normal", "background"]
FinishReason = Literal["stop", "length", "toolCalls"]


class ResponseFormat(Params, kw_only=True, frozen=True):
    """The form that the text must have."""

    type: Annotated[
        Literal["text", "json", "jsonSchema", "regex", "lark"],
        doc("Only `text` is built; the others answer `unsupported`."),
    ]
    schema: Annotated[dict[str, Any] | None, doc("With `jsonSchema`: the JSON Schema.")] = None
    pattern: Annotated[str | None, doc("With `regex`: the regular expression.")] = None
    grammar: Annotated[str | None, doc("With `lark`: the grammar, in Lark's notation.")] = None


class Generation(Params, kw_only=True, frozen=True):
    """How to generate. Sampling defaults come from the model's `generation_config.json`."""

    model: Model = None
    max_tokens: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None,
        doc("Most tokens to generate, at most the model's context. Default 512."),
    ] = None
    temperature: Annotated[
        Annotated[float, msgspec.Meta(ge=0.0, le=100.0)] | None,
        doc("0 takes the most likely token; above, logits are divided by it before sampling."),
    ] = None
    top_p: Annotated[
        Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] | None,
        doc("Sample from the smallest set of tokens with this mass; 0 and 1 switch it off."),
    ] = None
    top_k: Annotated[
        Annotated[int, msgspec.Meta(ge=0)] | None,
        doc("Sample from the k likeliest tokens, below the vocabulary's size; 0 switches it off."),
    ] = None
    min_p: Annotated[
        Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] | None,
        doc("Drop tokens under this share of the likeliest one's probability."),
    ] = None
    xtc_probability: Annotated[
        Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] | None,
        doc("Chance, at each token, of dropping all likely tokens but the least likely of them."),
    ] = None
    xtc_threshold: Annotated[
        Annotated[float, msgspec.Meta(ge=0.0, le=0.5)] | None,
        doc("Probability from which a token counts as likely for `xtcProbability`. Default 0.1."),
    ] = None
    repetition_penalty: Annotated[
        Annotated[float, msgspec.Meta(gt=0.0, le=100.0)] | None,
        doc("Divides positive and multiplies negative logits of recent tokens; 1 is off."),
    ] = None
    repetition_context: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None,
        doc("How many of the latest tokens, prompt included, the penalties look at. Default 20."),
    ] = None
    presence_penalty: Annotated[
        Annotated[float, msgspec.Meta(ge=-100.0, le=100.0)] | None,
        doc("Subtracted once from the logits of recent tokens."),
    ] = None
    frequency_penalty: Annotated[
        Annotated[float, msgspec.Meta(ge=-100.0, le=100.0)] | None,
        doc("Subtracted from the logits of recent tokens, once for each time they occur."),
    ] = None
    logit_bias: Annotated[
        dict[int, Annotated[float, msgspec.Meta(ge=-1e4, le=1e4)]] | None,
        doc("Token id, as a string, to what is added to its logit."),
    ] = None
    seed: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)] | None,
        doc("Same seed, same text, alone or beside other requests. Default: a fresh one."),
    ] = None
    stop: Annotated[
        Annotated[list[Annotated[str, msgspec.Meta(min_length=1)]], msgspec.Meta(max_length=64)]
        | None,
        doc("Strings that end the text; they are not part of it, also when tokens split them."),
    ] = None
    stop_tokens: Annotated[
        list[TokenId] | None, doc("Token ids that end the text, beside the model's own.")
    ] = None
    ignore_eos: Annotated[bool | None, doc("Go on past the model's end tokens.")] = None
    logprobs: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=64)] | None,
        doc("Log probabilities of each token and of this many likeliest ones, before sampling."),
    ] = None
    stream: Annotated[bool | None, doc("Send `stream/delta` notifications. Default true.")] = None
    stream_token: Annotated[
        str | int | None, doc("Chosen by the client; echoed in each notification.")
    ] = None
    priority: Annotated[
        Priority | None,
        doc(
            "Order of admission and of reading prompts; `interactive` takes a place from "
            "`background` where none is free. Default `normal`."
        ),
    ] = None
    timeout_ms: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None,
        doc("After so long the request ends with `deadlineExceeded`, whatever its phase."),
    ] = None
    response_format: Annotated[ResponseFormat | None, doc("The form of the text.")] = None
    adapter: Annotated[str | None, doc("A LoRA adapter. Not built: `unsupported`.")] = None
    draft_model: Annotated[
        Annotated[str, msgspec.Meta(min_length=1)] | None,
        doc(
            "Speculative decoding: this model proposes tokens, `model` decides; the text is the "
            "one without it. Both need the same vocabulary, and caches that can be trimmed."
        ),
    ] = None
    num_draft_tokens: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=64)] | None,
        doc(
            "Tokens proposed at once, 4 with a `draftModel`; without one, they are looked up in "
            "the request's own text."
        ),
    ] = None
    kv_bits: Annotated[
        Annotated[int, msgspec.Meta(ge=2, le=8)] | None,
        doc("Bits of a quantised KV cache: 2, 4 or 8."),
    ] = None
    max_kv_size: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None,
        doc("Most tokens that the KV cache holds: the first 4 and the latest ones. Above 4."),
    ] = None
    cache_prompt: Annotated[
        bool | None,
        doc("Use the KV of earlier prompts, and keep this one's for later ones. Default true."),
    ] = None


class TopLogprob(Result, kw_only=True):
    """One candidate of a position."""

    token: Annotated[int, doc("The candidate's id.")]
    logprob: Annotated[float, doc("Its log probability.")]


class TokenLogprobs(Result, kw_only=True):
    """Log probabilities (natural logarithm) at one position; -9999 stands for minus infinity."""

    token: Annotated[int, doc("Id of the token that was taken.")]
    logprob: Annotated[float, doc("Its log probability.")]
    top: Annotated[
        list[TopLogprob], doc("As many of the likeliest tokens as were asked for, likeliest first.")
    ]


class Usage(Result, kw_only=True, omit_defaults=False):
    """Tokens that went through the model."""

    prompt_tokens: Annotated[int, doc("The whole prompt's, template and BOS included.")]
    completion_tokens: Annotated[int, doc("Generated, the end token and a stop string's included.")]
    cached_tokens: Annotated[int, doc("Of the prompt's: not read, the prefix cache had them.")] = 0
    drafted_tokens: Annotated[int, doc("Proposed by speculative decoding.")] = 0
    accepted_tokens: Annotated[int, doc("Of those: taken, because they were right.")] = 0


class Timings(Result, kw_only=True, omit_defaults=False):
    """Where the time went, in milliseconds from the arrival of the request."""

    queue_ms: Annotated[float, doc("Waiting for a place.")]
    load_ms: Annotated[float, doc("Loading the model; 0 when it was resident.")]
    prefill_ms: Annotated[float, doc("Reading the prompt.")]
    first_token_ms: Annotated[float | None, doc("Until the first token; null without one.")]
    total_ms: Annotated[float, doc("Until the reply.")]
    tokens_per_second: Annotated[
        float | None, doc("Decode rate after the first token; null below two tokens.")
    ]


class Outcome(Result, kw_only=True):
    """What every generating method's result has beside its text."""

    model: CanonicalId
    finish_reason: Annotated[
        FinishReason,
        doc(
            "`stop`: an end token, one of `stopTokens` or a `stop` string; `length`: `maxTokens` "
            "or the context's end; `toolCalls` is kept for later."
        ),
    ]
    usage: Annotated[Usage, doc("Tokens read and generated.")]
    timings: Annotated[Timings, doc("Where the time went.")]
    seed: Annotated[
        int,
        doc(
            "The one in use, drawn by the engine if none was given; given again, it gives the "
            "same text."
        ),
    ]
    logprobs: Annotated[
        list[TokenLogprobs] | None,
        doc("One for each token generated, the end token too; only if `logprobs` was given."),
    ] = None
