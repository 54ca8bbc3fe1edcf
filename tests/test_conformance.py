"""The conformance run: who keeps the protocol passes, and who breaks it fails where it does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlx_stdio.conformance.lacking import OPTIONAL, REQUIRED, REQUIRED_PARAMS
from mlx_stdio.conformance.transcript import all_transcripts
from tests.host import COMMAND, ROOT

# One ping, one stream, and the end.
PING: list[dict[str, Any]] = [
    {"name": "ping", "clauses": ["2.1"]},
    {"send": {"jsonrpc": "2.0", "id": 1, "method": "ping"}},
    {"send": {"jsonrpc": "2.0", "method": "nosuch"}},
    {"expect": {"jsonrpc": "2.0", "id": 1, "result": {}}},
]
DELTA = {"jsonrpc": "2.0", "method": "stream/delta", "params": {"requestId": 2, "$rest": True}}
STREAM: list[dict[str, Any]] = [
    {"name": "stream", "clauses": ["7.16", "8.2"]},
    {"send": {"jsonrpc": "2.0", "id": 2, "method": "generate"}},
    {"expectAnyOrder": [{"$many": DELTA}, {"jsonrpc": "2.0", "id": 2, "result": {"$deltas": 2}}]},
]

# A program that keeps both; each broken one replaces something in it.
PROGRAM = """
import json, sys
def say(message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\\n")
    sys.stdout.flush()
def delta(seq, text):
    params = {"requestId": 2, "seq": seq, "text": text}
    say({"method": "stream/delta", "params": params})
for line in sys.stdin:
    request = json.loads(line)
    if request["method"] == "ping":
        say({"id": request["id"], "result": {}})
    elif request["method"] == "generate":
        delta(0, "a")
        delta(1, "b")
        say({"id": 2, "result": "ab"})
sys.exit(0)
"""
BROKEN: dict[str, tuple[str, str, str]] = {
    "no reply": ('say({"id": request["id"], "result": {}})', "pass", "nothing came in time"),
    "two replies": (
        'say({"id": request["id"], "result": {}})',
        'say({"id": request["id"], "result": {}}); say({"id": request["id"], "result": {}})',
        "a reply to a request that is not in flight: 1",
    ),
    "wrong id": ('"id": request["id"]', '"id": "1"', "a reply to a request that is not in flight"),
    "wrong result": ('"result": {}', '"result": []', "$.result: expected an object; [] came"),
    "a member too many": ('"result": {}', '"result": {"more": 1}', "not expected, `more`"),
    "both": ('"result": {}', '"result": {}, "error": {}', "a result or an error"),
    "no version": ('"jsonrpc": "2.0", ', "", '`jsonrpc` is not "2.0"'),
    "an answered notification": (
        'elif request["method"] == "generate":',
        'elif "id" not in request: say({"id": None, "result": 1})\n    elif True:',
        "nothing more is due",
    ),
    "delta after reply": (
        'say({"id": 2, "result": "ab"})',
        'say({"id": 2, "result": "ab"}); delta(2, "c")',
        "about a request that is not in flight",
    ),
    "a gap": ('delta(1, "b")', 'delta(2, "b")', "`seq` is 2 where 1 is due"),
    "a lost text": ('delta(1, "b")', "pass", 'expected the text that was streamed, "a"'),
    "noise": ("for line in", 'print("loading...", flush=True)\nfor line in', "not JSON"),
    "half a line": ("sys.exit(0)", 'sys.stdout.write("{}")', "a line that does not end"),
    "an empty array": ("sys.exit(0)", 'print("[]")', "an empty array"),
    "exit code": ("sys.exit(0)", "sys.exit(3)", "exit code: $: expected 0; 3 came"),
    "dies": (
        "for line in sys.stdin:",
        "sys.exit(3)\nfor line in []:",
        "the stream has ended; exit code 3",
    ),
    "does not end": (
        "sys.exit(0)",
        "import os, time; os.close(1); time.sleep(9)",
        "the process does not end",
    ),
}


def conformance(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "conformance", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two small transcripts."""
    for rows in (PING, STREAM):
        file = tmp_path / f"{rows[0]['name']}.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


@pytest.mark.timeout(300)  # every transcript starts an engine of its own
def test_the_engine_passes(models: Path) -> None:
    engine = [*COMMAND, "--models-dir", str(models), "--model", "tiny"]
    done = conformance("--jobs", "4", "--", *engine)
    assert done.returncode == 0, done.stdout
    assert "FAILED" not in done.stdout


@pytest.mark.timeout(300)
def test_the_fake_passes() -> None:
    done = conformance("--jobs", "4", "--json", "--", *COMMAND, "fake")
    report = json.loads(done.stdout)
    assert (done.returncode, report["passed"]) == (0, True), done.stdout
    names = {transcript.name for transcript in all_transcripts()}
    assert {row["name"] for row in report["transcripts"] if row["passed"]} == names
    assert set(report["clauses"]) == {c for t in all_transcripts() for c in t.clauses}


def test_a_program_that_keeps_the_rules_passes(folder: Path) -> None:
    done = conformance("--folder", str(folder), "--", sys.executable, "-c", PROGRAM)
    assert done.returncode == 0, done.stdout
    assert re.findall(r"^(\S+) +passed", done.stdout, re.MULTILINE) == ["2.1", "7.16", "8.2"]


def test_what_does_not_apply_ends_a_transcript(tmp_path: Path) -> None:
    rows = [*PING[:3], {"expect": {"$ref": "nothing"}, "orEnd": PING[3]["expect"]}, {"exit": 5}]
    (tmp_path / "ping.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = conformance("--folder", str(tmp_path), "--", sys.executable, "-c", PROGRAM)
    assert done.returncode == 0, done.stdout
    # It has shown nothing, and is not said to have.
    assert re.search(r"^2\.1 +not shown +ping$", done.stdout, re.MULTILINE)
    assert done.stdout.endswith("0 of 1 clauses, 1 of 1 transcripts; 1 clauses were not shown\n")
    program = PROGRAM.replace("sys.exit(0)", "sys.exit(5)")  # the last step is not for it
    assert (
        conformance("--folder", str(tmp_path), "--", sys.executable, "-c", program).returncode == 1
    )


# How a program that has changed something in it becomes the fake engine.
FAKE = """
sys.argv = ["mlx-stdio", "fake", *sys.argv[1:]]
from mlx_stdio.__main__ import main
main()
"""

# The fake engine as a later release of version 1 may be: a member more in all that may get one, and
# notifications that this page does not know.
LATER = """
import msgspec, sys
from mlx_stdio.wire import envelope
plain = envelope._dump
def later(value):
    if isinstance(value, dict):
        return {name: later(one) for name, one in value.items()} | {"later": [1]}
    return [later(one) for one in value] if isinstance(value, list) else value
def dump(value):
    value = msgspec.to_builtins(value)
    for name in ("result", "params"):
        if name in value:
            value[name] = later(value[name])
    if "data" in value.get("error", ()):
        value["error"]["data"] = later(value["error"]["data"])
    news = b'{"jsonrpc":"2.0","method":"later/news","params":{}}\\n'
    return (news if NEWS and "method" in value else b"") + plain(value)  # a reply may be in a batch
envelope._dump = dump
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("framing", ["newline", "content-length"])
def test_what_version_1_may_add_breaks_nothing(framing: str) -> None:
    """5.9 and 5.10: an older set of transcripts is no older version of the protocol."""
    names = [t.name for t in all_transcripts() if t.framing == framing]
    program = f"NEWS = {framing == 'newline'}{LATER}{FAKE}"
    options = ["--jobs", "4", "--transcript", *names]
    done = conformance(*options, "--", sys.executable, "-c", program)
    assert done.returncode == 0, done.stdout


# The fake engine without what 5.13 lets an engine lack, and without more.
LACKING = """
import msgspec, sys
from mlx_stdio.conformance.lacking import REQUIRED, REQUIRED_PARAMS
from mlx_stdio.protocol import methods
from mlx_stdio.session import prepare
for name, row in methods.METHODS.items():
    if not row.notification and (name not in REQUIRED or name == MORE):
        methods.METHODS[name] = msgspec.structs.replace(row, built=False)
fields = {field.encode_name for field in msgspec.structs.fields(methods.METHODS["generate"].params)}
lacks = tuple(sorted(fields - REQUIRED_PARAMS - {"_meta"} | ({MORE} & fields)))
methods.UNSUPPORTED_PARAMS = prepare.UNSUPPORTED_PARAMS = lacks
"""


@pytest.mark.timeout(300)
def test_an_engine_may_lack_what_is_not_required() -> None:
    """5.13: what it lacks is not shown, the rest is, and nothing fails."""
    options = ["--jobs", "4", "--json"]
    done = conformance(*options, "--", sys.executable, "-c", f"MORE = ''{LACKING}{FAKE}")
    report = json.loads(done.stdout)
    assert done.returncode == 0, [row for row in report["transcripts"] if row["failure"]]
    shown = {clause for clause, row in report["clauses"].items() if row["shown"]}
    assert {"5.13", "7.9", "9.1", "10.7"} <= shown
    assert not {"6.22", "7.10", "7.27"} & shown


def test_unsupported_is_no_answer_to_what_is_wrong(tmp_path: Path) -> None:
    """A program that knows no other error keeps no clause about errors."""
    program = PROGRAM.replace(
        "sys.exit(0)",
        "",
    ).replace(
        'elif request["method"] == "generate":',
        'else:\n        error = {"code": 1006, "message": "no", "data": {"kind": "unsupported"}}\n'
        '        say({"id": request["id"], "error": error})\n    if False:',
    )
    names = ["methods-unknown", "params-refused", "error-order"]
    done = conformance("--transcript", *names, "--json", "--", sys.executable, "-c", program)
    report = json.loads(done.stdout)
    assert [row["passed"] for row in report["transcripts"]] == [False] * 3, report


def test_the_report_can_be_printed_whatever_came(tmp_path: Path) -> None:
    rows = [PING[0], {"send": {**PING[1]["send"], "method": ["ping"]}}, PING[3]]
    (tmp_path / "ping.jsonl").write_text("\n".join(map(json.dumps, rows)))
    program = "import sys\nfor _ in sys.stdin: print('\"\\\\ud800\"', flush=True)"
    done = conformance("--folder", str(tmp_path), "--", sys.executable, "-c", program)
    assert (done.returncode, done.stderr) == (1, "")
    assert "ud800" in done.stdout


def test_what_is_required_is_what_the_page_and_the_go_client_say() -> None:
    """5.13 stands in `protocol.md`, in `lacking.py` and in the Go client's replay."""
    page = (ROOT / "protocol.md").read_text()
    clause = page.split("\n[5.13] ")[1].split("\n\n")[0]
    methods, params = clause.split("`generate`; and")
    assert {*re.findall(r"`(.+?)`", methods), "generate"} - {"capabilities.methods"} == REQUIRED
    listed = set(re.findall(r"`(.+?)`", params.split("MUST work:")[1].split("and those of")[0]))
    assert listed == REQUIRED_PARAMS
    go = (ROOT / "clients/go/conformance_lacking_test.go").read_text()
    text = go.split("requiredParams = []string{")[1].split("}")[0]
    assert set(re.findall(r'"(.+?)"', text)) == REQUIRED_PARAMS | {"_meta"}
    names = dict(re.findall(r'(Method\w+) += "(.+?)"', (ROOT / "clients/go/types.go").read_text()))
    text = go.split("optionalMethods = []string{")[1].split("}")[0]
    assert {names[one] for one in re.findall(r"Method\w+", text)} == OPTIONAL


@pytest.mark.parametrize("more", ["models/load", "seed"])
def test_what_is_required_must_work(more: str) -> None:
    options = ["--transcript", "models", "seed", "--"]
    done = conformance(*options, sys.executable, "-c", f"MORE = {more!r}{LACKING}{FAKE}")
    assert done.returncode == 1
    assert "unsupported" in done.stdout


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_program_fails(what: str, folder: Path) -> None:
    old, new, reason = BROKEN[what]
    assert old in PROGRAM
    program = PROGRAM.replace(old, new)
    options = ["--folder", str(folder), "--timeout", "1.5", "--jobs", "2", "--json"]
    done = conformance(*options, "--", sys.executable, "-c", program)
    assert done.returncode == 1
    report = json.loads(done.stdout)
    failures = [row["failure"] for row in report["transcripts"] if row["failure"]]
    assert any(reason in failure["reason"] for failure in failures), failures
    failed = {row["name"] for row in report["transcripts"] if not row["passed"]}
    for clause in report["clauses"].values():
        assert clause["passed"] == (not failed & set(clause["transcripts"]))


def test_the_table_tells_where_and_why(folder: Path) -> None:
    program = PROGRAM.replace('"result": {}', '"result": 7') + "\nsys.stderr.write('boo')"
    program = "import sys; sys.stderr.write('boo')\n" + program
    done = conformance("--folder", str(folder), "--", sys.executable, "-c", program)
    assert done.returncode == 1
    assert re.search(r"^2\.1 +FAILED +ping$", done.stdout, re.MULTILINE)
    assert re.search(r"^7\.16 +passed +stream$", done.stdout, re.MULTILINE)
    for part in ("ping.jsonl:4: $.result: expected", '"result": 7', "boo", "2 of 3 clauses"):
        assert part in done.stdout


def test_some_transcripts_only(folder: Path) -> None:
    options = ["--folder", str(folder), "--transcript", "ping", "--json"]
    done = conformance(*options, "--", sys.executable, "-c", PROGRAM)
    assert list(json.loads(done.stdout)["clauses"]) == ["2.1"]
    listed = conformance("--list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == [t.name for t in all_transcripts()]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--"],
        ["--transcript", "nosuch", "--", "true"],
        ["--folder", "/nowhere", "--transcript", "ping", "--", "true"],
        ["--folder", "/nowhere", "--", "true"],  # a run of none must not pass
        ["--no-arguments", "--transcript", "lru", "--", "true"],
        ["--transcript", "ids", "--", "/nowhere/nosuch"],
        ["--nosuch", "--", "true"],
    ],
)
def test_a_wrong_command_line_is_explained(arguments: list[str]) -> None:
    done = conformance(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: mlx-stdio conformance" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_clause_named_exists() -> None:
    page = (ROOT / "protocol.md").read_text(encoding="utf-8")
    known = set(re.findall(r"^\[(\d+\.\d+)\] ", page, re.MULTILINE))
    transcripts = all_transcripts()
    assert len(transcripts) > 100
    for transcript in transcripts:
        assert transcript.clauses, transcript.name
        assert set(transcript.clauses) <= known, transcript.name
        assert transcript.steps
