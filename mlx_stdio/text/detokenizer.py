"""From tokens to text as they come, for any tokenizer."""

from __future__ import annotations

from typing import Protocol


class Detokenizer(Protocol):
    """Turns tokens into text as they come; never cuts a character."""

    def push(self, token: int) -> str:
        """The text that this token completes; may be empty."""

    def finish(self) -> str:
        """What was held back; an unfinished character becomes U+FFFD."""


class Decoder(Protocol):
    """What is needed of a tokenizer."""

    def decode(self, tokens: list[int], *, skip_special: bool) -> str:
        """Text of token ids; ids without a word are passed over."""


class WindowDetokenizer:
    """Incremental decoding for any tokenizer: decode a short window twice and take the difference.

    A decoder may treat the first token of a text differently (a leading space is stripped), so a
    few tokens that are already out stay in the window as context, and special tokens, which have
    no text, never enter it. Text that ends in U+FFFD may be half a character and waits; when too
    many tokens wait, their bytes are invalid, and all but the possible half at the end goes out.
    """

    _MOST_PENDING = 8

    def __init__(self, tokenizer: Decoder) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._known = 0  # tokens of the window whose text is out
        self._out = ""  # the text of those tokens, decoded alone

    def push(self, token: int) -> str:
        """See `Detokenizer`."""
        text = self._decode([*self._tokens, token])
        if self._known == len(self._tokens) and text == self._out and self._has_no_text(token):
            return ""
        self._tokens.append(token)
        if not text.endswith("\ufffd"):
            return self._release(text, len(self._tokens))
        pending = len(self._tokens) - self._known
        return self._release_settled(text) if pending >= self._MOST_PENDING else ""

    def finish(self) -> str:
        """See `Detokenizer`."""
        if self._known == len(self._tokens):
            return ""
        return self._release(self._decode(self._tokens), len(self._tokens))

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special=True)

    def _has_no_text(self, token: int) -> bool:
        # A space at the very beginning may have been stripped: it still counts for the next token.
        return self._out != "" or self._tokenizer.decode([token], skip_special=False) != ""

    def _release_settled(self, text: str) -> str:
        """Let invalid bytes go, up to a place where no character can be cut."""
        for end in range(self._known + 1, len(self._tokens)):
            if len(self._tokens) - end >= self._MOST_PENDING:
                continue
            head, tail = self._decode(self._tokens[:end]), self._decode(self._tokens[end:])
            if head + tail == text:
                return self._release(head, end)
        return ""

    def _release(self, text: str, end: int) -> str:
        """Let the text of the window's first `end` tokens go."""
        if text.startswith(self._out):
            piece = text[len(self._out) :]
        else:  # invalid bytes after these changed what is out: they can only be read alone
            piece = self._decode(self._tokens[self._known : end])
        # Keep the tokens of this piece as the next one's context.
        self._tokens = self._tokens[self._known :]
        self._known = end - self._known
        self._out = self._decode(self._tokens[: self._known])
        return piece
