"""Clauses of `protocol.md` about messages and the process that no other test proves."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import Any

import pytest

from mlx_stdio.errors import CODES
from mlx_stdio.protocol.methods import METHODS
from tests.host import COMMAND, Host, LateHost, RpcError
from tests.schema import check

HELLO = [{"role": "user", "content": "hello"}]
MINIMAL: dict[str, dict[str, Any]] = {
    "initialize": {"protocolVersion": 1},
    "models/load": {"model": "tiny"},
    "models/unload": {"model": "other"},
    "generate": {"prompt": "ab", "maxTokens": 4, "seed": 1},
    "chat": {"messages": HELLO, "maxTokens": 4, "seed": 1},
    "infill": {"prefix": "a", "suffix": "b", "maxTokens": 4, "seed": 1},
    "tokenize": {"text": "ab"},
    "detokenize": {"tokens": [70, 71]},
    "applyTemplate": {"messages": HELLO},
}
"""Params of each method that needs some."""

ANSWERED = [name for name, row in METHODS.items() if row.built and not row.notification]


def refused(host: Host, method: str, **params: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        host.call(method, **params)
    return caught.value


# Framing and logs.


PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'


def framed(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def answers(data: bytes, *options: str) -> list[Any]:
    """What the engine answers to these bytes, each in a frame with its length."""
    done = subprocess.run(
        [*COMMAND, *options], input=data, capture_output=True, timeout=60, check=True
    )
    found, rest = [], done.stdout
    while rest:
        head, _, rest = rest.partition(b"\r\n\r\n")
        length = int(head.removeprefix(b"Content-Length: "))
        found.append(json.loads(rest[:length]))
        rest = rest[length:]
    return found


def test_input_that_ends_inside_a_message_is_answered() -> None:
    """What is there of it would be a whole request if its length were not believed."""
    (reply,) = answers(framed(PING + b" ")[:-1])
    assert (reply["id"], reply["error"]["code"]) == (None, -32700)


def test_content_length_framing_can_be_demanded() -> None:
    """Of a line of JSON the engine waits for the empty line after its headers then."""
    (reply,) = answers(PING + b"\n", "--framing", "content-length")
    assert (reply["id"], reply["error"]["code"]) == (None, -32700)


def test_each_line_of_the_log_is_an_object(host: Host) -> None:
    host.call("initialize", protocolVersion=1, clientInfo={"name": "line\nbreak"})
    host.call("generate", prompt="ab", maxTokens=2)
    host.notify("exit")
    assert host.wait() == 1
    host.close()
    lines = [json.loads(line) for line in host.stderr.splitlines()]
    assert {"initialize", "model.loaded", "exit"} <= {line["event"] for line in lines}
    for line in lines:
        assert line["level"] in ("debug", "info", "warning", "error")
        assert abs(line["time"] - time.time()) < 600


# Params.


def test_a_member_that_is_null_is_absent(shared_host: Host) -> None:
    document = shared_host.call("rpc.discover")
    tried = 0
    for row in document["methods"]:
        if row["name"] not in MINIMAL:
            continue
        given = MINIMAL[row["name"]]
        optional = {param["name"] for param in row["params"] if not param["required"]}
        nulls = dict.fromkeys(optional - given.keys())
        plain, same = (shared_host.call(row["name"], **given, **more) for more in ({}, nulls))
        assert _lasting(plain) == _lasting(same), row["name"]
        tried += len(nulls)
    assert tried > 80


def _lasting(result: Any) -> Any:
    """A result without what differs from call to call: times, and what the cache has by then."""
    unsteady = ("timings", "loadMs", "usage", "lastUsedSecondsAgo")
    if not isinstance(result, dict):
        return result
    return {k: _lasting(v) for k, v in result.items() if k not in unsteady}


@pytest.mark.parametrize("method", ANSWERED)
def test_every_method_passes_over_meta(shared_host: Host, method: str) -> None:
    if method == "shutdown":
        with Host() as host:
            assert host.call(method, _meta={"trace": [1, {"a": None}]}) is None
        return
    given = MINIMAL.get(method, {})
    assert shared_host.call(method, **given, _meta={"trace": [1, {"a": None}]}) is not None
    error = refused(shared_host, method, **given, _meta=1)
    assert (error.code, error.data["path"]) == (-32602, "$._meta")


# Lifecycle and versions.


def test_without_a_handshake_version_1_is_spoken(host: Host) -> None:
    document = host.call("rpc.discover")
    results = {row["name"]: row.get("result") for row in document["methods"]}
    notes = {note["name"]: note["params"] for note in document["x-notifications"]}
    assert document["openrpc"]
    for method, params in MINIMAL.items():
        if method != "initialize":
            check(document, results[method]["schema"], host.call(method, **params), method)
    for message in map(json.loads, list(host.lines)):
        if "method" in message:
            check(document, notes[message["method"]], message["params"])


def test_after_shutdown_the_lifecycle_still_answers(host: Host) -> None:
    assert host.call("shutdown") is None
    assert host.call("initialize", protocolVersion=1)["protocolVersion"] == 1
    assert host.call("ping") == {}
    assert host.call("rpc.discover")["openrpc"]
    assert host.call("shutdown") is None
    for method in set(ANSWERED) - {"initialize", "ping", "rpc.discover", "shutdown"}:
        assert refused(host, method, **MINIMAL.get(method, {})).code == 1009, method


def test_what_is_wrong_in_itself_is_told_after_shutdown_too(host: Host) -> None:
    assert host.call("shutdown") is None
    assert refused(host, "nosuchmethod").code == -32601
    assert refused(host, "generate", prompt=5).code == -32602
    assert refused(host, "embed", input=["a"]).code == 1006
    assert refused(host, "models/load", model="nowhere").code == 1009


def test_an_exit_in_a_batch_is_obeyed_after_the_other_members() -> None:
    long = {"prompt": "a", "maxTokens": 2000, "ignoreEos": True, "stream": False}
    batch = [
        {"jsonrpc": "2.0", "id": 1, "method": "generate", "params": long},
        {"jsonrpc": "2.0", "id": 2, "method": "shutdown"},
        {"jsonrpc": "2.0", "method": "exit"},
        {"jsonrpc": "2.0", "id": 3, "method": "ping"},
    ]
    told = {row["id"]: row for row in answers(framed(json.dumps(batch).encode()))[-1]}
    assert told[1]["error"]["code"] == 1009
    assert (told[2]["result"], told[3]["result"]) == (None, {})


def test_the_codes_are_those_of_version_1() -> None:
    """What hosts have compiled in; kinds may be added, none may change."""
    version_1 = {
        "parseError": -32700,
        "invalidRequest": -32600,
        "methodNotFound": -32601,
        "invalidParams": -32602,
        "internalError": -32603,
        "cancelled": -32800,
        "modelNotFound": 1001,
        "modelLoadFailed": 1002,
        "contextLengthExceeded": 1003,
        "overloaded": 1004,
        "outOfMemory": 1005,
        "unsupported": 1006,
        "deadlineExceeded": 1007,
        "engineFault": 1008,
        "shuttingDown": 1009,
    }
    assert version_1.items() <= CODES.items()
    assert len(set(CODES.values())) == len(CODES)


def test_the_first_of_several_errors_is_told(host: Host) -> None:
    """Each of these is wrong in one way less than the one before it."""

    def refused(**message: Any) -> Any:
        host.send({"jsonrpc": "2.0", "id": "x", **message})
        with pytest.raises(RpcError) as caught:
            host.reply("x")
        return caught.value.code

    wrong = {"model": "no such model", "prompt": "x", "adapter": "a", "wrong": 1}
    assert refused(method="generate", params=wrong) == -32602
    del wrong["wrong"]
    assert refused(method="generate", params=wrong) == 1006
    del wrong["adapter"]
    assert refused(method="generate", params=wrong) == 1001
    host.call("shutdown")
    assert refused(method="nosuch", more=1) == -32600
    assert refused(method="nosuch", params=["x"]) == -32601
    assert refused(method="embed", params={"wrong": 1}) == -32602
    assert refused(method="embed", params={"input": ["a"]}) == 1006
    assert refused(method="generate", params={"prompt": "x", "adapter": "a"}) == 1009
    assert refused(method="generate", params=wrong) == 1009


# Flow control.


def test_a_host_that_does_not_read_is_not_read_without_end(late_host: LateHost) -> None:
    """The host writes until the pipe stays full; all that it wrote is answered when it reads."""
    assert late_host.process.stdin is not None
    pipe = late_host.process.stdin.fileno()
    os.set_blocking(pipe, False)
    line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode() + b"\n"
    data = line * 100
    written, refused_since = 0, time.monotonic()
    while time.monotonic() - refused_since < 1.5:
        try:
            written += os.write(pipe, data[written % len(line) :])
            refused_since = time.monotonic()
        except BlockingIOError:
            time.sleep(0.01)
        assert written < 64 * 2**20, "it goes on and on"
    os.set_blocking(pipe, True)
    late_host.reading.set()
    late_host.write(line[written % len(line) :] if written % len(line) else b"")
    asked = -(-written // len(line))
    assert asked > 4096
    for _ in range(asked):
        assert late_host.next() == {"jsonrpc": "2.0", "id": 1, "result": {}}
    late_host.start("generate", "last", prompt="ab", maxTokens=9, ignoreEos=True)
    assert late_host.reply("last")["usage"]["completionTokens"] == 9
