"""JSON-RPC envelopes: what `parse` makes of each message, good or bad; it never raises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_stdio.errors import EngineError
from mlx_stdio.wire.envelope import (
    Call,
    Ignored,
    Invalid,
    Message,
    Notification,
    error_bytes,
    parse,
    result_bytes,
)

CALL: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "m"}


def read(value: Any) -> Message | list[Message]:
    return parse(json.dumps(value).encode())


def refused(message: Any, code: int = -32600, request_id: Any = None) -> None:
    assert isinstance(message, Invalid), message
    assert message.error.code == code
    assert message.id == request_id
    assert type(message.id) is type(request_id)


@pytest.mark.parametrize(
    "request_id", ["", "0", "a", "é🎉\u2028", 0, -1, 2**53 + 1, -(2**63), 2**64 - 1, "x" * 10_000]
)
def test_ids_are_strings_and_integers_and_come_back_as_they_were(request_id: Any) -> None:
    call = read({**CALL, "id": request_id})
    assert isinstance(call, Call)
    assert type(call.id) is type(request_id)
    assert json.loads(result_bytes(call.id, {}))["id"] == request_id
    assert json.loads(error_bytes(call.id, EngineError("parseError", "x")))["id"] == request_id


@pytest.mark.parametrize("request_id", [1.5, 1.0, -0.0, 1e300, True, False, None, {}, {"a": 1}, []])
def test_other_ids_are_refused_with_a_null_id(request_id: Any) -> None:
    refused(read({**CALL, "id": request_id}))


@pytest.mark.parametrize("digits", ["18446744073709551616", "-9223372036854775809", "1" * 40])
def test_an_id_that_could_not_be_echoed_exactly_is_refused(digits: str) -> None:
    refused(parse(b'{"jsonrpc":"2.0","id":%s,"method":"m"}' % digits.encode()))


@pytest.mark.parametrize("version", ["1.0", "2", 2, 2.0, None, True, ["2.0"]])
def test_another_version_is_refused_with_the_id(version: Any) -> None:
    refused(read({**CALL, "jsonrpc": version}), request_id=1)


def test_a_missing_version_is_refused_with_the_id() -> None:
    refused(read({"id": "a", "method": "m"}), request_id="a")


@pytest.mark.parametrize("method", [1, None, True, ["m"], {}])
def test_a_method_that_is_no_string_is_refused(method: Any) -> None:
    refused(read({**CALL, "method": method}), request_id=1)


def test_a_missing_method_is_refused() -> None:
    refused(read({"jsonrpc": "2.0", "id": 7}), request_id=7)
    refused(read({"jsonrpc": "2.0"}))
    refused(read({}))


def test_an_unknown_member_is_refused_by_name() -> None:
    message = read({**CALL, "parms": {}})
    refused(message, request_id=1)
    assert isinstance(message, Invalid)
    assert "parms" in message.error.message


@pytest.mark.parametrize("params", ["x", 1, 1.5, True])
def test_params_of_another_type_are_refused(params: Any) -> None:
    refused(read({**CALL, "params": params}), request_id=1)


def test_params_may_be_absent_null_empty_or_positional() -> None:
    assert read(CALL) == Call(1, "m", None)
    assert read({**CALL, "params": None}) == Call(1, "m", None)
    assert read({**CALL, "params": {}}) == Call(1, "m", {})
    assert read({**CALL, "params": [1]}) == Call(1, "m", [1])  # refused later, as invalidParams


def test_without_an_id_it_is_a_notification() -> None:
    assert read({"jsonrpc": "2.0", "method": "m"}) == Notification("m", None)


@pytest.mark.parametrize("value", [1, "x", None, True, 1.5])
def test_a_message_that_is_no_object_is_refused(value: Any) -> None:
    refused(read(value))
    members = read([value, CALL])
    assert isinstance(members, list)
    refused(members[0])
    assert members[1] == Call(1, "m", None)


@pytest.mark.parametrize("answer", [{"result": 1}, {"error": {"code": 1, "message": "x"}}])
def test_responses_are_ignored(answer: dict[str, Any]) -> None:
    assert read({"jsonrpc": "2.0", "id": 1, **answer}) == Ignored()
    assert read({"jsonrpc": "2.0", "id": None, **answer}) == Ignored()
    assert read([{"jsonrpc": "2.0", "id": 1, **answer}]) == [Ignored()]


def test_an_empty_batch_is_one_error() -> None:
    refused(parse(b"[]"))
    refused(parse(b" [ ] "))


def test_a_bad_member_costs_only_itself() -> None:
    members = read([CALL, {"foo": 1}, [], {**CALL, "id": 2.5}, {"jsonrpc": "2.0", "method": "n"}])
    assert isinstance(members, list)
    assert [type(m) for m in members] == [Call, Invalid, Invalid, Invalid, Notification]


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"nonsense",
        b'{"jsonrpc":"2.0","id":1,"method":"m"',
        b'[{"jsonrpc":"2.0","id":1,"method":"m"},',
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e999}',
        b'{"a": 01}',
        b'{"a": 1,}',
        b'"\\ud800"',
        b'{"a":"\\udfff\\ud800"}',
        b'"\xff\xfe"',
        b'"\xed\xa0\x80"',  # a surrogate in UTF-8
        b'"\xc0\x80"',  # an overlong NUL
        b'{"a":"\x00"}',
        b"{} {}",
        "﻿{}".encode(),
        b"[" * 100_000,
        b"[" * 5000 + b"]" * 5000,
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
    ],
    ids=lambda line: line[:16].decode(errors="replace"),
)
def test_what_is_not_json_is_a_parse_error(line: bytes) -> None:
    refused(parse(line), code=-32700)


def test_an_error_has_its_code_kind_and_a_sentence() -> None:
    reply = json.loads(error_bytes(None, EngineError("parseError", "x", line=1)))
    error = {"code": -32700, "message": "x", "data": {"kind": "parseError", "line": 1}}
    assert reply == {"jsonrpc": "2.0", "id": None, "error": error}


def test_an_error_about_a_name_that_is_no_utf8_can_be_sent() -> None:
    reply = json.loads(
        error_bytes(1, EngineError("modelNotFound", b"a\xff".decode(errors="surrogateescape")))
    )
    assert reply["error"]["message"] == "a?"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
MEMBERS = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | JSON,
        "id": JSON,
        "method": st.text(max_size=5) | JSON,
        "params": JSON,
        "result": JSON,
        "extra": JSON,
    },
)


@settings(deadline=None)
@given(line=st.binary(max_size=200))
def test_any_bytes_give_a_message(line: bytes) -> None:
    assert parse(line) is not None


@settings(deadline=None)
@given(value=JSON | MEMBERS | st.lists(MEMBERS, max_size=4))
def test_any_json_gives_as_many_messages_as_it_has_members(value: Any) -> None:
    message = read(value)
    if isinstance(message, list):
        assert len(message) == len(value)
        assert message
    for one in message if isinstance(message, list) else [message]:
        assert isinstance(one, (Call, Notification, Invalid, Ignored))
        if isinstance(one, Invalid):
            assert json.loads(error_bytes(one.id, one.error))["id"] == one.id


def test_of_two_members_with_one_name_the_last_counts() -> None:
    assert parse(b'{"jsonrpc":"2.0","id":1,"method":"a","id":2,"method":"b"}') == Call(2, "b", None)


def test_a_number_that_no_double_holds_is_no_json() -> None:
    message = parse(b'{"jsonrpc":"2.0","id":1,"method":"a","params":{"x":1e400}}')
    assert isinstance(message, Invalid)
    assert (message.id, message.error.kind) == (None, "parseError")
