"""Holds `protocol.md` and the tests together: every clause about the engine has tests.

`protocol/clauses.toml` maps each clause's number to the tests; `python -m tools.clauses --check`
fails for a clause that is not there, an entry whose clause is gone, a test that does not exist, and
a clause about the engine without a test. What is only about hosts (it begins with "A host") is
marked `host = true` there: the engine's tests cannot prove it. Without `--check` it prints how many
there are. Whether a test proves what it is named for is for a reader to judge.

The recorded sessions of `mlx-stdio conformance` are held to it, too: each clause about the engine
is named by one of them, or the table `[unrecorded]` of the manifest says why it cannot be. That
the engine reproduces them is one test, which is not repeated at each clause.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from mlx_stdio.conformance.transcript import BadTranscript, all_transcripts

ROOT = Path(__file__).parent.parent
PAGE = "protocol.md"
MANIFEST = "protocol/clauses.toml"
TRANSCRIPTS = "mlx_stdio/conformance/transcripts"
REPLAYED = "tests/test_conformance.py::test_the_engine_passes"
"""The test that replays all transcripts against the engine."""

_UNRECORDED = "unrecorded"

_CLAUSE = re.compile(r"^\[(\d+\.\d+)\] (.+?)(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)
_SECTION = re.compile(r"^## (\d+)\. ", re.MULTILINE)
_WORD = re.compile(r"\b(MUST|SHOULD|MAY)\b")
_HOST = "A host "


def clauses_of(page: str) -> list[tuple[str, str]]:
    """The clauses of a page in their order: number and text."""
    return [(number, " ".join(text.split())) for number, text in _CLAUSE.findall(page)]


def problems(root: Path) -> list[str]:
    """What is wrong with the page and the manifest of a checkout; empty where all is well."""
    page = (root / PAGE).read_text(encoding="utf-8")
    clauses = clauses_of(page)
    try:
        manifest = tomllib.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:  # an entry that is there twice is such an error
        return [f"{MANIFEST}: {error}"]
    found = [*_wrong_numbers(page, [number for number, _ in clauses])]
    unrecorded = manifest.pop(_UNRECORDED, {})
    tests = _Tests(root)
    for number, text in clauses:
        if not _WORD.search(text):
            found.append(f"[{number}] requires nothing: no MUST, SHOULD or MAY")
        if number not in manifest:
            found.append(f"[{number}] is not in {MANIFEST}")
        else:
            found += (f"[{number}] {what}" for what in _wrong_entry(text, manifest[number], tests))
    known = {number for number, _ in clauses}
    found += [f"[{number}] is in {MANIFEST}, not in {PAGE}" for number in manifest.keys() - known]
    if (why := tests.wrong(REPLAYED)) is not None:
        found.append(f"the transcripts need {REPLAYED}: {why}")
    try:
        recorded = recorded_clauses(root)
    except BadTranscript as error:
        return [*found, str(error)]
    return [*found, *_wrong_records(clauses, recorded, unrecorded)]


def recorded_clauses(root: Path) -> dict[str, list[str]]:
    """The names of the transcripts that show each clause.

    Raises:
        BadTranscript: one cannot be read.
    """
    found: dict[str, list[str]] = {}
    for transcript in all_transcripts(root / TRANSCRIPTS):
        for number in transcript.clauses:
            found.setdefault(number, []).append(transcript.name)
    return found


def _wrong_records(
    clauses: list[tuple[str, str]], recorded: dict[str, list[str]], unrecorded: dict[str, Any]
) -> Iterator[str]:
    """Each clause about the engine is recorded, or there is a reason; never both."""
    texts = dict(clauses)
    for number, names in recorded.items():
        if number not in texts:
            yield f"{names[0]}.jsonl shows [{number}], which is not in {PAGE}"
        elif number in unrecorded:
            yield f"[{number}] is shown by {names[0]}.jsonl, and stands in [{_UNRECORDED}]"
    for number, why in unrecorded.items():
        if number not in texts:
            yield f"[{number}] is in [{_UNRECORDED}], not in {PAGE}"
        elif texts[number].startswith(_HOST):
            yield f"[{number}] is in [{_UNRECORDED}], but is the host's"
        elif not isinstance(why, str) or not why.strip():
            yield f"[{number}] is in [{_UNRECORDED}] without a reason"
    for number, text in clauses:
        if not (text.startswith(_HOST) or number in recorded or number in unrecorded):
            yield f"[{number}] is in no transcript, and [{_UNRECORDED}] does not say why"


def _wrong_numbers(page: str, numbers: list[str]) -> Iterator[str]:
    """Numbers must rise, and belong to their section: a reader looks for them there."""
    if not numbers:
        yield f"{PAGE} has no clause"
    pairs = [tuple(map(int, number.split("."))) for number in numbers]
    for before, after in pairwise(pairs):
        if after <= before:
            yield f"[{after[0]}.{after[1]}] comes after [{before[0]}.{before[1]}]"
    _, *parts = _SECTION.split(page)
    for section, text in zip(parts[::2], parts[1::2], strict=True):
        for number, _ in clauses_of(text):
            if number.split(".")[0] != section:
                yield f"[{number}] stands in section {section}"


def _wrong_entry(text: str, entry: Any, tests: _Tests) -> Iterator[str]:
    about_hosts = text.startswith(_HOST)
    if isinstance(entry, dict):
        if entry != {"host": True}:
            yield f"has an entry that is neither a list of tests nor `host = true`: {entry}"
        elif not about_hosts:
            yield f"is marked as the host's, but does not begin with {_HOST.strip()!r}"
        return
    if about_hosts:
        yield "is the host's, but not marked `host = true`"
    if not isinstance(entry, list) or not entry:
        yield "has no test"
        return
    if len(set(entry)) < len(entry):
        yield "names a test twice"
    for name in entry:
        if (why := tests.wrong(str(name))) is not None:
            yield f"names {name}: {why}"


class _Tests:
    """The test functions of a checkout, read without importing anything."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: dict[str, dict[str, bool]] = {}

    def wrong(self, name: str) -> str | None:
        """Why a name is not that of a test that runs; None where it is."""
        file, separator, function = name.partition("::")
        if not separator or not re.fullmatch(r"tests/test_\w+\.py", file):
            return "not of the form tests/test_x.py::test_name"
        if file not in self._files:
            self._files[file] = self._read(self._root / file)
        skipped = self._files[file].get(function)
        if skipped is None:
            return "no such test"
        return "it is always skipped" if skipped else None

    @staticmethod
    def _read(file: Path) -> dict[str, bool]:
        """A file's test functions, and whether each is always skipped."""
        if not file.is_file():
            return {}
        return {
            node.name: any(_always_skips(decorator) for decorator in node.decorator_list)
            for node in ast.parse(file.read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        }


def _always_skips(decorator: ast.expr) -> bool:
    name = ast.unparse(decorator).split("(")[0]
    return name in ("pytest.mark.skip", "pytest.mark.xfail")


def main() -> int:
    """Check, or count; the exit code."""
    if "--check" in sys.argv:
        found = problems(ROOT)
        for problem in found:
            print(problem, file=sys.stderr)
        return int(bool(found))
    manifest = tomllib.loads((ROOT / MANIFEST).read_text(encoding="utf-8"))
    unrecorded = manifest.pop(_UNRECORDED)
    named = {number: entry for number, entry in manifest.items() if isinstance(entry, list)}
    different = {name for entry in named.values() for name in entry}
    recorded = recorded_clauses(ROOT)
    transcripts = {name for names in recorded.values() for name in names}
    print(
        f"{len(manifest)} clauses: {len(named)} about the engine, with {len(different)} tests; "
        f"{len(manifest) - len(named)} about hosts\n"
        f"{len(named.keys() & recorded.keys())} of those about the engine are recorded, in "
        f"{len(transcripts)} transcripts; {len(unrecorded)} have no form on the wire"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
