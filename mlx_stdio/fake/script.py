"""Scripts: what the fake engine does with which request. JSON, or TOML by the file's ending."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, field

from mlx_stdio.conformance.matching import Bindings, Mismatch, match

_ACTIONS: Final = (
    "delta",
    "stream",
    "progress",
    "notify",
    "result",
    "finish",
    "error",
    "raw",
    "exit",
    "signal",
    "fatal",
    "silent",
    "default",
)


class BadScript(Exception):  # noqa: N818 - the file is bad
    """A file that is no script."""


class _Part(msgspec.Struct, rename="camel", forbid_unknown_fields=True, kw_only=True):
    pass


class Progress(_Part):
    """The members of a `$/progress` that are not known from the request."""

    phase: Literal["queued", "loading", "prefill"]
    completed: int
    total: int
    unit: Literal["requests", "bytes", "tokens"]


class Note(_Part):
    """A notification, sent as it stands."""

    method: str
    params: dict[str, Any] = field(default_factory=dict)


class Failure(_Part):
    """An error reply.

    Attributes:
        code: by default that of the kind.
        data: further members of `error.data`.
    """

    kind: str
    message: str = "as the script says"
    code: int | None = None
    data: dict[str, Any] = field(default_factory=dict)


class Step(_Part):
    """A delay, then at most one action."""

    delay_ms: float = 0.0
    delta: str | None = None
    stream: str | None = None
    every_ms: float = 20.0
    progress: Progress | None = None
    notify: Note | None = None
    result: Any = UNSET
    finish: Literal["stop", "length"] | None = None
    error: Failure | None = None
    raw: str | None = None
    exit: int | None = None
    signal: str | None = None
    fatal: str | None = None
    silent: bool | None = None
    default: bool | None = None

    @property
    def action(self) -> str | None:
        """The name of what it does after the delay."""
        named = [name for name in _ACTIONS if self._has(name)]
        if len(named) > 1:
            raise BadScript(f"a step does one thing, not `{named[0]}` and `{named[1]}`")
        return named[0] if named else None

    def _has(self, name: str) -> bool:
        # `null` is a result.
        unset = UNSET if name == "result" else None
        return getattr(self, name) is not unset


class Rule(_Part, kw_only=True):
    """What is done with the requests that it fits.

    Attributes:
        method: a name, or a pattern such as `models/*`.
        params: what the params must have, with the matchers of transcripts; more may be there.
        times: how many requests it takes; later ones go to the next rule that fits.
    """

    method: str = "*"
    params: dict[str, Any] = field(default_factory=dict)
    times: int | None = None
    steps: list[Step]


class Script(_Part):
    """A whole file.

    Attributes:
        models: names of models that exist beside the default one.
        load_ms: how long a model is loaded.
        token_ms: how long a token takes where the steps do not say.
        start: steps at the start, before any request; those that belong to none.
    """

    models: list[str] = field(default_factory=list)
    load_ms: float = 20.0
    token_ms: float = 1.0
    context_length: int = 8192
    start: list[Step] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)

    def rule_for(self, method: str, params: Any) -> Rule | None:
        """The first rule that fits a request; one of its times is used up."""
        for rule in self.rules:
            if rule.times == 0 or not fnmatchcase(method, rule.method):
                continue
            pattern = {**rule.params, "$rest": True}
            try:
                match(pattern, {} if params is None else params, Bindings({}, {}))
            except Mismatch:
                continue
            if rule.times is not None:
                rule.times -= 1
            return rule
        return None


def read_script(path: str | None) -> Script:
    """Read a file; None is the script that says nothing.

    Raises:
        BadScript: it cannot be read, with the reason.
    """
    if path is None:
        return Script()
    try:
        script = msgspec.convert(_load(Path(path)), Script)
        for step in [*script.start, *(step for rule in script.rules for step in rule.steps)]:
            _ = step.action
    except (OSError, ValueError, ImportError, BadScript) as error:
        raise BadScript(f"{path}: {error}") from error
    return script


def _load(file: Path) -> Any:
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".toml":
        return json.loads(text)
    import tomllib

    return tomllib.loads(text)
