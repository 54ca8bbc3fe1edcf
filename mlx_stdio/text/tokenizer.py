"""A model folder's tokenizer, behind one small interface.

The common path is `tokenizers` on the folder's `tokenizer.json`. Folders for which that could give
other token ids than `transformers` gives go through `transformers`, imported only then: `choice.py`
decides.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mlx_stdio.errors import EngineError
from mlx_stdio.models.lean import IMPORT_LOCK
from mlx_stdio.text.choice import TOKENIZER_FILE, choose
from mlx_stdio.text.classes import PLAIN
from mlx_stdio.text.detokenizer import Detokenizer, WindowDetokenizer
from mlx_stdio.text.folder import read_object
from mlx_stdio.text.rewrites import REWRITES, rewrite
from mlx_stdio.text.special import read_special

if TYPE_CHECKING:
    from tokenizers import Tokenizer as FastTokenizer

Kind = Literal["tokenizers", "transformers"]

# Above this many characters the call that releases the interpreter's lock is used.
_LONG_TEXT = 2048


class Tokenizer(Protocol):
    """What the engine needs of a tokenizer.

    Attributes:
        kind: the library that does the work.
        reason: why it is not `tokenizers` alone; None where it is.
        special_texts: `bos_token` and so on to their text, for templates.
    """

    kind: Kind
    reason: str | None
    special_texts: dict[str, str]

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

    kind: Kind = "tokenizers"

    def __init__(self, inner: FastTokenizer, special_texts: dict[str, str] | None = None) -> None:
        self._inner = inner
        self.reason: str | None = None
        self.special_texts = special_texts or {}
        # A file may carry the padding and truncation of somebody's training run.
        inner.no_padding()
        inner.no_truncation()

    @classmethod
    def load(cls, folder: Path, config: dict[str, Any], name: str) -> JsonTokenizer | None:
        """Read a folder; raises what `tokenizers` raises.

        Args:
            config: its `tokenizer_config.json`.
            name: the class of `transformers` to imitate.

        Returns:
            None where the file is not of the kind that the class was made for.
        """
        from tokenizers import Tokenizer as FastTokenizer

        inner: FastTokenizer = FastTokenizer.from_file(str(folder / TOKENIZER_FILE))
        defaults: dict[str, str | None] = REWRITES[name].defaults if name in REWRITES else {}
        if inner.padding is not None:
            defaults = {"pad_token": inner.padding["pad_token"], **defaults}
        tokens = read_special(folder, config, defaults, inner.get_added_tokens_decoder())
        if name in REWRITES:
            rewritten = rewrite(name, inner, config, tokens)
            if rewritten is None:
                return None
            inner = rewritten
        else:
            tokens.add_to(inner)
        inner.encode_special_tokens = bool(config.get("split_special_tokens"))
        return cls(inner, tokens.texts)

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

    kind: Kind = "transformers"

    def __init__(self, inner: Any, reason: str) -> None:
        self._inner = inner
        self.reason: str | None = reason
        self.special_texts: dict[str, str] = dict(inner.special_tokens_map)

    @classmethod
    def load(
        cls, factory: Any, folder: Path, reason: str, *, trust_remote_code: bool
    ) -> TransformersTokenizer:
        """Let `AutoTokenizer` choose; raises what it raises."""
        inner = factory.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=trust_remote_code
        )
        return cls(inner, reason)

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
        return self._vocabulary.get(word)

    def detokenizer(self) -> Detokenizer:
        """See `Tokenizer`."""
        return WindowDetokenizer(self)

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        found: dict[str, int] = self._inner.get_vocab()  # made anew each time
        return found


def _auto_tokenizer() -> Any:
    """`transformers.AutoTokenizer`; an `ImportError` where it is not installed, or not whole."""
    with IMPORT_LOCK:
        from transformers import AutoTokenizer
    return AutoTokenizer


def _load_other(
    folder: Path, config: dict[str, Any], reason: str, *, trust_remote_code: bool
) -> Tokenizer:
    """Ask `transformers`; an installation without it takes a `tokenizer.json` as it stands.

    Raises:
        EngineError: there is neither.
    """
    try:
        factory = _auto_tokenizer()
    except ImportError as error:
        file = folder / TOKENIZER_FILE
        plain = JsonTokenizer.load(folder, config, PLAIN) if file.is_file() else None
        if plain is None:
            raise EngineError(
                "modelLoadFailed",
                f"tokenizer: {reason}, so it needs `transformers`, which cannot be imported "
                f"({error}); install it with `pip install transformers sentencepiece`",
            ) from error
        plain.reason = f"{reason}; without `transformers`, {TOKENIZER_FILE} is taken as it stands"
        return plain
    return TransformersTokenizer.load(factory, folder, reason, trust_remote_code=trust_remote_code)


def load_tokenizer(model_id: str, folder: Path, *, trust_remote_code: bool) -> Tokenizer:
    """The tokenizer of a model folder.

    Raises:
        EngineError: `modelLoadFailed`, with what the library found wrong.
    """
    try:
        config = read_object(folder / "tokenizer_config.json")
        choice = choose(folder, config, trust_remote_code=trust_remote_code)
        reason = choice.reason
        if reason is None:
            lean = JsonTokenizer.load(folder, config, choice.name)
            if lean is not None:
                return lean
            reason = f"`{choice.name}` is not made for this kind of {TOKENIZER_FILE}"
        return _load_other(folder, config, reason, trust_remote_code=trust_remote_code)
    except EngineError as error:
        raise EngineError(error.kind, error.message, model=model_id) from error
    except Exception as error:
        raise EngineError(
            "modelLoadFailed", f"tokenizer: {type(error).__name__}: {error}", model=model_id
        ) from error
