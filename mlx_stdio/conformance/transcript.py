"""Transcripts as files: a first line about the transcript, then one step a line.

A file that cannot be understood is an error of its author, found when it is read: a misspelt step
must not pass for one that went well.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

FOLDER: Final = Path(__file__).parent / "transcripts"

_STEPS: Final = {
    "send": {"send", "times", "less"},
    "sendUntilFull": {"sendUntilFull", "most", "count"},
    "sendRaw": {"sendRaw", "times", "less"},
    "sendHex": {"sendHex"},
    "reading": {"reading"},
    "expect": {"expect", "orEnd"},
    "expectAnyOrder": {"expectAnyOrder", "orEnd"},
    "close": {"close"},
    "closeStdout": {"closeStdout"},
    "signal": {"signal"},
    "wait": {"wait"},
    "exit": {"exit"},
}
"""What a step may be, and the members that it may have."""

_MANY: Final = {"$many", "$min", "$below", "$count"}
_READS: Final = {"expect", "expectAnyOrder", "exit"}


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
        arguments: what the command is given after its own; a `$ref` stands for a folder.
        folders: by name, the texts of the files in them, by their paths.
        steps: the other lines.
    """

    name: str
    clauses: tuple[str, ...]
    framing: str
    arguments: tuple[Any, ...]
    folders: dict[str, dict[str, str]]
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
    try:
        framing, arguments, folders = _options(head.get("options", {}))
    except ValueError as error:
        raise BadTranscript(f"{file.name}:1: {error}") from error
    steps = tuple(_step(file, number, body) for number, body in rows[1:])
    _check_reading(file, steps)
    return Transcript(head["name"], tuple(head["clauses"]), framing, arguments, folders, steps)


def all_transcripts(folder: Path = FOLDER) -> list[Transcript]:
    """Every transcript of a folder, by name."""
    return [read_transcript(file) for file in sorted(folder.glob("*.jsonl"))]


def _step(file: Path, number: int, body: dict[str, Any]) -> Step:
    kinds = [kind for kind in _STEPS if kind in body]
    if len(kinds) != 1:
        raise BadTranscript(f"{file.name}:{number}: a line is one of {', '.join(_STEPS)}")
    if unknown := body.keys() - _STEPS[kinds[0]] - {"note"}:
        raise BadTranscript(f"{file.name}:{number}: `{min(unknown)}` is unknown here")
    step = Step(number, kinds[0], body)
    if (why := _wrong(step)) is not None:
        raise BadTranscript(f"{file.name}:{number}: {why}")
    return step


def _wrong(step: Step) -> str | None:
    """What is wrong with the value of a step."""
    value = step.body[step.kind]
    if step.kind == "reading" and not isinstance(value, bool):
        return "`reading` is true or false"
    counted = step.kind == "sendUntilFull" or (step.kind == "send" and "times" in step.body)
    if counted and not (isinstance(value, dict) and type(value.get("id")) is int):
        return "what is sent many times has an integer as its id"
    if step.kind == "sendUntilFull" and type(step.body.get("most")) is not int:
        return "`most` tells how many are too many"
    if step.kind in ("expect", "expectAnyOrder"):
        for pattern in value if step.kind == "expectAnyOrder" else [value]:
            if isinstance(pattern, dict) and "$many" in pattern and pattern.keys() - _MANY:
                return f"`{min(pattern.keys() - _MANY)}` is unknown beside `$many`"
    return None


def _check_reading(file: Path, steps: tuple[Step, ...]) -> None:
    """Nothing can be expected while nobody reads; and a pipe is full only then."""
    reading = True
    for step in steps:
        if step.kind == "reading":
            reading = step.body["reading"]
        elif step.kind == "closeStdout":
            reading = True
        elif reading == (step.kind == "sendUntilFull") and step.kind in {*_READS, "sendUntilFull"}:
            what = "while stdout is read" if reading else "while stdout is not read"
            raise BadTranscript(f"{file.name}:{step.line}: `{step.kind}` {what}")
    if not reading:
        raise BadTranscript(f"{file.name}: it ends while stdout is not read")


def _options(options: Any) -> tuple[str, tuple[Any, ...], dict[str, dict[str, str]]]:
    """Framing, arguments and folders.

    Raises:
        ValueError: what is wrong with them.
    """
    if not isinstance(options, dict) or options.keys() - {"framing", "arguments", "folders"}:
        raise ValueError("unknown options")
    framing = options.get("framing", "newline")
    if framing not in ("newline", "content-length"):
        raise ValueError("`framing` is newline or content-length")
    folders = options.get("folders", {})
    if not isinstance(folders, dict):
        raise ValueError("`folders` is an object")
    for name, files in folders.items():
        if not _is_name(name) or not isinstance(files, dict):
            raise ValueError(f"no folder: `{name}`")
        for path, text in files.items():
            parts = PurePosixPath(path).parts
            if not parts or not all(map(_is_name, parts)) or not isinstance(text, str):
                raise ValueError(f"no file inside `{name}`: `{path}`")
    arguments = options.get("arguments", [])
    if not isinstance(arguments, list):
        raise ValueError("`arguments` is a list")
    for argument in arguments:
        known = isinstance(argument, dict) and argument.keys() == {"$ref"}
        if not isinstance(argument, str) and not (known and argument["$ref"] in folders):
            raise ValueError(f"neither a text nor a folder: {argument}")
    return framing, tuple(arguments), folders


def _is_name(part: str) -> bool:
    return part not in ("", ".", "..") and "/" not in part
