"""The wire end to end: what a real engine answers to good, bad, split and numerous messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.host import Host, LateHost, RpcError, joined


def refusal(host: Host, method: str, **params: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        host.call(method, **params)
    return caught.value


def raw(host: Host, line: str | bytes) -> Any:
    """Write one line as it is; the next message that is no notification."""
    host.write((line.encode() if isinstance(line, str) else line) + b"\n")
    message, _ = host.until(lambda m: isinstance(m, list) or "method" not in m)
    return message


def ping(request_id: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "method": "ping"}


def test_the_handshake_is_answered_before_mlx_is_there(models: Path) -> None:
    with Host("--models-dir", str(models), "--model", "tiny") as host:
        host.write(
            b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":1}}\n'
            b'{"jsonrpc":"2.0","id":2,"method":"engine/status"}\n'
        )
        assert host.reply(1)["serverInfo"]["name"] == "mlx-stdio"
        # Both were answered from the same read, before anything else was begun.
        status = host.reply(2)
        assert status["device"]["type"] == "none"
        assert status["memory"]["activeBytes"] == 0


@pytest.mark.parametrize(
    ("line", "code", "request_id"),
    [
        ("nonsense", -32700, None),
        ('{"jsonrpc":"2.0","id":1,', -32700, None),
        (b'{"jsonrpc":"2.0","id":1,"method":"\xff"}', -32700, None),
        ("[" * 100_000, -32700, None),
        ("[]", -32600, None),
        ("1", -32600, None),
        ('{"id":4,"method":"ping"}', -32600, 4),
        ('{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600, None),
        ('{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600, None),
        ('{"jsonrpc":"2.0","id":5,"method":"ping","extra":1}', -32600, 5),
        ('{"jsonrpc":"2.0","id":6,"method":"pong"}', -32601, 6),
        ('{"jsonrpc":"2.0","id":6,"method":"exit"}', -32601, 6),
        ('{"jsonrpc":"2.0","id":6,"method":"$/cancelRequest","params":{"id":1}}', -32601, 6),
        ('{"jsonrpc":"2.0","id":7,"method":"ping","params":[]}', -32602, 7),
        ('{"jsonrpc":"2.0","id":7,"method":"generate","params":["x"]}', -32602, 7),
        ('{"jsonrpc":"2.0","id":8,"method":"ping","params":{"x":1}}', -32602, 8),
    ],
)
def test_a_bad_message_gets_its_error_and_the_stream_goes_on(
    shared_host: Host, line: str | bytes, code: int, request_id: Any
) -> None:
    reply = raw(shared_host, line)
    assert (reply["error"]["code"], reply["id"]) == (code, request_id)
    assert shared_host.call("ping") == {}


@pytest.mark.parametrize("params", ["", ',"params":null', ',"params":{}', ',"params":{"_meta":{}}'])
def test_absent_null_and_empty_params_are_the_same(shared_host: Host, params: str) -> None:
    for method in ("ping", "engine/status", "rpc.discover"):
        assert "result" in raw(
            shared_host, f'{{"jsonrpc":"2.0","id":1,"method":"{method}"{params}}}'
        )


@pytest.mark.parametrize("request_id", [0, -7, 2**53 + 1, 2**64 - 1, "0", "", "é🎉\u2028\u0000"])
def test_ids_come_back_as_they_were(shared_host: Host, request_id: Any) -> None:
    for method in ("ping", "tokenize", "nosuch"):
        message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": None}
        reply = raw(shared_host, json.dumps(message))
        assert reply["id"] == request_id
        assert type(reply["id"]) is type(request_id)


def test_an_error_carries_the_path_of_the_offence(shared_host: Host) -> None:
    assert refusal(shared_host, "generate", prompt="a", foo=1).data["path"] == "$.foo"
    assert refusal(shared_host, "chat", messages=[{"role": "u", "x": 1}]).data["path"] == (
        "$.messages[0].x"
    )


@pytest.mark.parametrize(
    ("method", "params", "path"),
    [
        ("embed", {"input": ["x"]}, None),
        ("generate", {"prompt": "x", "responseFormat": {"type": "json"}}, "$.responseFormat"),
        ("generate", {"prompt": "x", "adapter": "a"}, "$.adapter"),
        ("chat", {"messages": [{"role": "user", "content": "x"}], "tools": []}, "$.tools"),
        ("chat", {"messages": [{"role": "user"}], "toolChoice": "none"}, "$.toolChoice"),
        ("models/load", {"model": "tiny", "adapter": "a"}, "$.adapter"),
    ],
)
def test_what_is_not_built_is_refused_before_any_work(
    shared_host: Host, method: str, params: dict[str, Any], path: str | None
) -> None:
    loads = shared_host.call("engine/status")["counters"]["modelLoads"]
    error = refusal(shared_host, method, **params)
    assert (error.code, error.kind, error.data.get("path")) == (1006, "unsupported", path)
    assert shared_host.call("engine/status")["counters"]["modelLoads"] == loads


def test_a_batch_is_answered_by_one_array(shared_host: Host) -> None:
    batch = [
        ping("a"),
        {"jsonrpc": "2.0", "method": "ping"},
        {"jsonrpc": "2.0", "id": 2, "method": "tokenize", "params": {"text": "ab"}},
        7,
        {"jsonrpc": "2.0", "id": 3, "method": "nosuch"},
        {"jsonrpc": "2.0", "id": 4, "result": 1},
        {
            "jsonrpc": "2.0",
            "id": 5,
            "method": "generate",
            "params": {"prompt": "ab", "maxTokens": 3},
        },
    ]
    replies = raw(shared_host, json.dumps(batch))
    assert isinstance(replies, list)
    by_id = {reply["id"]: reply for reply in replies}
    assert set(by_id) == {"a", 2, None, 3, 5}
    assert len(replies) == 5
    assert by_id["a"]["result"] == {}
    assert by_id[2]["result"]["tokens"]
    assert by_id[None]["error"]["code"] == -32600
    assert by_id[3]["error"]["code"] == -32601
    assert by_id[5]["result"]["usage"]["completionTokens"] == 3


def test_a_batch_of_notifications_is_not_answered(shared_host: Host) -> None:
    note = {"jsonrpc": "2.0", "method": "ping"}
    answer = {"jsonrpc": "2.0", "id": 1, "result": 1}
    shared_host.send([note, note])
    shared_host.send([answer])
    shared_host.send(note)
    shared_host.send(answer)
    assert raw(shared_host, json.dumps(ping("next"))) == {
        "jsonrpc": "2.0",
        "id": "next",
        "result": {},
    }


def test_a_batch_of_invalid_members_is_answered_by_as_many_errors(shared_host: Host) -> None:
    replies = raw(shared_host, "[1,{},[]]")
    assert [reply["error"]["code"] for reply in replies] == [-32600] * 3
    assert [reply["id"] for reply in replies] == [None] * 3


def test_an_oversize_message_is_skipped_and_answered_once(models: Path) -> None:
    with Host("--max-message-bytes", "1K") as host:
        limits = host.call("initialize", protocolVersion=1)["limits"]
        assert limits["maxMessageBytes"] == 1024
        exact = json.dumps({**ping("x"), "params": {"_meta": {"a": ""}}})
        exact = exact.replace('"a": ""', f'"a": "{"y" * (1024 - len(exact))}"')
        assert len(exact) == 1024
        assert raw(host, exact)["id"] == "x"
        reply = raw(host, exact.replace("yy", "yyy", 1))
        assert (reply["error"]["code"], reply["id"]) == (-32600, None)
        assert reply["error"]["data"]["maxMessageBytes"] == 1024
        host.write(b"[" * 5_000_000 + b"\n")
        assert raw(host, json.dumps(ping("after")))["error"]["code"] == -32600
        assert host.next() == {"jsonrpc": "2.0", "id": "after", "result": {}}


def test_an_id_in_flight_cannot_be_used_again(host: Host) -> None:
    host.start("generate", "a", prompt="ab", maxTokens=1500, ignoreEos=True, stream=False)
    host.start("tokenize", "a", text="x")
    with pytest.raises(RpcError) as caught:
        host.reply("a")
    assert caught.value.code == -32600
    host.cancel("a")
    with pytest.raises(RpcError) as caught:
        host.reply("a")
    assert caught.value.code == -32800
    assert host.reply(host.start("tokenize", "a", text="x"))["tokens"]


def test_requests_may_come_byte_by_byte(shared_host: Host) -> None:
    text = "é🎉\u2028"
    line = json.dumps(
        {"jsonrpc": "2.0", "id": text, "method": "tokenize", "params": {"text": text}},
        ensure_ascii=False,
    ).encode()
    for byte in line + b"\r\n":
        shared_host.write(bytes([byte]))
    assert shared_host.reply(text)["tokens"]


def test_thousands_of_pings_at_once(shared_host: Host) -> None:
    shared_host.write(b"".join(json.dumps(ping(n)).encode() + b"\n" for n in range(2000)))
    assert [shared_host.next()["id"] for _ in range(2000)] == list(range(2000))


def test_a_host_that_reads_late_loses_nothing(late_host: LateHost) -> None:
    """Its pipe is full long before it begins to read."""
    late_host.write(b"".join(json.dumps(ping(n)).encode() + b"\n" for n in range(4000)))
    late_host.start("generate", "last", prompt="ab", maxTokens=400, ignoreEos=True)
    late_host.reading.set()
    for number in range(4000):
        assert late_host.next()["id"] == number
    result = late_host.reply("last")
    assert joined(late_host.take_deltas("last")) == result["text"]


def test_text_beyond_the_basic_plane_comes_back_whole(shared_host: Host) -> None:
    text = 'é 你好 🎉 𝔘 \u2028\u2029\u0085\u0000 "\\ \U0010ffff'
    tokens = shared_host.call("tokenize", text=text)["tokens"]
    assert shared_host.call("detokenize", tokens=tokens)["text"] == text
    result = shared_host.call("applyTemplate", messages=[{"role": "user", "content": text}])
    assert text in result["prompt"]


def test_each_message_is_one_line(shared_host: Host) -> None:
    """Whatever is in a text, the byte newline only ends messages, and nothing is cut."""
    before = len(shared_host.lines)
    for text in ("a\nb", "a\r\nb", "\u2028", "\x1e\x1f\x0b\x0c"):
        tokens = shared_host.call("tokenize", text=text)["tokens"]
        assert shared_host.call("detokenize", tokens=tokens)["text"] == text
    assert len(shared_host.lines) == before + 8
    assert all(line.endswith(b"}\n") for line in shared_host.lines[before:])
    assert all(line.count(b"\n") == 1 for line in shared_host.lines[before:])


def test_the_engine_describes_itself(shared_host: Host) -> None:
    document = shared_host.call("rpc.discover")
    assert document["openrpc"].startswith("1.")
    assert "generate" in {method["name"] for method in document["methods"]}


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("initialize", {"protocolVersion": 1, "clientInfo": {"deep": "LIST"}}),
        ("models/load", {"model": "~nobody-of-this-name/x"}),
        ("models/load", {"model": "tiny", "keepAliveSeconds": 1e300}),
        ("models/load", {"model": "tiny", "streamToken": 2**64 - 1}),
        ("generate", {"prompt": "ab", "maxTokens": 2, "timeoutMs": 2**64 - 1}),
        ("generate", {"prompt": "ab", "maxTokens": 2, "repetitionContext": 2**64 - 1}),
        ("generate", {"prompt": "ab", "maxTokens": 2, "logitBias": {"9" * 400: 1}}),
        ("tokenize", {"text": "x", "model": "a\u0000b"}),
        ("x" * 100_000, {}),
    ],
)
def test_extreme_values_do_not_end_the_engine(
    shared_host: Host, method: str, params: dict[str, Any]
) -> None:
    line = json.dumps({"jsonrpc": "2.0", "id": "odd", "method": method, "params": params})
    line = line.replace('"LIST"', "[" * 400 + "]" * 400)
    reply = raw(shared_host, line)
    assert reply["id"] == "odd"
    assert len(json.dumps(reply)) < 20_000
    result = shared_host.call("generate", prompt="ab", maxTokens=2, ignoreEos=True)
    assert result["usage"]["completionTokens"] == 2
