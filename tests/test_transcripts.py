"""Transcripts as files, their matchers, and the rules that hold of every conversation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlx_stdio.conformance.ledger import Broken, Ledger
from mlx_stdio.conformance.matching import Bindings, Mismatch, fill, match
from mlx_stdio.conformance.transcript import BadTranscript, read_transcript


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"name": "other", "clauses": []}',
        '{"name": "bad"}',
        '{"name": "bad", "clauses": [], "options": {"more": 1}}',
        '{"name": "bad", "clauses": [], "options": {"framing": "lines"}}',
        '{"name": "bad", "clauses": [], "options": {"arguments": "--preload"}}',
        '{"name": "bad", "clauses": [], "options": {"arguments": [1]}}',
        '{"name": "bad", "clauses": [], "options": {"arguments": [{"$ref": "nosuch"}]}}',
        '{"name": "bad", "clauses": [], "options": {"folders": []}}',
        '{"name": "bad", "clauses": [], "options": {"folders": {"a/b": {}}}}',
        '{"name": "bad", "clauses": [], "options": {"folders": {"..": {}}}}',
        '{"name": "bad", "clauses": [], "options": {"folders": {"a": {"../b": ""}}}}',
        '{"name": "bad", "clauses": [], "options": {"folders": {"a": {"/b": ""}}}}',
        '{"name": "bad", "clauses": [], "options": {"folders": {"a": {"b": 1}}}}',
        '{"name": "bad", "clauses": []}\n{"send": {"id": "a"}, "times": 2}',
        '{"name": "bad", "clauses": []}\n{"reading": 1}',
        '{"name": "bad", "clauses": []}\n{"reading": false}',
        '{"name": "bad", "clauses": []}\n{"reading": false}\n{"expect": 1}\n{"reading": true}',
        '{"name": "bad", "clauses": []}\n{"sendUntilFull": {"id": 1}, "most": 9}',
        '{"name": "bad", "clauses": []}\n{"reading": false}\n{"sendUntilFull": {"id": 1}}',
        '{"name": "bad", "clauses": []}\n{"expect": {"$many": 1, "$mim": 1}}',
        '{"name": "bad", "clauses": []}\n{"expectAnyOrder": [{"$many": 1, "$max": 1}]}',
        '{"name": "bad", "clauses": []}\n{"sent": {}}',
        '{"name": "bad", "clauses": []}\n{"send": {}, "expect": {}}',
        '{"name": "bad", "clauses": []}\n{"send": {}, "times": 2}',
        '{"name": "bad", "clauses": []}\n{',
        '{"name": "bad", "clauses": []}\n[]',
    ],
)
def test_a_file_that_is_no_transcript_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(text)
    with pytest.raises(BadTranscript):
        read_transcript(file)


FITS: list[tuple[Any, Any]] = [
    (1, 1.0),
    (None, None),
    ({"a": 1, "$rest": True}, {"a": 1, "b": 2}),
    ({"a": {"$absent": True}}, {}),
    ({"a": {"$optional": 1}}, {}),
    ({"$any": True}, None),
    ({"$type": "integer"}, 2**64 - 1),
    ({"$type": "number"}, 1.5),
    ({"$type": "boolean"}, True),
    ({"$regex": "^a"}, "ab"),
    ({"$int": {"min": 0, "max": 3}}, 3),
    ({"$number": {}}, -1.5),
    ({"$oneOf": [1, {"$type": "string"}]}, "x"),
    ({"$each": {"$int": {}}}, []),
    ({"$contains": [2, 1]}, [1, 2, 3]),
    ({"$begins": [1, {"$any": True}]}, [1, 2, 3]),
    ({"$begins": []}, []),
    ({"$anyOrder": [2, 1]}, [1, 2]),
    ({"$all": [{"$type": "string"}, {"$regex": "x"}]}, "x"),
    ([{"$bind": "n"}, {"$ref": "n"}], [[1], [1]]),
    ({"$deltas": 7}, "seven"),
    ({"$deltas": "none"}, ""),
]
DIFFERS: list[tuple[Any, Any]] = [
    (1, True),
    (1, "1"),
    (0, None),
    ([1], [1, 2]),
    ([1], {"0": 1}),
    ({"a": 1}, {"a": 1, "b": 2}),
    ({"a": 1, "$rest": True}, {"b": 1}),
    ({"a": None}, {}),
    ({"a": {"$absent": True}}, {"a": None}),
    ({"a": {"$optional": 1}}, {"a": 2}),
    ({"a": {"$any": True}}, {}),
    ({"$type": "integer"}, True),
    ({"$type": "integer"}, 1.5),
    ({"$type": "string"}, None),
    ({"$regex": "^a"}, "b"),
    ({"$regex": "1"}, 1),
    ({"$int": {"min": 0}}, -1),
    ({"$number": {"max": 1}}, 2),
    ({"$oneOf": [1, 2]}, 3),
    ({"$each": 1}, [1, 2]),
    ({"$each": 1}, None),
    ({"$contains": [4]}, [1, 2, 3]),
    ({"$begins": [2]}, [1, 2, 3]),
    ({"$begins": [1, 2]}, [1]),
    ({"$begins": [1]}, {"1": 1}),
    ({"$anyOrder": [1, 1]}, [1, 2]),
    ({"$anyOrder": [1]}, [1, 2]),
    ([{"$bind": "n"}, {"$ref": "n"}], [1, 2]),
    ({"$deltas": 7}, "six"),
    ({"$deltas": "7"}, "seven"),
]


@pytest.mark.parametrize(("pattern", "value"), FITS)
def test_what_fits(pattern: Any, value: Any) -> None:
    match(pattern, value, Bindings({}, {7: "seven"}))


@pytest.mark.parametrize(("pattern", "value"), DIFFERS)
def test_what_does_not_fit(pattern: Any, value: Any) -> None:
    bindings = Bindings({}, {7: "seven"})
    with pytest.raises(Mismatch):
        match(pattern, value, bindings)
    assert bindings.names == {}


def test_what_was_bound_is_sent() -> None:
    bindings = Bindings(match({"a": {"$bind": "x"}}, {"a": [1]}, Bindings({}, {})), {})
    assert fill({"params": [{"$ref": "x"}, 2]}, bindings) == {"params": [[1], 2]}
    with pytest.raises(Mismatch):
        fill({"$ref": "y"}, bindings)


@pytest.mark.parametrize(
    "message",
    [
        7,
        [],
        [{"jsonrpc": "2.0", "method": "stream/delta", "params": {}}],
        {"jsonrpc": "2.0", "id": 1},
        {"jsonrpc": "2.0", "result": 1},
        {"jsonrpc": "2.0", "id": 1, "result": 1, "more": 1},
        {"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "x"}},
        {"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "x", "data": {}}},
        {"jsonrpc": "2.0", "id": True, "result": 1},
        {"jsonrpc": "2.0", "id": 2, "result": 1},
        {"jsonrpc": "2.0", "method": "x", "id": 1},
        {"jsonrpc": "2.0", "method": "stream/delta", "params": {"requestId": 1, "seq": 1}},
        {"jsonrpc": "2.0", "method": "stream/delta", "params": {"requestId": 1, "seq": 0}},
        {"jsonrpc": "2.0", "method": "$/progress", "params": {"requestId": 1, "completed": None}},
    ],
)
def test_what_no_conversation_may_have(message: Any) -> None:
    ledger = Ledger()
    ledger.sent({"jsonrpc": "2.0", "id": 1, "method": "generate"})
    with pytest.raises(Broken):
        ledger.came(message)


def test_progress_has_to_rise() -> None:
    ledger = Ledger()
    ledger.sent({"jsonrpc": "2.0", "id": 1, "method": "generate"})
    for phase, completed in (("queued", 0), ("loading", 0), ("loading", 5)):
        params = {"requestId": 1, "phase": phase, "completed": completed}
        ledger.came({"jsonrpc": "2.0", "method": "$/progress", "params": params})
    with pytest.raises(Broken):
        ledger.came({"jsonrpc": "2.0", "method": "$/progress", "params": params})
