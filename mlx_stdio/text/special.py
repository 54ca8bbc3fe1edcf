"""The special and added tokens that a folder's small files name, as `transformers` reads them.

`tokenizer.json` has its own list of added tokens, but what counts is what comes of it together
with `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`: tokens may be
added there, or be given other flags. The rules that matter:
- where the config has `added_tokens_decoder`, no other list is read; else the two older files
  outrank the config, and the list of `tokenizer.json` is added to theirs;
- every member whose name ends in `_token` is a special token, and a template may use it;
- a token that a class expects and no file names gets the class's default.

Source: `PreTrainedTokenizerBase._from_pretrained` and the two `__init__`s that it calls,
transformers 5.24; `tests/test_tokenizers.py` compares.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from mlx_stdio.text.folder import read_object

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as FastTokenizer

_NAMES: Final = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_EXTRA: Final = "extra_special_tokens"
_OLD_EXTRA: Final = "additional_special_tokens"

Token = dict[str, Any]
"""The members of an `AddedToken`; only `content` is sure to be there."""


class SpecialTokens(msgspec.Struct, frozen=True):
    """What the files say.

    Attributes:
        named: `bos_token` and so on, in the order in which they are added.
        extra: special tokens without a name.
        added: all that are looked for in a text, by id.
    """

    named: dict[str, Token]
    extra: list[Token]
    added: dict[int, Token]

    @property
    def texts(self) -> dict[str, str]:
        """The names and their text, for templates."""
        return {name: token["content"] for name, token in self.named.items()}

    def add_to(self, inner: FastTokenizer) -> None:
        """Give the tokens to a tokenizer; those that its vocabulary lacks get the next ids."""
        special = {token["content"] for token in self.named.values()}
        present = [_members(token) for token in inner.get_added_tokens_decoder().values()]
        tokens = [token for _, token in sorted(self.added.items())]
        seen = {token["content"] for token in (*present, *tokens)}
        for token in (*self.named.values(), *self.extra):
            if token["content"] not in seen:
                tokens.append(token)
                seen.add(token["content"])
        # Adding one that is there, flags and all, does nothing, but it is looked for in all.
        known = {tuple(token.items()) for token in present}
        made = (
            added_token({**token, "special": True} if token["content"] in special else token)
            for token in tokens
        )
        inner.add_tokens([token for token in made if tuple(_members(token).items()) not in known])


def read_special(
    folder: Path,
    config: dict[str, Any],
    defaults: dict[str, str | None],
    own: dict[int, AddedToken],
) -> SpecialTokens:
    """The special tokens of a folder.

    Args:
        config: its `tokenizer_config.json`.
        defaults: the class's, for names that no file has.
        own: the added tokens of its `tokenizer.json`.
    """
    members = dict(config)
    if _OLD_EXTRA in members and not members.get(_EXTRA):
        members[_EXTRA] = members.pop(_OLD_EXTRA)
    others = {name: members.pop(name) for name in list(members) if _is_other(name, members[name])}
    if isinstance(members.get(_EXTRA), dict):
        others |= members.pop(_EXTRA)
    listed = members.get("added_tokens_decoder")
    if isinstance(listed, dict):
        added = {int(at): token for at, value in listed.items() if (token := _token(value))}
    else:
        _merge_map(members, read_object(folder / "special_tokens_map.json"))
        if isinstance(members.get(_EXTRA), dict):
            others |= members.pop(_EXTRA)
        added = _older_added(folder, members)
        added |= {at: _members(token) for at, token in own.items()}
    flags = {token["content"]: token for token in added.values()}
    named: dict[str, Token] = {}
    for name in _NAMES:
        token = _token(members.get(name, defaults.get(name)))
        if token is not None:
            # A name means the token of the list, with its flags; a class's default does not.
            named[name] = flags.get(token["content"], token) if name in members else token
    late = {name: value for name, value in members.items() if _is_other(name, value)}
    for name, value in {**late, **others}.items():
        if (token := _token(value)) is not None:
            named[name] = token
    extra = members.get(_EXTRA, members.get(_OLD_EXTRA))
    tokens = [_token(value) for value in extra] if isinstance(extra, list) else []
    return SpecialTokens(named, [token for token in tokens if token is not None], added)


def added_token(token: Token) -> AddedToken:
    """As `tokenizers` has it."""
    from tokenizers import AddedToken

    return AddedToken(**token)


def _merge_map(members: dict[str, Any], listed: dict[str, Any]) -> None:
    """Let `special_tokens_map.json` outrank the config."""
    for name, value in listed.items():
        if isinstance(value, dict) and name != _EXTRA:
            members[name] = {**value, "special": True}
        elif isinstance(value, list) and name == _EXTRA:
            old = members.get(_EXTRA) or []
            tokens = [{**it, "special": True} if isinstance(it, dict) else it for it in value]
            members[_EXTRA] = [*old, *(token for token in tokens if token not in old)]
        else:
            members[name] = value


def _older_added(folder: Path, members: dict[str, Any]) -> dict[int, Token]:
    """`added_tokens.json`: words and ids only, so whether one is special depends on its name."""
    extra = members.get(_EXTRA)
    values = [members.get(name) for name in _NAMES]
    values += extra if isinstance(extra, list) else []
    special = {token["content"] for value in values if (token := _token(value)) is not None}
    return {
        at: {"content": word, "normalized": word not in special, "special": word in special}
        for word, at in read_object(folder / "added_tokens.json").items()
        if isinstance(at, int)
    }


def _is_other(name: str, value: Any) -> bool:
    """Whether a member of the config is a special token of this model alone."""
    return name.endswith("_token") and name not in _NAMES and _token(value) is not None


def _token(value: Any) -> Token | None:
    """A token in any of its notations: a word is a special token."""
    if isinstance(value, str):
        return {"content": value, "special": True}
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        return None
    return {name: value[name] for name in _FLAGS if name in value}


_FLAGS: Final = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")


def _members(token: AddedToken) -> Token:
    return {name: getattr(token, name) for name in _FLAGS}
