"""The vocabulary of the bench's own models: words that are one token each.

A word is a space and two or three syllables of a consonant and a vowel. Merges exist only inside
syllables and from left to right, so a text of n words is n tokens, whatever word stands beside it;
and a generated text, put into the next prompt, becomes the tokens that it came from. Every word is
printable ASCII: no detokenizer has to wait for the rest of a character.
"""

from __future__ import annotations

import random
from itertools import islice, product
from typing import Any

SPECIAL = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
END = 0
"""The id that ends a text. The models' weights never let it win."""

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

_CONSONANTS = "bcdfghjklmnprstvwxyz"
_VOWELS = "aeiou"
_SPACE = "\u0120"  # how a byte-level vocabulary writes a space
_SYLLABLES = ["".join(pair) for pair in product(_CONSONANTS, _VOWELS)]
FIRST_WORD = len(SPECIAL) + 1 + len(_CONSONANTS) + len(_VOWELS) + 2 * len(_SYLLABLES)
"""Ids below it are special tokens, letters and syllables; all others are words."""


def word_list(vocabulary: int) -> list[str]:
    """The words of a vocabulary of that size, without their space, in the order of their ids."""
    pairs = ("".join(word) for word in product(_SYLLABLES, repeat=2))
    triples = ("".join(word) for word in product(_SYLLABLES, repeat=3))
    count = vocabulary - FIRST_WORD
    words = list(islice(pairs, count))
    return words + list(islice(triples, count - len(words)))


def text(words: list[str], tokens: int, *seed: object) -> str:
    """A text of exactly so many tokens; the same seed gives the same text."""
    draw = random.Random(repr(seed))
    return "".join(" " + word for word in draw.choices(words, k=tokens))


def tokenizer_json(vocabulary: int) -> dict[str, Any]:
    """`tokenizer.json`: a byte-level BPE of these words."""
    words = word_list(vocabulary)
    tokens = [
        *SPECIAL,
        _SPACE,
        *_CONSONANTS,
        *_VOWELS,
        *_SYLLABLES,
        *(_SPACE + syllable for syllable in _SYLLABLES),
        *(_SPACE + word for word in words),
    ]
    merges = [list(syllable) for syllable in _SYLLABLES]
    merges += [[_SPACE, syllable] for syllable in _SYLLABLES]
    merges += [[_SPACE + word[:-2], word[-2:]] for word in words]
    special = [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for index, token in enumerate(SPECIAL)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "use_regex": True},
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "unk_token": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": merges,
        },
    }
