"""What a careless or hostile host does: floods, odd JSON, sudden ends. The engine stays right."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host import COMMAND, Host, LateHost, RpcError
from tests.ledger import Ledger
from tests.phases import wait_until
from tests.residents import copy_model

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def works(host: Host) -> None:
    result = host.call("generate", prompt="ab", maxTokens=2, ignoreEos=True, stream=False)
    assert result["usage"]["completionTokens"] == 2


def answer(host: Host) -> Any:
    """The next message that is no notification."""
    return host.until(lambda m: isinstance(m, list) or "method" not in m)[0]


def resident_bytes(host: Host) -> int:
    pages = Path(f"/proc/{host.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def nested(depth: int, kind: str) -> str:
    return "[" * depth + "]" * depth if kind == "[" else '{"a":' * depth + "1" + "}" * depth


PLACES = [
    ("ping", '{"_meta":{"a":DEEP}}'),
    ("ping", '{"unknown":DEEP}'),
    ("initialize", '{"protocolVersion":1,"clientInfo":{"a":DEEP}}'),
    ("generate", '{"prompt":DEEP}'),
    ("chat", '{"messages":[{"role":"user"}],"maxTokens":1,"templateArgs":{"a":DEEP}}'),
    ("applyTemplate", '{"messages":[{"role":"user","toolCalls":[{"a":DEEP}]}]}'),
    ("applyTemplate", '{"messages":[{"role":"user"}],"tools":[{"a":DEEP}]}'),
]


@pytest.mark.parametrize("kind", "[{")
@pytest.mark.parametrize(("method", "params"), PLACES)
def test_deep_json_is_read_or_refused_wherever_it_stands(
    shared_host: Host, method: str, params: str, kind: str
) -> None:
    for depth in (3, 500, 1000, 1020, 1100):
        line = '{"jsonrpc":"2.0","id":%d,"method":"%s","params":%s}\n'
        deep = params.replace("DEEP", nested(depth, kind))
        shared_host.write((line % (depth, method, deep)).encode())
        message = answer(shared_host)
        if message["id"] is None:  # beyond what can be read
            assert depth > 1000
            assert message["error"]["code"] == -32700
        else:
            assert message["id"] == depth
            assert "result" in message or message["error"]["code"] == -32602
    works(shared_host)


@pytest.mark.parametrize(
    ("line", "request_id", "code"),
    [
        (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"nosuch","method":"ping"}', 2, None),
        (b'{"jsonrpc":"2.0","id":"a","method":"ping","id":null}', None, -32600),
        (b'{"jsonrpc":"2.0","id":"\\ud800","method":"ping"}', None, -32700),
        (b'{"jsonrpc":"2.0","id":"\xed\xa0\x80","method":"ping"}', None, -32700),
        (b'{"jsonrpc":"2.0","id":18446744073709551615,"method":"ping"}', 2**64 - 1, None),
        (b'{"jsonrpc":"2.0","id":18446744073709551616,"method":"ping"}', None, -32600),
        (b'{"jsonrpc":"2.0","id":-9223372036854775808,"method":"ping"}', -(2**63), None),
        (b'{"jsonrpc":"2.0","id":1e400,"method":"ping"}', None, -32700),
        (b'{"jsonrpc":"2.0","id":"\\u0000","method":"ping"}', "\0", None),
        (b'{"jsonrpc":"2.0","id":3,"method":"\\u0000\\n"}', 3, -32601),
        (b'\xef\xbb\xbf{"jsonrpc":"2.0","id":4,"method":"ping"}', None, -32700),
        (b'{"jsonrpc":"2.0","id":5,"method":"ping"} {"jsonrpc":"2.0"}', None, -32700),
        (b"\0" * 1000, None, -32700),
        ("{'id': 1}".encode("utf-16"), None, -32700),
    ],
)
def test_odd_json(shared_host: Host, line: bytes, request_id: Any, code: int | None) -> None:
    shared_host.write(line + b"\n")
    message = answer(shared_host)
    assert message["id"] == request_id
    assert message.get("error", {}).get("code") == code
    works(shared_host)


def test_a_batch_of_ten_thousand_is_one_array(shared_host: Host) -> None:
    methods = [("ping", {}), ("engine/status", {}), ("tokenize", {"text": "a"}), ("nosuch", {})]
    batch = [
        {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        for number, (method, params) in enumerate(methods * 2500, start=10_000)
    ]
    shared_host.send([*batch, 1, None, []])
    replies = answer(shared_host)
    assert sorted(reply["id"] or 0 for reply in replies) == [0, 0, 0, *range(10_000, 20_000)]
    works(shared_host)


def test_a_batch_beyond_the_bound_costs_one_error(shared_host: Host) -> None:
    """As many replies would be fifty times as long as this message, and take minutes to make."""
    shared_host.write(b"[" + b"1," * 5_000_000 + b"1]\n")
    message = answer(shared_host)
    assert (message["id"], message["error"]["code"]) == (None, -32600)
    works(shared_host)


def test_a_flood_of_notifications_is_passed_over(shared_host: Host) -> None:
    lines = [
        json.dumps({"jsonrpc": "2.0", "method": method, "params": {"id": number}}).encode() + b"\n"
        for number in range(10_000)
        for method in ("$/cancelRequest", "nosuch", "generate")
    ]
    shared_host.write(b"".join(lines))
    before = len(shared_host.lines)
    assert shared_host.call("ping") == {}
    assert len(shared_host.lines) == before + 1


def test_an_id_is_free_when_its_reply_is_there_and_not_before(shared_host: Host) -> None:
    for _ in range(200):
        shared_host.start("generate", "same", prompt="ab", maxTokens=1)
        assert shared_host.reply("same")["usage"]["completionTokens"] == 1
    shared_host.start("generate", "same", prompt="ab", maxTokens=2000, stream=False)
    for method, params in (("ping", {}), ("initialize", {"protocolVersion": 1})):
        shared_host.start(method, "same", **params)
        assert answer(shared_host)["error"]["code"] == -32600
    shared_host.cancel("same")
    assert answer(shared_host)["error"]["code"] == -32800


def test_a_folder_of_pipes_blocks_nobody(slow: Path, tmp_path: Path) -> None:
    """Whoever opened them to read would wait for ever."""
    for name in ("config", "weights", "text"):
        folder = copy_model(slow / "roomy", tmp_path / name)
        files = {"config": "config.json", "weights": "model.safetensors"}
        (folder / files.get(name, "tokenizer_config.json")).unlink()
        os.mkfifo(folder / files.get(name, "tokenizer_config.json"))
    with Host("--models-dir", str(tmp_path), "--model", "text") as host:
        for name in ("config", "weights"):
            for method, more in (("models/load", {}), ("tokenize", {"text": "x"})):
                with pytest.raises(RpcError) as caught:
                    host.call(method, model=name, **more)
                assert caught.value.kind == "modelLoadFailed"
        assert {row["id"] for row in host.call("models/list")["models"]} == {"pico", "text"}
        works(host)


class DeafHost(Host):
    """A host that closes its end of stderr."""

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.mark.parametrize("closed", ["reader", "descriptor"])
def test_stderr_may_be_closed(closed: str, models: Path) -> None:
    command = COMMAND if closed == "reader" else ["sh", "-c", 'exec "$@" 2>&-', "sh", *COMMAND]
    arguments = ("--models-dir", str(models), "--model", "tiny", "--log-level", "debug")
    with DeafHost(*arguments, command=command) as host:
        for _ in range(100):
            host.notify("nosuch")  # each is a line in the log
        works(host)
        host.close_stdin()
        assert host.wait() == 0


@pytest.fixture
def forgetful(models: Path) -> Iterator[LateHost]:
    """A late host whose engine unloads the model as soon as all is generated."""
    with LateHost("--models-dir", str(models), "--model", "tiny", "--keep-alive", "0") as host:
        yield host


@LINUX
def test_many_streams_that_nobody_reads_are_kept_whole(models: Path, forgetful: LateHost) -> None:
    ask = {"prompt": "hello", "maxTokens": 60, "ignoreEos": True, "temperature": 1}
    for seed in range(32):
        forgetful.start("generate", **ask, seed=seed)
    wait_until(lambda: b'"reason":"idle"' in forgetful.stderr)  # all is generated
    used = resident_bytes(forgetful)
    forgetful.close_stdin()
    forgetful.reading.set()
    forgetful.rest()
    assert forgetful.wait() == 0
    ledger = Ledger(forgetful.lines)
    assert ledger.answered == set(range(1, 33))
    for account in ledger.accounts.values():
        assert account.result["usage"]["completionTokens"] == 60 == len(account.tokens)
    with Host("--models-dir", str(models), "--model", "tiny") as host:
        for seed in (3, 17):
            result, deltas = host.stream("generate", **ask, seed=seed)
            assert result["text"] == ledger[seed + 1].text
            # The pipe took the first ones; the rest was merged while it was full.
            assert len(ledger[seed + 1].deltas) < 0.7 * len(deltas)
        assert used < 1.5 * resident_bytes(host)
