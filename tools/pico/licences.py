"""Decides, from an installed distribution's metadata, whether its source may be trained on.

The rule is strict: a distribution counts only when what it declares is *entirely* made of
permissive licences. Anything unknown, mixed with copyleft, or proprietary is left out.
"""

from __future__ import annotations

import re
from email.message import Message
from importlib.metadata import Distribution

PERMISSIVE_IDS = frozenset(
    {
        "0bsd",
        "apache-2.0",
        "bsd-2-clause",
        "bsd-3-clause",
        "bsl-1.0",
        "cc0-1.0",
        "hpnd",
        "isc",
        "mit",
        "mit-0",
        "mit-cmu",
        "psf-2.0",
        "python-2.0",
        "unlicense",
        "zlib",
    }
)

PERMISSIVE_CLASSIFIERS = (
    "apache software license",
    "bsd license",
    "isc license",
    "mit license",
    "mit no attribution",
    "historical permission notice",
    "python software foundation license",
    "the unlicense",
    "zlib",
)

# Free text in the old "License" field: only short, unmistakable names are believed.
PERMISSIVE_TEXT = re.compile(
    r"^(the )?(mit|(new |modified |simplified )?bsd([- ][23])?([- ]clause)?|apache([- ]"
    r"(software|license|licence))*[ ,-]*(version )?v?(2(\.0)?)?|isc|psf([- ]2\.0)?|isc license)"
    r"( licen[cs]e)?( v?2(\.0)?)?$"
)

DENIED_PREFIXES = ("nvidia", "cuda", "cufile", "libnv")


def _expression_is_permissive(expression: str) -> bool:
    """True when every licence named in an SPDX expression is on the permissive list."""
    bare = re.sub(r"\bWITH\s+[\w.-]+", " ", expression, flags=re.IGNORECASE)
    names = [n for n in re.split(r"[\s()]+", bare) if n and n.upper() not in {"AND", "OR"}]
    return bool(names) and all(n.lower() in PERMISSIVE_IDS for n in names)


def permissive_licence(distribution: Distribution) -> str | None:
    """The licence a distribution declares when it is wholly permissive, else None."""
    # Distribution.metadata is an email message at run time; its declared protocol is narrower.
    meta = distribution.metadata
    if not isinstance(meta, Message):
        return None
    name = str(meta.get("Name", "")).lower()
    if not name or name.startswith(DENIED_PREFIXES):
        return None
    expression = str(meta.get("License-Expression") or "").strip()
    if expression:
        return expression if _expression_is_permissive(expression) else None
    classifiers = [
        str(c).split("::")[-1].strip()
        for c in meta.get_all("Classifier") or []
        if str(c).startswith("License ::") and str(c).count("::") >= 1
    ]
    named = [c for c in classifiers if c.lower() != "osi approved"]
    if named:
        allowed = all(any(p in c.lower() for p in PERMISSIVE_CLASSIFIERS) for c in named)
        return " AND ".join(sorted(set(named))) if allowed else None
    text = str(meta.get("License") or "").strip()
    if "\n" not in text and PERMISSIVE_TEXT.match(text.lower()):
        return text
    return text if _expression_is_permissive(text) else None
