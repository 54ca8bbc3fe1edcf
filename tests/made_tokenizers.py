"""Small tokenizers of every kind that model folders hold, made with `tokenizers` itself.

Vocabularies are trained on a few sentences; what is around them is set as the models that are named
beside them have it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = [
    "def add(a, b):\n    return a + b\n",
    "it's the quick brown fox, it jumps over 12 lazy dogs in 2024.",
    "We'll see: they've said I'm wrong; you'd better run! (really?)",
    "naïve café résumé, Straße, ﬁn, Ångström, i̇stanbul",
    "你好，世界。今天天气很好。 こんにちは 世界 안녕하세요 세계",
    "Привет, мир! مرحبا بالعالم नमस्ते दुनिया 🎉👩‍👩‍👧 ok\t\ttabs",
    "system user assistant tool end of turn",
] * 8
WORDS = ("<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>")
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

Make = Callable[[], Any]


@functools.cache
def _trained_bytes() -> str:
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=list(WORDS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return str(tokenizer.to_str())


def byte_level(
    *,
    pattern: str | None = LLAMA3,
    normalizer: Any = None,
    prefix_space: bool = False,
    around: Any = None,
    added: tuple[AddedToken, ...] = (),
) -> Any:
    """GPT-2 without a pattern; Llama 3, Qwen 2 and most others with one."""
    tokenizer: Any = Tokenizer.from_str(_trained_bytes())
    tokenizer.normalizer = normalizer
    if pattern is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=False),
            ]
        )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = around
    tokenizer.add_tokens(list(added))
    return tokenizer


@functools.cache
def _trained_pieces() -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=260, show_progress=False)
    tokenizer.train_from_iterator(CORPUS[:21], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    words = [*WORDS, *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    vocabulary = {word: at for at, word in enumerate(dict.fromkeys(words))}
    return vocabulary, [tuple(pair) for pair in model["merges"]]


def pieces(
    scheme: str = "prepend", *, around: Any = None, strip: bool = True, with_bytes: bool = True
) -> Any:
    """A converted SentencePiece BPE.

    Args:
        with_bytes: it has a word for each byte, so that there is nothing it does not know.
        scheme: `prepend` (Llama 2), `replace` (Gemma), or one of `Metaspace`'s.
    """
    vocabulary, merges = _trained_pieces()
    if not with_bytes:
        words = (word for word in vocabulary if not word.startswith("<0x"))
        vocabulary = {word: at for at, word in enumerate(words)}
    model: Any = models.BPE(
        vocab=vocabulary, merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"
    )
    tokenizer: Any = Tokenizer(model)
    replace = normalizers.Replace(" ", "▁")
    if scheme == "prepend":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace])
    elif scheme == "replace":
        tokenizer.normalizer = replace
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if strip:
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens(list(WORDS))
    tokenizer.post_processor = around
    return tokenizer


@functools.cache
def _trained_unigram() -> str:
    tokenizer: Any = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=260, unk_token="<unk>", special_tokens=list(WORDS), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return str(tokenizer.to_str())


def unigram(normalizer: Any = None, *, scheme: str = "always") -> Any:
    """T5, XLM-R: a probability for each word."""
    tokenizer: Any = Tokenizer.from_str(_trained_unigram())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    tokenizer.post_processor = wrapped(tokenizer, before=False)
    return tokenizer


def word_piece(*, lowercase: bool = True, strip_accents: bool | None = None) -> Any:
    """BERT."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer: Any = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strip_accents
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=words, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def word_level() -> Any:
    """Whole words only."""
    tokenizer: Any = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=list(WORDS), show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def wrapped(tokenizer: Any = None, *, before: bool = True, after: bool = True) -> Any:
    """A post-processor that puts `<s>` and `</s>` around a text."""
    ids = [
        (word, WORDS.index(word) if tokenizer is None else tokenizer.token_to_id(word))
        for word in ("<s>", "</s>")
    ]
    single = f"{'<s> ' if before else ''}$A{' </s>' if after else ''}"
    return processors.TemplateProcessing(single=single, pair=f"{single} $B", special_tokens=ids)
