"""The clauses of `protocol.md` and their tests belong together, and the checker sees it if not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.host import ROOT
from tools.clauses import MANIFEST, PAGE, TRANSCRIPTS, clauses_of, problems

CLAUSES = (ROOT / MANIFEST).read_text(encoding="utf-8")


def check() -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.clauses", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_clause_has_its_tests() -> None:
    done = check()
    assert (done.returncode, done.stderr) == (0, "")


def test_the_count_tells_how_many_are_recorded() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.clauses"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    about, recorded, unrecorded = (
        int(re.search(pattern, done.stdout)[1])  # type: ignore[index]
        for pattern in (r"(\d+) about the engine", r"(\d+) of those", r"(\d+) have no form")
    )
    assert recorded + unrecorded == about
    assert recorded > 150


def test_every_section_has_clauses() -> None:
    numbers = [number for number, _ in clauses_of((ROOT / PAGE).read_text(encoding="utf-8"))]
    assert {number.split(".")[0] for number in numbers} == {str(n) for n in range(2, 14)}
    assert len(numbers) > 150


GOOD_PAGE = """# A page

## 1. Overview

This section MUST be passed over: it has no number.

## 2. First

[2.1] The engine MUST answer.

[2.2] A host SHOULD listen,
and go on.

## 3. Second

[3.1] The engine MAY leave.
"""
GOOD_MANIFEST = """
"2.1" = ["tests/test_one.py::test_it", "tests/test_one.py::test_that"]
"2.2" = { host = true }
"3.1" = ["tests/test_two.py::test_it"]

[unrecorded]
"3.1" = "nobody sees it"
"""
RECORD = f"{TRANSCRIPTS}/one.jsonl"
GOOD_RECORD = '{"name": "one", "clauses": ["2.1", "2.2"]}\n{"send": {}}\n'
GOOD_TESTS = {
    "test_one.py": """
import pytest

@pytest.mark.parametrize("a", [1, 2])
def test_it(a): ...

@pytest.mark.skipif(True, reason="elsewhere")
def test_that(): ...

@pytest.mark.skip
def test_never(): ...

def help_it(): ...

class TestCase:
    def test_inside(self): ...
""",
    "test_two.py": "def test_it(): ...",
    "test_conformance.py": "def test_the_engine_passes(): ...",
}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkout in which all is well."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "protocol").mkdir()
    (tmp_path / PAGE).write_text(GOOD_PAGE)
    (tmp_path / MANIFEST).write_text(GOOD_MANIFEST)
    (tmp_path / RECORD).parent.mkdir(parents=True)
    (tmp_path / RECORD).write_text(GOOD_RECORD)
    for name, source in GOOD_TESTS.items():
        (tmp_path / "tests" / name).write_text(source)
    return tmp_path


def test_a_good_copy_has_no_problem(copy: Path) -> None:
    assert problems(copy) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        (PAGE, "[3.1] The engine MAY leave.", "", r"\[3.1\] is in .*, not in protocol.md"),
        (PAGE, "MAY leave.", "MAY leave.\n\n[3.2] It MUST wait.", r"\[3.2\] is not in"),
        (PAGE, "MAY leave", "leaves", r"\[3.1\] requires nothing"),
        (PAGE, "[3.1]", "[2.3]", r"\[2.3\] stands in section 3"),
        (PAGE, "[2.2]", "[2.1]", r"\[2.1\] comes after \[2.1\]"),
        (PAGE, "A host SHOULD", "The engine SHOULD", r"\[2.2\] is marked as the host's"),
        (PAGE, "The engine MUST", "A host MUST", r"\[2.1\] is the host's"),
        (MANIFEST, '"3.1" = ["tests/test_two.py::test_it"]', "", r"\[3.1\] is not in"),
        (MANIFEST, '["tests/test_two.py::test_it"]', "[]", r"\[3.1\] has no test"),
        (MANIFEST, '["tests/test_two.py::test_it"]', "{ host = true }", r"\[3.1\] is marked"),
        (MANIFEST, "host = true", "host = false", r"\[2.2\] has an entry"),
        (MANIFEST, "test_two.py::test_it", "test_two.py::test_gone", r"\[3.1\] .*no such test"),
        (MANIFEST, "test_two.py", "test_three.py", r"\[3.1\] .*no such test"),
        (MANIFEST, "test_two.py::test_it", "test_one.py::help_it", r"\[3.1\] .*no such test"),
        (MANIFEST, "test_two.py::test_it", "test_one.py::test_inside", r"\[3.1\] .*no such test"),
        (MANIFEST, "test_two.py::test_it", "test_one.py::test_never", r"\[3.1\] .*always skipped"),
        (MANIFEST, "tests/test_two.py::test_it", "test_two", r"\[3.1\] .*not of the form"),
        (MANIFEST, "::test_that", "::test_it", r"\[2.1\] names a test twice"),
        (MANIFEST, '"3.1"', '"2.1"', r"clauses.toml: Cannot overwrite"),
        ("tests/test_two.py", "test_it", "test_renamed", r"\[3.1\] .*no such test"),
        ("tests/test_conformance.py", "engine", "fake", r"the transcripts need .*no such test"),
        (RECORD, '"2.1", ', "", r"\[2.1\] is in no transcript"),
        (RECORD, '"2.1"', '"2.9"', r"one.jsonl shows \[2.9\], which is not in"),
        (RECORD, '"2.2"', '"3.1"', r"\[3.1\] is shown by one.jsonl, and stands in"),
        (RECORD, '"send"', '"sent"', r"one.jsonl:2: a line is one of"),
        (MANIFEST, '"3.1" = "nobody sees it"', "", r"\[3.1\] is in no transcript"),
        (MANIFEST, "nobody sees it", " ", r"\[3.1\] is in .* without a reason"),
        (MANIFEST, '"nobody sees it"', "true", r"\[3.1\] is in .* without a reason"),
        (MANIFEST, '"3.1" = "nobody', '"2.2" = "nobody', r"\[2.2\] is in .* is the host's"),
        (MANIFEST, '"3.1" = "nobody', '"3.7" = "nobody', r"\[3.7\] is in .*, not in protocol.md"),
    ],
)  # fmt: skip
def test_a_broken_copy_is_seen(copy: Path, file: str, old: str, new: str, problem: str) -> None:
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new, 1))
    found = problems(copy)
    assert any(re.search(problem, one) for one in found), found


def test_a_test_file_that_is_gone_is_seen(copy: Path) -> None:
    (copy / "tests" / "test_two.py").unlink()
    assert problems(copy) == ["[3.1] names tests/test_two.py::test_it: no such test"]


def test_the_real_page_breaks_too(tmp_path: Path) -> None:
    """A clause without its entry, in the real manifest beside the real page and the real tests."""
    for folder in ("tests", "mlx_stdio"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / "protocol").mkdir()
    (tmp_path / PAGE).write_text((ROOT / PAGE).read_text(encoding="utf-8"), encoding="utf-8")
    assert '\n"12.5" = [' in CLAUSES
    (tmp_path / MANIFEST).write_text(CLAUSES.replace('\n"12.5" = [', '\n"12.99" = ['))
    assert problems(tmp_path) == [
        f"[12.5] is not in {MANIFEST}",
        f"[12.99] is in {MANIFEST}, not in {PAGE}",
    ]
