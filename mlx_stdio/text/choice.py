"""Whether a folder's tokenizer is loaded with `tokenizers` alone, and as what.

`AutoTokenizer` does not always take a `tokenizer.json` as it stands: several of its classes keep
the vocabulary and build everything around it themselves. A folder whose class does that is *lean*
where `rewrites.py` can do the same, and goes through `transformers` where it cannot. The class is
found by `AutoTokenizer`'s own rules, so that token ids are the same on either path.

The fallback costs a second and needs a package that an installation may lack, so it is taken only
where the ids could differ. Whatever these rules do not know counts as such a case.

Source: `AutoTokenizer.from_pretrained`, transformers 5.24; `tests/test_tokenizer_choice.py`
compares every rule with it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import msgspec

from mlx_stdio.text.classes import (
    MISNAMED,
    MISTRALS,
    PLAIN,
    PLAIN_NAMES,
    REGISTERED,
    UNREGISTERED,
)
from mlx_stdio.text.folder import read_object
from mlx_stdio.text.rewrites import REWRITES

TOKENIZER_FILE = "tokenizer.json"


class Choice(msgspec.Struct, frozen=True):
    """How a folder's tokenizer is to be loaded.

    Attributes:
        name: the class as which it is loaded, when lean.
        reason: why it needs `transformers`; None when lean.
    """

    name: str = PLAIN
    reason: str | None = None


def choose(folder: Path, config: dict[str, Any], *, trust_remote_code: bool) -> Choice:
    """Decide for one folder.

    Args:
        config: its `tokenizer_config.json`.
    """
    if not (folder / TOKENIZER_FILE).is_file():
        return Choice(reason=f"the folder has no {TOKENIZER_FILE}")
    for member in ("fast_tokenizer_files", "fix_mistral_regex", "init_inputs"):
        if config.get(member):
            return Choice(reason=f"tokenizer_config.json has `{member}`")
    model = read_object(folder / "config.json")
    model_type = str(model.get("model_type"))
    named = _text(config.get("tokenizer_class"))
    known = named or _text(model.get("tokenizer_class"))
    if _has_code(config):
        # Not trusted, it is passed over where there is a class without code to take instead.
        if trust_remote_code or named is None or not _is_known(named):
            return Choice(reason="the tokenizer is code in the folder")
        return _by_name(named)
    if model_type in MISTRALS and _reads_tekken(folder):
        return Choice(reason="the tokenizer is a tekken.json for `mistral_common`")
    if known is None:
        return _by_model(model_type)
    if REGISTERED.get(model_type) == PLAIN:
        return Choice()
    if model_type in MISNAMED:
        return _by_name(REGISTERED[model_type])
    if _bare(known) == "LlamaTokenizer" and b'"ByteLevel"' in _bytes(folder):
        return Choice()
    return _by_name(known)


def _by_model(model_type: str) -> Choice:
    """No class is named: the registered one."""
    if model_type in REGISTERED:
        return _by_name(REGISTERED[model_type])
    if model_type in UNREGISTERED:
        return Choice()
    return Choice(reason=f"no tokenizer class is named, nor known for model type `{model_type}`")


def _by_name(name: str) -> Choice:
    if not _is_known(name):
        return Choice(reason=f"`{name}` builds its own tokenizer")
    bare = _bare(name)
    return Choice(bare if bare in REWRITES else PLAIN)


def _is_known(name: str) -> bool:
    return name in PLAIN_NAMES or _bare(name) in PLAIN_NAMES or _bare(name) in REWRITES


def _bare(name: str) -> str:
    """Since version 5 there is one class, with and without the suffix."""
    return name.removesuffix("Fast")


def _has_code(config: dict[str, Any]) -> bool:
    mapped = config.get("auto_map")
    return bool(mapped.get("AutoTokenizer") if isinstance(mapped, dict) else mapped)


def _reads_tekken(folder: Path) -> bool:
    return (folder / "tekken.json").is_file() and bool(importlib.util.find_spec("mistral_common"))


def _bytes(folder: Path) -> bytes:
    try:
        return (folder / TOKENIZER_FILE).read_bytes()
    except OSError:  # loading it will tell
        return b""


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
