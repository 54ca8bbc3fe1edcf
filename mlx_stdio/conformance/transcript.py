"""Transcripts as files: a first line about the transcript, then one step a line.

A file that cannot be understood is an error of its author, found when it is read: a misspelt step
must not pass for one that went well.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

FOLDER: Final = Path(__file__).parent / "transcripts"

_STEPS: Final = {
    "send": {"send"},
    "sendRaw": {"sendRaw", "times", "less"},
    "sendHex": {"sendHex"},
    "expect": {"expect", "orEnd"},
    "expectAnyOrder": {"expectAnyOrder"},
    "close": {"close"},
    "closeStdout": {"closeStdout"},
    "signal": {"signal"},
    "wait": {"wait"},
    "exit": {"exit"},
}
"""What a step may be, and the members that it may have."""


class BadTranscript(Exception):  # noqa: N818 - the file is bad
    """A file that is no transcript."""


class Step(NamedTuple):
    """One line.

    Attributes:
        line: its number in the file.
        kind: a key of the table above.
        body: the whole object.
    """

    line: int
    kind: str
    body: dict[str, Any]


class Transcript(NamedTuple):
    """A recorded session.

    Attributes:
        clauses: ids of the clauses of `protocol.md` that it shows.
        framing: `newline` or `content-length`.
    """

    name: str
    clauses: tuple[str, ...]
    framing: str
    steps: tuple[Step, ...]


def read_transcript(file: Path) -> Transcript:
    """Read one file.

    Raises:
        BadTranscript: which line is wrong, and why.
    """
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise BadTranscript(f"{file.name}:{number}: {error}") from error
        if not isinstance(value, dict):
            raise BadTranscript(f"{file.name}:{number}: no object")
        rows.append((number, value))
    if not rows:
        raise BadTranscript(f"{file.name}: empty")
    head = rows[0][1]
    if head.get("name") != file.stem or not isinstance(head.get("clauses"), list):
        raise BadTranscript(f"{file.name}:1: `name` must be the file's, `clauses` a list")
    options = head.get("options", {})
    framing = options.get("framing", "newline")
    if options.keys() - {"framing"} or framing not in ("newline", "content-length"):
        raise BadTranscript(f"{file.name}:1: unknown options")
    steps = tuple(_step(file, number, body) for number, body in rows[1:])
    return Transcript(head["name"], tuple(head["clauses"]), framing, steps)


def all_transcripts(folder: Path = FOLDER) -> list[Transcript]:
    """Every transcript of a folder, by name."""
    return [read_transcript(file) for file in sorted(folder.glob("*.jsonl"))]


def _step(file: Path, number: int, body: dict[str, Any]) -> Step:
    kinds = [kind for kind in _STEPS if kind in body]
    if len(kinds) != 1:
        raise BadTranscript(f"{file.name}:{number}: a line is one of {', '.join(_STEPS)}")
    if unknown := body.keys() - _STEPS[kinds[0]] - {"note"}:
        raise BadTranscript(f"{file.name}:{number}: `{min(unknown)}` is unknown here")
    return Step(number, kinds[0], body)
