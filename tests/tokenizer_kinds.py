"""Folders of tokenizers: which files they have, and what is expected of each."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, normalizers, processors

from tests.made_tokenizers import (
    Make,
    byte_level,
    pieces,
    unigram,
    word_level,
    word_piece,
    wrapped,
)

NAMES: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
PLAIN: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **NAMES}


@dataclass(frozen=True)
class Folder:
    """What one folder holds.

    Attributes:
        config: its `tokenizer_config.json`; None for none.
        files: further files, by name.
        lean: whether it is loaded without `transformers`.
    """

    make: Make
    config: dict[str, Any] | None = field(default_factory=lambda: PLAIN)
    model_type: str = "llama"
    files: dict[str, Any] = field(default_factory=dict)
    lean: bool = True

    def write(self, folder: Path) -> Path:
        """Make it."""
        folder.mkdir()
        self.make().save(str(folder / "tokenizer.json"))
        files = {"config.json": {"model_type": self.model_type}, **self.files}
        if self.config is not None:
            files["tokenizer_config.json"] = self.config
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        return folder


def named(name: str, **members: Any) -> dict[str, Any]:
    """A `tokenizer_config.json` that names a class."""
    return {"tokenizer_class": name, **NAMES, **members}


def flagged(content: str, **flags: bool) -> dict[str, Any]:
    """An entry of `added_tokens_decoder`, in full."""
    names = ("lstrip", "normalized", "rstrip", "single_word", "special")
    return {"content": content, **dict.fromkeys(names, False), **flags}


FLAGS = (
    AddedToken("<left>", lstrip=True),
    AddedToken("<right>", rstrip=True),
    AddedToken("<both>", lstrip=True, rstrip=True, special=True),
    AddedToken("word", single_word=True),
    AddedToken("Ångström", normalized=True),
    AddedToken("ﬁn", normalized=False),
)
SOME = {
    "0": flagged("<unk>", special=True),
    "1": flagged("<s>", special=True),
    "2": flagged("</s>", special=True),
    "4": flagged("<|im_start|>", special=True, rstrip=True),
    "5": flagged("<|im_end|>", normalized=True),
    "900": flagged("<late>", lstrip=True),
    "901": flagged("<later>", special=True),
}
BYTES = processors.ByteLevel(trim_offsets=False)
NFKC = normalizers.NFKC()


def other_flags(make: Make) -> Make:
    """The same file with each switch of its vocabulary the other way round."""

    def made() -> Any:
        tokenizer = make()
        model = tokenizer.model
        for name in ("fuse_unk", "byte_fallback", "ignore_merges"):
            setattr(model, name, not getattr(model, name))
        return tokenizer

    return made


QWEN = partial(byte_level, normalizer=normalizers.NFC())
GPT2 = partial(byte_level, pattern=None)
LLAMA2 = partial(pieces, around=wrapped(after=False))

FOLDERS: dict[str, Folder] = {
    # Taken as they stand.
    "llama3": Folder(partial(byte_level, around=processors.Sequence([BYTES, wrapped()]))),
    "tokenizers_backend": Folder(byte_level, named("TokenizersBackend"), "qwen3"),
    "only_json": Folder(byte_level, None),
    "byte_prefix_space": Folder(partial(byte_level, prefix_space=True)),
    "byte_nfkc": Folder(partial(byte_level, normalizer=NFKC)),
    "byte_lowercase": Folder(partial(byte_level, normalizer=normalizers.Lowercase())),
    "flags": Folder(partial(byte_level, added=FLAGS)),
    "flags_nfkc": Folder(partial(byte_level, added=FLAGS, normalizer=NFKC)),
    "flags_lowercase": Folder(partial(byte_level, added=FLAGS, normalizer=normalizers.Lowercase())),
    "pieces_prepend": Folder(LLAMA2),
    "pieces_first": Folder(partial(pieces, "first")),
    "pieces_always": Folder(partial(pieces, "always")),
    "pieces_never": Folder(partial(pieces, "never", strip=False)),
    "unigram": Folder(unigram),
    "unigram_nfkc": Folder(partial(unigram, NFKC, scheme="first")),
    "unigram_never": Folder(partial(unigram, scheme="never")),
    "word_piece": Folder(word_piece),
    "word_piece_cased": Folder(partial(word_piece, lowercase=False, strip_accents=True)),
    "word_level": Folder(word_level),
    "llama3_named_llama": Folder(byte_level, named("LlamaTokenizerFast")),
    "mistral_named_llama": Folder(LLAMA2, named("LlamaTokenizer", legacy=False), "mistral"),
    "phi3_named_llama": Folder(LLAMA2, named("LlamaTokenizerFast"), "phi3"),
    "unknown_type": Folder(byte_level, PLAIN, "no_such_type"),
    # Small files that add to it.
    "config_adds": Folder(byte_level, {**PLAIN, "added_tokens_decoder": SOME}),
    "config_adds_nothing": Folder(byte_level, {**PLAIN, "added_tokens_decoder": {}}),
    "config_adds_pieces": Folder(LLAMA2, {**PLAIN, "added_tokens_decoder": SOME}),
    "config_bos_eos": Folder(byte_level, {**PLAIN, "add_bos_token": True, "add_eos_token": True}),
    "config_bos_off": Folder(LLAMA2, {**PLAIN, "add_bos_token": False}),
    "config_cleans": Folder(word_piece, {**PLAIN, "clean_up_tokenization_spaces": True}),
    "config_new_names": Folder(
        byte_level, {**PLAIN, "pad_token": "<new pad>", "image_token": "<image>"}
    ),
    "config_typed": Folder(
        byte_level,
        {**PLAIN, "eos_token": {"__type": "AddedToken", **flagged("<|end|>", lstrip=True)}},
    ),
    "config_null": Folder(byte_level, {**PLAIN, "bos_token": None}),
    "config_extra": Folder(byte_level, {**PLAIN, "extra_special_tokens": ["<x>", "<|im_end|>"]}),
    "config_extra_named": Folder(
        byte_level, {**PLAIN, "extra_special_tokens": {"video_token": "<video>"}}
    ),
    "config_additional": Folder(
        byte_level, {**PLAIN, "additional_special_tokens": ["<a>", "quick"]}
    ),
    "config_both_extra": Folder(
        byte_level,
        {**PLAIN, "extra_special_tokens": {}, "additional_special_tokens": ["<a>", "<b>"]},
    ),
    "config_splits": Folder(byte_level, {**PLAIN, "split_special_tokens": True}),
    "map": Folder(
        byte_level,
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<other>"},
        files={
            "special_tokens_map.json": {
                "bos_token": "<s>",
                "eos_token": {"content": "<|im_end|>", "lstrip": False, "normalized": False},
                "additional_special_tokens": ["<m>", "<n>"],
                "audio_token": "<audio>",
            },
            "added_tokens.json": {"<m>": 950, "<plain>": 951},
        },
    ),
    "map_unread": Folder(
        byte_level,
        {**PLAIN, "added_tokens_decoder": SOME},
        files={"special_tokens_map.json": {"bos_token": "<|im_end|>", "pad_token": "<nopad>"}},
    ),
    "map_extra": Folder(
        byte_level,
        {**PLAIN, "extra_special_tokens": ["<x>"]},
        files={
            "special_tokens_map.json": {
                "extra_special_tokens": ["<x>", {"content": "<y>", "lstrip": True}]
            }
        },
    ),
    # Classes that build their own around the vocabulary.
    "gpt2": Folder(GPT2, named("GPT2Tokenizer"), "gpt2"),
    "gpt2_rewritten": Folder(QWEN, named("GPT2TokenizerFast", add_prefix_space=True), "starcoder2"),
    "gpt2_bare": Folder(GPT2, {"tokenizer_class": "GPT2Tokenizer"}, "gpt2"),
    "codegen": Folder(GPT2, named("CodeGenTokenizer", added_tokens_decoder=SOME), "phi"),
    "neox": Folder(
        partial(GPT2, around=wrapped()), {"tokenizer_class": "GPTNeoXTokenizer"}, "gpt_neox"
    ),
    "cohere": Folder(
        partial(QWEN, around=wrapped()),
        {"tokenizer_class": "CohereTokenizer", "added_tokens_decoder": SOME},
        "cohere",
    ),
    "cohere_flags": Folder(
        QWEN,
        named("CohereTokenizer", cls_token="<|im_start|>", added_tokens_decoder=SOME),
        "cohere",
    ),
    "cohere_map": Folder(
        QWEN,
        named("CohereTokenizerFast", extra_special_tokens=["<x>"], add_prefix_space=True),
        "cohere2",
    ),
    "qwen2": Folder(QWEN, named("Qwen2Tokenizer", added_tokens_decoder=SOME), "qwen2"),
    "qwen2_without_config": Folder(QWEN, None, "qwen2"),
    "qwen2_misnamed": Folder(byte_level, named("LlamaTokenizerFast", pad_token="</s>"), "qwen2"),
    "qwen3": Folder(
        QWEN,
        named(
            "Qwen2Tokenizer",
            bos_token=None,
            pad_token="<pad>",
            additional_special_tokens=["<|im_start|>", "<|im_end|>"],
            added_tokens_decoder=SOME,
            add_prefix_space=False,
        ),
        "qwen3",
    ),
    "qwen3_plain": Folder(QWEN, PLAIN, "qwen3"),
    "qwen3_5": Folder(QWEN, named("Qwen2Tokenizer"), "qwen3_5"),
    "llama2": Folder(LLAMA2, named("LlamaTokenizer", legacy=False)),
    "llama2_legacy": Folder(
        LLAMA2, named("LlamaTokenizerFast", legacy=True, added_tokens_decoder=SOME)
    ),
    "llama2_unset": Folder(
        LLAMA2, {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": None, "legacy": None}
    ),
    "llama2_no_space": Folder(LLAMA2, named("LlamaTokenizer", add_prefix_space=False)),
    "llama2_from_model": Folder(
        LLAMA2,
        NAMES,
        files={"config.json": {"model_type": "llama", "tokenizer_class": "LlamaTokenizer"}},
    ),
    "gemma": Folder(
        partial(pieces, "replace", strip=False, around=wrapped(after=False)),
        named("GemmaTokenizer", pad_token="<pad>"),
        "gemma2",
    ),
    "llama2_without_bytes": Folder(partial(pieces, with_bytes=False), named("LlamaTokenizer")),
    "gemma_without_bytes": Folder(
        partial(pieces, "replace", with_bytes=False), named("GemmaTokenizer"), "gemma"
    ),
    "llama3_flags": Folder(other_flags(byte_level)),
    "qwen_flags": Folder(other_flags(QWEN), named("Qwen2Tokenizer"), "qwen2"),
    "llama2_flags": Folder(other_flags(LLAMA2), named("LlamaTokenizer")),
    "llama2_other_flags": Folder(
        other_flags(partial(pieces, with_bytes=False)), named("LlamaTokenizer")
    ),
    "gemma_bare": Folder(LLAMA2, {"tokenizer_class": "GemmaTokenizerFast"}, "gemma3_text"),
    # Those for which `transformers` is asked.
    "bert": Folder(word_piece, {"tokenizer_class": "BertTokenizer"}, lean=False),
    "t5": Folder(unigram, {"tokenizer_class": "T5Tokenizer"}, lean=False),
    "code_llama": Folder(LLAMA2, named("CodeLlamaTokenizer"), lean=False),
    "no_such_class": Folder(byte_level, named("NoSuchTokenizer"), lean=False),
    "unknown_type_bare": Folder(byte_level, None, "no_such_type", lean=False),
    "llama_of_words": Folder(unigram, named("LlamaTokenizer"), lean=False),
    "gpt2_of_words": Folder(word_level, named("GPT2Tokenizer"), "gpt2", lean=False),
    "mistral_pattern": Folder(byte_level, {**PLAIN, "fix_mistral_regex": True}, lean=False),
}
