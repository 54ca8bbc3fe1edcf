"""The fake engine: what it does by itself, and whatever a script says, over the real wire."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mlx_stdio.fake.script import BadScript, read_script
from tests.host import COMMAND, PATIENCE, ROOT, Host, RpcError, joined
from tests.ledger import Ledger

Spawn = Callable[..., Host]
LONG: dict[str, Any] = {"prompt": "abc", "ignoreEos": True, "maxTokens": 8000}


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Spawns fake engines; a script is given as its value."""
    with ExitStack() as stack:

        def start(*options: str, **script: Any) -> Host:
            arguments = ["fake", *options]
            if script:
                file = tmp_path / "script.json"
                file.write_text(json.dumps(script))
                arguments += ["--script", str(file)]
            return stack.enter_context(Host(*arguments))

        yield start


def rule(method: str, *steps: Any, **more: Any) -> dict[str, Any]:
    return {"method": method, "steps": steps, **more}


def fails(host: Host, method: str, **params: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        host.call(method, **params)
    return caught.value


def test_it_repeats_what_it_is_given(spawn: Spawn) -> None:
    host = spawn()
    result, deltas = host.stream("generate", prompt="héllo 🎉")
    assert (result["text"], result["finishReason"]) == ("héllo 🎉", "stop")
    assert joined(deltas) == result["text"]
    assert len(deltas) > 1
    assert result["usage"]["completionTokens"] == 8  # the end is a token too
    chat = host.call("chat", messages=[{"role": "user", "content": "hi"}])
    assert chat["message"] == {"role": "assistant", "content": "hi"}
    assert host.call("infill", prefix="a", suffix="c")["text"] == "ac"
    tokens = host.call("tokenize", text="a🎉")["tokens"]
    assert host.call("detokenize", tokens=tokens)["text"] == "a🎉"
    text = host.call("generate", prompt="one, two", stop=[", "])
    assert (text["text"], text["finishReason"]) == ("one", "stop")
    text = host.call("generate", prompt="abc", ignoreEos=True, maxTokens=7)
    assert (text["text"], text["finishReason"]) == ("abcabca", "length")
    assert fails(host, "generate", prompt="a" * 9000).kind == "contextLengthExceeded"
    assert fails(host, "generate", prompt="a", maxTokens=9000).kind == "invalidParams"
    Ledger(host.lines)


def test_a_deadline_may_be_weeks_away(spawn: Spawn) -> None:
    host = spawn()
    text = host.call("generate", prompt="abc", timeoutMs=2**33)["text"]
    assert text == "abc"


def test_a_status_does_not_count_itself(spawn: Spawn) -> None:
    host = spawn()
    host.call("generate", prompt="abc")
    for _ in range(2):
        counters = host.call("engine/status")["counters"]
        assert (counters["requests"], counters["completed"]) == (1, 1)


def test_it_imports_nothing_heavy() -> None:
    calls = [
        {"jsonrpc": "2.0", "id": 1, "method": "generate", "params": {"prompt": "a"}},
        {"jsonrpc": "2.0", "id": 2, "method": "models/list"},
    ]
    done = subprocess.run(
        [COMMAND[0], "-X", "importtime", *COMMAND[1:], "fake"],
        input="\n".join(map(json.dumps, calls)),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE,
        check=True,
    )
    imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "mlx_stdio.fake.methods" in imported
    heavy = ("mlx", "mlx_lm", "numpy", "tokenizers", "transformers", "anyio", "asyncio", "jinja2")
    assert not {name for name in imported if name.partition(".")[0] in heavy}


def test_the_engines_options_are_taken(spawn: Spawn) -> None:
    host = spawn("--model", "mine", "--models-dir", "/nowhere", "--max-concurrent", "3")
    hello = host.call("initialize", protocolVersion=1)
    assert hello["defaultModel"] == "mine"
    assert hello["limits"]["maxConcurrentRequests"] == 3
    assert host.call("generate", prompt="a")["model"] == "mine"


def test_the_queue_is_bounded_and_tells_its_progress(spawn: Spawn) -> None:
    host = spawn("--max-concurrent", "1", "--max-queued", "2")
    running = host.start("generate", **LONG)
    waiting = [host.start("generate", prompt=text) for text in ("x", "y")]
    assert fails(host, "generate", prompt="z").kind == "overloaded"
    host.cancel(running)
    assert [host.reply(request_id)["text"] for request_id in waiting] == ["x", "y"]
    phases = [note["phase"] for note in host.take("$/progress", waiting[1])]
    assert "queued" in phases
    Ledger(host.lines)


def test_scripted_deltas_progress_and_end(spawn: Spawn) -> None:
    told = {"phase": "prefill", "completed": 3, "total": 9, "unit": "tokens"}
    steps = [{"progress": told}, {"delta": "Hel"}, {"delta": "lo"}, {"stream": "!?", "everyMs": 1}]
    host = spawn(rules=[rule("generate", *steps, {"finish": "length"}), rule("chat", *steps)])
    result, deltas = host.stream("generate", prompt="a", streamToken="t")
    assert (result["text"], result["finishReason"]) == ("Hello!?", "length")
    assert joined(deltas) == "Hello!?"
    assert {delta["streamToken"] for delta in deltas} == {"t"}
    assert [note["phase"] for note in host.take("$/progress")] == ["prefill"]
    chat = host.call("chat", messages=[{"role": "user", "content": "x"}])
    assert (chat["message"]["content"], chat["finishReason"]) == ("Hello!?", "stop")
    assert host.call("infill", prefix="a", suffix="b")["text"] == "ab"  # no rule
    Ledger(host.lines)


def test_scripted_errors_and_results(spawn: Spawn) -> None:
    busy = {"error": {"kind": "overloaded", "message": "busy", "data": {"retryAfterMs": 7}}}
    odd = {"error": {"kind": "newKind", "code": 1234}}
    host = spawn(
        rules=[
            rule("generate", busy, times=1),
            rule("generate", {"delta": "half"}, odd, params={"prompt": {"$regex": "^odd"}}),
            rule("models/*", {"result": {"models": [], "new": 1}}),
            rule("future/method", {"result": [1]}),
            rule("tokenize", {"result": None}),
        ]
    )
    error = fails(host, "generate", prompt="odd one")
    assert (error.code, error.message) == (1004, "busy")
    assert error.data == {"kind": "overloaded", "retryAfterMs": 7}
    error = fails(host, "generate", prompt="odd one")
    assert (error.code, error.kind) == (1234, "newKind")
    assert host.call("generate", prompt="even")["text"] == "even"
    assert host.call("models/list") == {"models": [], "new": 1}
    assert host.call("future/method", any=1) == [1]
    assert host.call("tokenize", text="x") is None
    assert fails(host, "tokenize", text=1).kind == "invalidParams"  # before the script


def test_the_methods_of_the_session_are_scripted_too(spawn: Spawn) -> None:
    host = spawn(
        rules=[
            rule("initialize", {"result": {"protocolVersion": 2}}, times=1),
            rule("ping", {"delayMs": 30, "default": True}),
            rule("shutdown", {"delayMs": 5}),
        ]
    )
    assert host.call("initialize", protocolVersion=2) == {"protocolVersion": 2}
    assert host.call("initialize", protocolVersion=2)["protocolVersion"] == 1
    before = time.monotonic()
    assert host.call("ping") == {}
    assert time.monotonic() - before >= 0.03
    assert host.call("shutdown") is None
    assert fails(host, "generate", prompt="a").kind == "shuttingDown"
    host.notify("exit")
    assert host.wait() == 0


def test_a_silent_request_can_only_be_given_up(spawn: Spawn) -> None:
    silent = {"silent": True}
    host = spawn(rules=[rule("generate", {"delta": "a"}, silent), rule("tokenize", silent)])
    request_id = host.start("generate", prompt="x")
    assert host.call("ping") == {}
    host.until(lambda message: message.get("method") == "stream/delta")
    host.cancel(request_id)
    with pytest.raises(RpcError) as caught:
        host.reply(request_id)
    assert caught.value.data["partial"] == {"text": "a", "completionTokens": 1}
    assert fails(host, "generate", prompt="x", timeoutMs=20).kind == "deadlineExceeded"
    lost = host.start("tokenize", text="x")
    host.notify("exit")
    with pytest.raises(RpcError) as caught:
        host.reply(lost)
    assert caught.value.kind == "shuttingDown"
    assert host.wait() == 1


def test_a_delay_ends_with_its_request(spawn: Spawn) -> None:
    host = spawn(rules=[rule("generate", {"delayMs": 1e8, "exit": 9})])
    request_id = host.start("generate", prompt="x")
    host.cancel(request_id)
    with pytest.raises(RpcError):
        host.reply(request_id)
    time.sleep(0.05)  # the steps that are left are not done
    assert host.call("ping") == {}


@pytest.mark.parametrize(
    ("step", "code"),
    [
        ({"exit": 70}, 70),
        ({"exit": 0}, 0),
        ({"signal": "SIGKILL"}, -signal.SIGKILL),
        ({"fatal": "boom"}, 70),
    ],
)
def test_a_crash_comes_where_the_script_has_it(
    step: dict[str, Any], code: int, spawn: Spawn
) -> None:
    host = spawn(rules=[rule("generate", {"delta": "one "}, {"delta": "two"}, step)])
    request_id = host.start("generate", prompt="x")
    assert host.wait() == code
    messages = host.later()
    assert joined(m["params"] for m in messages if m.get("method") == "stream/delta") == "one two"
    replies = [message["error"] for message in messages if message.get("id") == request_id]
    if "fatal" in step:
        assert [reply["data"]["kind"] for reply in replies] == ["engineFault"]
        assert any(message.get("method") == "engine/fatal" for message in messages)
    else:
        assert replies == []


def test_bytes_that_are_no_message(spawn: Spawn) -> None:
    host = spawn(rules=[rule("generate", {"delta": "a"}, {"raw": '{"half":'}, {"exit": 1})])
    host.start("generate", prompt="x")
    assert host.wait() == 1
    assert host.later()[-1] == {"corrupted": b'{"half":'}


def test_steps_at_the_start(spawn: Spawn) -> None:
    note = {"method": "models/changed", "params": {"model": "x"}}
    host = spawn(start=[{"notify": note}, {"delayMs": 20, "exit": 3}])
    assert host.next()["params"] == {"model": "x"}
    assert host.wait() == 3


def test_models_and_their_times(spawn: Spawn) -> None:
    host = spawn(models=["other"], loadMs=1, tokenMs=30, contextLength=64)
    rows = {row["id"]: row for row in host.call("models/list")["models"]}
    assert rows.keys() == {"fake", "other", "pico"}  # the embedded one is always there
    assert rows["other"]["contextLength"] == 64
    loaded = host.call("models/load", model="other", pin=True)["model"]
    assert (loaded["id"], loaded["state"], loaded["pinned"]) == ("other", "ready", True)
    before = time.monotonic()
    host.call("generate", model="other", prompt="abc")
    assert time.monotonic() - before > 0.09
    assert host.call("engine/status")["counters"]["modelLoads"] == 1
    assert fails(host, "models/load", model="nosuch").kind == "modelNotFound"


def test_the_examples_of_the_page_are_scripts(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "fake.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(json|toml)\n(.*?)```", page, re.DOTALL)
    assert [kind for kind, _ in blocks] == ["json", "toml"]
    for kind, text in blocks:
        file = tmp_path / f"script.{kind}"
        file.write_text(text)
        assert len(read_script(str(file)).rules) >= 3


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"rulez": []}',
        '{"rules": [{"steps": [{"dealyMs": 1}]}]}',
        '{"rules": [{"method": "x"}]}',
        '{"rules": [{"steps": [{"delta": "a", "exit": 1}]}]}',
        '{"rules": [{"steps": [{"finish": "toolong"}]}]}',
        '{"start": [{"exit": "1"}]}',
    ],
)
def test_a_file_that_is_no_script_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "script.json"
    file.write_text(text)
    with pytest.raises(BadScript):
        read_script(str(file))


def test_a_wrong_command_line_is_explained() -> None:
    for arguments in (["--script", "/nowhere"], ["--nosuch"], ["conformance"]):
        done = subprocess.run(
            [*COMMAND, "fake", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=ROOT,
            timeout=PATIENCE,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"mlx-stdio fake" in done.stderr
        assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["fake", "--help"], ["conformance", "--help"]])
def test_help_names_the_commands(arguments: list[str]) -> None:
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True
    )
    assert "conformance" in done.stdout
    assert "fake" in done.stdout
