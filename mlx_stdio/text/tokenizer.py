"""A model folder's tokenizer, behind one small interface.

The common path is `tokenizers` on the folder's `tokenizer.json`. Folders without one
(SentencePiece, tiktoken, remote code) go through `transformers`, imported only then.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mlx_stdio.errors import EngineError
from mlx_stdio.models.lean import IMPORT_LOCK

if TYPE_CHECKING:
    from tokenizers import Tokenizer as FastTokenizer

# Above this many characters the call that releases the interpreter's lock is used.
_LONG_TEXT = 2048


class Detokenizer(Protocol):
    """Turns tokens into text as they come; never cuts a character."""

    def push(self, token: int) -> str:
        """The text that this token completes; may be empty."""

    def finish(self) -> str:
        """What was held back; an unfinished character becomes U+FFFD."""


class Tokenizer(Protocol):
    """What the engine needs of a tokenizer."""

    kind: str

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids; `special` adds what the tokenizer puts around a text."""

    def decode(self, tokens: list[int], *, skip_special: bool) -> str:
        """Text of token ids; ids without a word are passed over."""

    def token_id(self, word: str) -> int | None:
        """The id of one word of the vocabulary, special tokens included."""

    def detokenizer(self) -> Detokenizer:
        """A fresh incremental detokenizer that leaves special tokens out."""


class JsonTokenizer:
    """`tokenizer.json` through the `tokenizers` library."""

    kind = "tokenizers"

    def __init__(self, inner: FastTokenizer) -> None:
        self._inner = inner
        # A file may carry the padding and truncation of somebody's training run.
        inner.no_padding()
        inner.no_truncation()

    @classmethod
    def load(cls, file: Path) -> JsonTokenizer:
        """Read the file; raises what `tokenizers` raises."""
        from tokenizers import Tokenizer as FastTokenizer

        return cls(FastTokenizer.from_file(str(file)))

    def encode(self, text: str, *, special: bool) -> list[int]:
        """See `Tokenizer`. Long texts let other threads run meanwhile."""
        if len(text) < _LONG_TEXT:
            return list(self._inner.encode(text, add_special_tokens=special).ids)
        return list(self._inner.encode_batch([text], add_special_tokens=special)[0].ids)

    def decode(self, tokens: list[int], *, skip_special: bool) -> str:
        """See `Tokenizer`."""
        return self._inner.decode(tokens, skip_special_tokens=skip_special)

    def token_id(self, word: str) -> int | None:
        """See `Tokenizer`."""
        return self._inner.token_to_id(word)

    def detokenizer(self) -> Detokenizer:
        """See `Tokenizer`."""
        return WindowDetokenizer(self)


class TransformersTokenizer:
    """The fallback: whatever `transformers` makes of the folder."""

    kind = "transformers"

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    @classmethod
    def load(cls, folder: Path, *, trust_remote_code: bool) -> TransformersTokenizer:
        """Import `transformers` and let it choose; raises what it raises."""
        with IMPORT_LOCK:
            from transformers import AutoTokenizer
        return cls(
            AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=trust_remote_code
            )
        )

    def encode(self, text: str, *, special: bool) -> list[int]:
        """See `Tokenizer`."""
        return list(self._inner.encode(text, add_special_tokens=special))

    def decode(self, tokens: list[int], *, skip_special: bool) -> str:
        """See `Tokenizer`."""
        text: str = self._inner.decode(
            tokens, skip_special_tokens=skip_special, clean_up_tokenization_spaces=False
        )
        return text

    def token_id(self, word: str) -> int | None:
        """See `Tokenizer`."""
        found: int | None = self._inner.get_vocab().get(word)
        return found

    def detokenizer(self) -> Detokenizer:
        """See `Tokenizer`."""
        return WindowDetokenizer(self)


class WindowDetokenizer:
    """Incremental decoding for any tokenizer: decode a short window twice and take the difference.

    A decoder may treat the first token of a text differently (a leading space is stripped), so a
    few tokens that are already out stay in the window as context, and special tokens, which have
    no text, never enter it. Text that ends in U+FFFD may be half a character and waits; when too
    many tokens wait, their bytes are invalid, and all but the possible half at the end goes out.
    """

    _MOST_PENDING = 8

    def __init__(self, tokenizer: Tokenizer) -> None:
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


def load_tokenizer(model_id: str, folder: Path, *, trust_remote_code: bool) -> Tokenizer:
    """The tokenizer of a model folder.

    Raises:
        EngineError: `modelLoadFailed`, with what the library found wrong.
    """
    file = folder / "tokenizer.json"
    try:
        if file.is_file():
            return JsonTokenizer.load(file)
        return TransformersTokenizer.load(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise EngineError(
            "modelLoadFailed", f"tokenizer: {type(error).__name__}: {error}", model=model_id
        ) from error
