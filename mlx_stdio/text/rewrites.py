"""What the common tokenizer classes of `transformers` build around a folder's vocabulary.

These classes take the words and merges of a `tokenizer.json`, and its post-processor, and leave
the rest of it: normaliser, pre-tokeniser and decoder are their own. So a folder that was converted
from another model may be read otherwise than its file says, and a model was served so wherever it
was used through `transformers`; here the same is built from the same parts.

Source: `transformers/models/*/tokenization_*.py`, 5.24; `tests/test_tokenizers.py` compares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from mlx_stdio.text.special import SpecialTokens, added_token

if TYPE_CHECKING:
    from tokenizers import Tokenizer as FastTokenizer

_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN3_5 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_END = "<|endoftext|>"
_PADDING = "<|padding|>"


class Rewrite(msgspec.Struct, frozen=True):
    """One class.

    Attributes:
        build: sets the parts around the vocabulary, from the folder's `tokenizer_config.json`.
        defaults: its special tokens where the folder names none.
        pieces: a SentencePiece vocabulary: bytes for what has no word.
        unknown: what has not even bytes becomes the unknown token, instead of nothing.
        finish: what it does when all tokens are added.
    """

    build: Callable[[Any, dict[str, Any]], None]
    defaults: dict[str, str | None]
    pieces: bool = False
    unknown: bool = False
    finish: Callable[[Any, SpecialTokens], None] | None = None


def rewrite(
    name: str, inner: FastTokenizer, config: dict[str, Any], tokens: SpecialTokens
) -> FastTokenizer | None:
    """The tokenizer that a class makes of a file's vocabulary.

    Args:
        name: a key of `REWRITES`.
        inner: the file as it stands; its vocabulary is taken over, not copied.

    Returns:
        None for a vocabulary that the class was not made for; what comes of it is not imitated.
    """
    from tokenizers import Tokenizer as FastTokenizer
    from tokenizers.models import BPE

    model: Any = inner.model
    if not isinstance(model, BPE) or model.continuing_subword_prefix or model.end_of_word_suffix:
        return None
    chosen = REWRITES[name]
    unknown = tokens.named.get("unk_token") if chosen.unknown else None
    model.unk_token = unknown["content"] if unknown else None
    model.dropout = None
    model.ignore_merges = False
    model.fuse_unk = model.byte_fallback = chosen.pieces
    made = FastTokenizer(model)
    chosen.build(made, config)
    if inner.post_processor is not None:
        made.post_processor = inner.post_processor
    tokens.add_to(made)
    if chosen.finish is not None:
        chosen.finish(made, tokens)
    return made


def _byte_level(inner: Any, config: dict[str, Any]) -> None:
    """GPT-2, CodeGen."""
    from tokenizers import decoders, pre_tokenizers

    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=_prefix_space(config))
    inner.decoder = decoders.ByteLevel()


def _neox(inner: Any, config: dict[str, Any]) -> None:
    from tokenizers import normalizers

    _byte_level(inner, config)
    inner.normalizer = normalizers.NFC()


def _cohere(inner: Any, config: dict[str, Any]) -> None:
    from tokenizers import pre_tokenizers

    _neox(inner, config)
    digits = pre_tokenizers.Digits(individual_digits=True)
    inner.pre_tokenizer = pre_tokenizers.Sequence([digits, inner.pre_tokenizer])


def _qwen(pattern: str) -> Callable[[Any, dict[str, Any]], None]:
    def build(inner: Any, config: dict[str, Any]) -> None:
        from tokenizers import Regex, decoders, normalizers, pre_tokenizers

        inner.decoder = decoders.ByteLevel()
        inner.normalizer = normalizers.NFC()
        space = _prefix_space(config)
        inner.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=False),
            ]
        )

    return build


def _llama(inner: Any, config: dict[str, Any]) -> None:
    from tokenizers import decoders, pre_tokenizers

    space = config.get("add_prefix_space")
    space = True if space is None else bool(space)
    # The older way puts a space after every special token too.
    scheme = ("always" if config.get("legacy") else "first") if space else "never"
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if space:
        steps.append(decoders.Strip(content=" ", left=1))
    inner.decoder = decoders.Sequence(steps)


def _gemma(inner: Any, config: dict[str, Any]) -> None:  # noqa: ARG001 - as the others
    from tokenizers import decoders, normalizers, pre_tokenizers

    inner.normalizer = normalizers.Replace(" ", "▁")
    inner.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )


def _drop_post_processor(inner: Any, _tokens: SpecialTokens) -> None:
    """GPT-NeoX forgets the file's, and whether it adds tokens, too."""
    from tokenizers import processors

    inner.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B")


def _add_plain(inner: Any, tokens: SpecialTokens) -> None:
    """Qwen adds its special tokens once more, without the flags that the files give them."""
    texts = [token["content"] for token in (*tokens.named.values(), *tokens.extra)]
    inner.add_tokens([added_token({"content": text, "special": True}) for text in texts])


def _add_special(inner: Any, tokens: SpecialTokens) -> None:
    """Cohere adds them once more as special ones, whatever the files say."""
    every = (*tokens.named.values(), *tokens.extra)
    inner.add_special_tokens([added_token(token) for token in every])


def _prefix_space(config: dict[str, Any]) -> bool:
    return bool(config.get("add_prefix_space"))


def _ends(**further: str | None) -> dict[str, str | None]:
    return {"unk_token": _END, "bos_token": _END, "eos_token": _END, **further}


REWRITES: Final = {
    "GPT2Tokenizer": Rewrite(_byte_level, _ends(pad_token=None)),
    "CodeGenTokenizer": Rewrite(_byte_level, _ends(pad_token=None)),
    "GPTNeoXTokenizer": Rewrite(_neox, _ends(pad_token=_PADDING), finish=_drop_post_processor),
    "CohereTokenizer": Rewrite(
        _cohere,
        {
            "unk_token": "<UNK>",
            "bos_token": "<BOS_TOKEN>",
            "eos_token": "<|END_OF_TURN_TOKEN|>",
            "pad_token": "<PAD>",
            "cls_token": "<CLS>",
            "sep_token": "<SEP>",
            "mask_token": "<MASK_TOKEN>",
        },
        finish=_add_special,
    ),
    "Qwen2Tokenizer": Rewrite(
        _qwen(_QWEN), _ends(bos_token=None, pad_token=_END), finish=_add_plain
    ),
    "Qwen3_5Tokenizer": Rewrite(_qwen(_QWEN3_5), _ends(bos_token=None, pad_token=_END)),
    "LlamaTokenizer": Rewrite(
        _llama, {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}, pieces=True
    ),
    "GemmaTokenizer": Rewrite(
        _gemma,
        {
            "unk_token": "<unk>",
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "mask_token": "<mask>",
        },
        pieces=True,
        unknown=True,
    ),
}
"""The classes that are imitated. For folders of all others, `transformers` is asked."""
