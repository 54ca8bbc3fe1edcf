"""The fake models' text: a token is a character, and the answer to a text is the text."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mlx_stdio.models.card import Card
from mlx_stdio.text.detokenizer import Detokenizer, WindowDetokenizer
from mlx_stdio.text.model import TextModel
from mlx_stdio.text.template import ChatTemplate
from mlx_stdio.text.tokenizer import Kind

_UNICODE: Final = 0x110000
_SPECIAL: Final = ("<|endoftext|>", "<fim_prefix>", "<fim_suffix>", "<fim_middle>")
END: Final = _UNICODE
"""The token that ends a text; the other special ones come after it."""

_TEMPLATE: Final = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}<|endoftext|>\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


class CharacterTokenizer:
    """Code points as token ids; see `Tokenizer`."""

    kind: Kind = "tokenizers"
    reason: str | None = None

    def __init__(self) -> None:
        self.special_texts = {"eos_token": _SPECIAL[0]}

    def encode(self, text: str, *, special: bool) -> list[int]:  # noqa: ARG002 - it adds none
        """The characters, and special tokens where their text stands."""
        tokens: list[int] = []
        at = 0
        while at < len(text):
            found = [word for word in _SPECIAL if text.startswith(word, at)]
            tokens.append(_UNICODE + _SPECIAL.index(found[0]) if found else ord(text[at]))
            at += len(found[0]) if found else 1
        return tokens

    def decode(self, tokens: list[int], *, skip_special: bool) -> str:
        """The characters; half a surrogate pair is none."""
        return "".join(_word(token, skip_special=skip_special) for token in tokens)

    def token_id(self, word: str) -> int | None:
        """See `Tokenizer`."""
        if word in _SPECIAL:
            return _UNICODE + _SPECIAL.index(word)
        return ord(word) if len(word) == 1 else None

    def detokenizer(self) -> Detokenizer:
        """See `Tokenizer`."""
        return WindowDetokenizer(self)


def _word(token: int, *, skip_special: bool) -> str:
    if token >= _UNICODE:
        return "" if skip_special else _SPECIAL[token - _UNICODE]
    return "\ufffd" if 0xD800 <= token < 0xE000 else chr(token)


def text_model(model_id: str, context_length: int) -> TextModel:
    """The text side of a fake model, which has a chat template and can fill gaps."""
    card = Card(
        id=model_id,
        path=Path(model_id),
        model_type="fake",
        context_length=context_length,
        vocabulary_size=_UNICODE + len(_SPECIAL),
        eos_ids=frozenset({END}),
        disk_bytes=1 << 20,
    )
    tokenizer = CharacterTokenizer()
    return TextModel(card, tokenizer, ChatTemplate(_TEMPLATE, tokenizer.special_texts))


def answer_to(prompt: list[int], ends: frozenset[int]) -> list[int]:
    """What the echo says to a prompt, without its end: the text, or a conversation's last message.

    By the tokens alone, so that `chat` says what `generate` says to the rendered messages. How a
    folder's template marks a turn nobody knows here, so its whole prompt is said.

    Args:
        ends: the tokens that end a text of this model.
    """
    if END not in ends:
        return [token for token in prompt if token not in ends]
    at_end = [at for at, token in enumerate(prompt) if token == END]
    if at_end:
        turn = prompt[at_end[-2] + 1 if len(at_end) > 1 else 0 : at_end[-1]]
        role = [at for at, token in enumerate(turn) if token == ord(":")]
        prompt = turn[role[0] + 2 :] if role else turn
    return [token for token in prompt if token < _UNICODE]
