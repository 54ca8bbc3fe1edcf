"""What a transcript can give a program and do with its pipes: arguments, folders, a host that does
not read. Who keeps to it passes, and who does not fails.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.test_conformance import conformance

HEAD: dict[str, Any] = {"name": "one", "clauses": ["2.1"]}
PING: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
PONG: dict[str, Any] = {"jsonrpc": "2.0", "id": {"$int": {"min": 1}}, "result": {}}

PROGRAM = """
import json, os, sys, time
def say(message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\\n")
    sys.stdout.flush()
for line in sys.stdin:
    request = json.loads(line)
    say({"id": request["id"], "result": {}})
"""


def run(
    folder: Path, program: str, *steps: dict[str, Any], head: dict[str, Any] = HEAD
) -> subprocess.CompletedProcess[str]:
    (folder / f"{head['name']}.jsonl").write_text("\n".join(map(json.dumps, [head, *steps])))
    options = ["--folder", str(folder), "--timeout", "60"]
    return conformance(*options, "--", sys.executable, "-c", program)


def test_a_program_gets_arguments_and_folders(tmp_path: Path) -> None:
    program = PROGRAM.replace('"result": {}', '"result": [*sys.argv[1:], open(sys.argv[2]).read()]')
    program = program.replace("sys.argv[2]", "sys.argv[2] + '/sub/a.txt'")
    options = {
        "arguments": ["--at", {"$ref": "here"}],
        "folders": {"here": {"sub/a.txt": "so"}, "more": {}},
    }
    file = tmp_path / "where"
    keep = f"open({str(file)!r}, 'w').write(sys.argv[2])\nfor line in"
    done = run(
        tmp_path,
        program.replace("for line in", keep),
        {"send": {**PING, "params": {"_meta": {"$ref": "more"}}}},
        {"expect": {**PONG, "result": ["--at", {"$ref": "here"}, "so"]}},
        head={**HEAD, "options": options},
    )
    assert done.returncode == 0, done.stdout
    folder = Path(file.read_text())
    assert (folder.is_absolute(), folder.name, folder.exists()) == (True, "here", False)


def test_who_takes_no_arguments_is_not_tried(tmp_path: Path) -> None:
    given = {"clauses": ["2.1", "10.6"], "options": {"arguments": ["--max-queued", "1"]}}
    run(tmp_path, PROGRAM, {"close": True}, {"exit": 2}, head={"name": "two", **given})
    run(tmp_path, PROGRAM, {"send": PING}, {"expect": PONG})
    command = ["--folder", str(tmp_path), "--", sys.executable, "-c", PROGRAM]
    assert conformance(*command).returncode == 1
    done = conformance("--no-arguments", *command)
    assert done.returncode == 0, done.stdout
    assert "10.6    not tried  two" in done.stdout
    assert "2.1     passed     one" in done.stdout
    assert "1 of 1 clauses, 1 of 1 transcripts; 1 clauses were not tried" in done.stdout
    report = json.loads(conformance("--no-arguments", "--json", *command).stdout)
    assert report["notTried"] == {"10.6": ["two"]}
    assert list(report["clauses"]) == ["2.1"]
    listed = conformance("--no-arguments", "--list", "--folder", str(tmp_path)).stdout
    assert listed == "one  2.1\n"


MANY: list[dict[str, Any]] = [
    {"send": PING, "times": 8, "less": 3},
    {"expectAnyOrder": [{"$many": PONG, "$min": 4}, {**PONG, "id": 5}]},
]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("", "", None),
        ("    say(", '    request["id"] == 2 or say(', "3 came, at least 4 are due"),
        ('request["id"]', 'max(2, request["id"])', "not in flight: 2"),
        ('request["id"]', 'request["id"] + 7', "not in flight: 8"),
    ],
    ids=["all", "one is lost", "one comes twice", "another id"],
)
def test_what_is_sent_often_is_counted(
    old: str, new: str, reason: str | None, tmp_path: Path
) -> None:
    done = run(tmp_path, PROGRAM.replace(old, new), *MANY)
    assert done.returncode == (reason is not None), done.stdout
    assert (reason or "") in done.stdout


# It tells of each reply but the first whether the one before had to wait for the host.
WAITS = """
import json, sys, time
took = 0
for line in sys.stdin:
    result = [took > 1, "x" * 300000]
    began = time.monotonic()
    reply = {"jsonrpc": "2.0", "id": json.loads(line)["id"], "result": result}
    print(json.dumps(reply), flush=True)
    took = time.monotonic() - began
"""


def not_read(*steps: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"reading": False}, *steps, {"wait": 2500}, {"reading": True}]


@pytest.mark.parametrize("waits", [False, True])
def test_who_is_not_read_has_to_wait(waits: bool, tmp_path: Path) -> None:
    second = {"send": {**PING, "id": 2}}
    done = run(
        tmp_path,
        WAITS,
        {"send": PING},
        {"expect": {**PONG, "result": [False, {"$type": "string"}]}},
        *(not_read(second) if waits else [second]),
        {"expect": {**PONG, "result": {"$type": "array"}}},
        {"send": {**PING, "id": 3}},
        {"expect": {**PONG, "result": [waits, {"$type": "string"}]}},
    )
    assert done.returncode == 0, done.stdout


FULL: list[dict[str, Any]] = [
    {"reading": False},
    {"sendUntilFull": PING, "most": 20000, "count": "sent"},
    {"reading": True},
    {"send": {**PING, "id": 90000}},
    {"expectAnyOrder": [{"$many": PONG, "$min": {"$ref": "sent"}}, {**PONG, "id": 90000}]},
]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("", "", None),
        ("in sys.stdin", "in list(sys.stdin)", "it has read 20000 messages"),
        ("    say(", '    request["id"] == 1000 or say(', "are due"),
    ],
    ids=["it stops", "it reads on", "one is lost"],
)
def test_who_is_not_read_stops_reading(
    old: str, new: str, reason: str | None, tmp_path: Path
) -> None:
    done = run(tmp_path, PROGRAM.replace(old, new), *FULL)
    assert done.returncode == (reason is not None), done.stdout
    assert (reason or "") in done.stdout


COUNTS: list[dict[str, Any]] = [
    {"send": PING},
    {"expectAnyOrder": [{"$many": {**PONG, "method": "x"}, "$count": "first"}, PONG]},
    {"send": {**PING, "id": 2}},
    {"expectAnyOrder": [{"$many": {**PONG, "method": "x"}, "$below": {"$ref": "first"}}, PONG]},
]


@pytest.mark.parametrize(("times", "good"), [("4 - n", True), ("4", False), ("2 + n", False)])
def test_fewer_are_less_than_before(times: str, good: bool, tmp_path: Path) -> None:
    note = {"jsonrpc": "2.0", "method": "x"}
    steps = json.loads(
        json.dumps(COUNTS).replace(json.dumps({**PONG, "method": "x"}), json.dumps(note))
    )
    program = PROGRAM.replace(
        "    say(",
        f'    n = request["id"]\n    for _ in range({times}): say({{"method": "x"}})\n    say(',
    )
    done = run(tmp_path, program, *steps)
    assert (done.returncode == 0) == good, done.stdout
    assert good or "are due" in done.stdout


def test_what_comes_in_any_order_may_end_it(tmp_path: Path) -> None:
    steps: list[dict[str, Any]] = [
        {"send": PING, "times": 2},
        {"expectAnyOrder": [{**PONG, "id": 1}, {"$absent": True}], "orEnd": {**PONG, "id": 2}},
        {"expect": {"$absent": True}},
    ]
    assert run(tmp_path, PROGRAM, *steps).returncode == 0
    del steps[1]["orEnd"]
    assert run(tmp_path, PROGRAM, *steps).returncode == 1


@pytest.mark.parametrize(
    ("more", "good"), [('"id": 3', True), ('"id": 1', False), ('"id": 9', False)]
)
def test_what_is_in_flight_at_an_early_end_may_go_on(more: str, good: bool, tmp_path: Path) -> None:
    """The third request is answered after what ended the transcript; the first had its reply."""
    steps: list[dict[str, Any]] = [
        {"send": PING, "times": 3},
        {"expect": {**PONG, "id": 1}},
        {"expect": {"$absent": True}, "orEnd": {**PONG, "id": 2}},
    ]
    program = (
        PROGRAM.replace('    say({"id"', '    if request["id"] == 3: break\n    say({"id"')
        + f'sys.stdin.read()\nsay({{{more}, "result": {{}}}})\n'
    )
    done = run(tmp_path, program, *steps)
    assert (done.returncode == 0) == good, done.stdout
    assert good or "not in flight" in done.stdout
