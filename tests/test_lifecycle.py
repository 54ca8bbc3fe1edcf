"""The life of the process: its ways to end, their exit codes; it never outlives the host."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mlx_stdio.log import Log
from tests.host import COMMAND, PATIENCE, ROOT, Host, LateHost, RpcError, joined

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc or needs Linux pipes")
LONG: dict[str, Any] = {"prompt": "ab", "maxTokens": 2000, "ignoreEos": True}


def first_delta(host: Host, request_id: Any) -> None:
    """Wait until a request is decoding."""
    message, before = host.until(lambda m: m.get("method") == "stream/delta")
    assert message["params"]["requestId"] == request_id
    host._held = [*before, message, *host._held]


def ends_with(host: Host, request_id: Any, code: int) -> RpcError:
    with pytest.raises(RpcError) as caught:
        host.reply(request_id)
    assert caught.value.code == code
    return caught.value


def run(*arguments: str, data: bytes = b"", **more: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=ROOT,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        **(more or {"input": data}),
    )


def test_end_of_input_finishes_what_is_in_flight(host: Host) -> None:
    wanted = [host.start("generate", prompt="ab", maxTokens=60, ignoreEos=True) for _ in range(3)]
    wanted += [host.start("tokenize", text="ab"), host.start("models/load", model="other")]
    host.close_stdin()
    for request_id in wanted:
        assert host.reply(request_id)
    assert host.wait() == 0


def test_end_of_input_with_nothing_in_flight(host: Host) -> None:
    host.call("ping")
    host.close_stdin()
    assert host.wait() == 0


def test_the_last_request_needs_no_newline(host: Host) -> None:
    host.write(b'{"jsonrpc":"2.0","id":1,"method":"ping"}')
    host.close_stdin()
    assert host.reply(1) == {}
    assert host.wait() == 0


def test_a_deadline_still_counts_after_the_end_of_input(host: Host) -> None:
    request_id = host.start("generate", **LONG, timeoutMs=1)
    host.close_stdin()
    assert ends_with(host, request_id, 1007).kind == "deadlineExceeded"
    assert host.wait() == 0


def test_a_host_that_reads_late_after_its_last_request_gets_everything(late_host: LateHost) -> None:
    for number in range(20):
        late_host.start("rpc.discover", number)
    late_host.close_stdin()
    with pytest.raises(subprocess.TimeoutExpired):
        late_host.wait(2.5)  # it waits for the reader, however long that takes
    late_host.reading.set()
    assert [message["id"] for message in late_host.rest()] == list(range(20))
    assert late_host.wait() == 0


def test_a_signal_ends_the_wait_for_a_late_host(late_host: LateHost) -> None:
    for number in range(20):
        late_host.start("rpc.discover", number)
    late_host.close_stdin()
    with pytest.raises(subprocess.TimeoutExpired):
        late_host.wait(0.5)
    late_host.process.send_signal(signal.SIGTERM)
    assert late_host.wait(20) == 143


def test_shutdown_then_exit(host: Host) -> None:
    running = host.start("generate", **LONG)
    first_delta(host, running)
    assert host.call("shutdown") is None
    for method, params in (
        ("generate", {"prompt": "ab"}),
        ("engine/status", {}),
        ("models/load", {"model": "tiny"}),
        ("tokenize", {"text": "x"}),
    ):
        assert ends_with(host, host.start(method, **params), 1009).kind == "shuttingDown"
    assert host.call("ping") == {}
    host.notify("exit")
    # What still ran is answered, with what there was of it.
    error = ends_with(host, running, 1009)
    assert error.data["partial"]["text"] == joined(host.take_deltas(running))
    assert host.wait() == 0
    assert host.later() == []


def test_what_is_in_flight_goes_on_after_shutdown(host: Host) -> None:
    running = host.start("generate", prompt="ab", maxTokens=100, ignoreEos=True)
    host.call("shutdown")
    assert host.reply(running)["usage"]["completionTokens"] == 100
    host.close_stdin()
    assert host.wait() == 0


def test_exit_without_shutdown(host: Host) -> None:
    host.call("ping")
    host.notify("exit")
    assert host.wait() == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_answers_what_is_in_flight(host: Host, number: int, code: int) -> None:
    running = host.start("generate", **LONG)
    silent = host.start("generate", **LONG, stream=False)
    first_delta(host, running)
    host.process.send_signal(number)
    partial = ends_with(host, running, 1009).data["partial"]
    assert partial["text"] == joined(host.take_deltas(running)) != ""
    assert "partial" in ends_with(host, silent, 1009).data
    assert host.wait() == code
    assert host.later() == []


def test_a_signal_after_the_end_of_input_keeps_its_code(host: Host) -> None:
    running = host.start("generate", **LONG)
    first_delta(host, running)
    host.close_stdin()
    time.sleep(0.1)
    host.process.send_signal(signal.SIGTERM)
    ends_with(host, running, 1009)
    assert host.wait() == 143


def test_a_signal_right_after_the_handshake_answers_what_is_in_flight(models: Path) -> None:
    """The event loop is not there yet, and neither is MLX."""
    with Host("--models-dir", str(models), "--model", "tiny") as host:
        first = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        second = {"jsonrpc": "2.0", "id": 2, "method": "generate", "params": LONG}
        host.write(json.dumps(first).encode() + b"\n" + json.dumps(second).encode() + b"\n")
        host.reply(1)
        host.process.send_signal(signal.SIGTERM)
        ends_with(host, 2, 1009)
        assert host.wait() == 143


@pytest.mark.parametrize("busy", [False, True])
def test_a_host_that_closes_stdout_ends_the_engine(models: Path, busy: bool) -> None:
    with subprocess.Popen(
        [*COMMAND, "--models-dir", str(models), "--model", "tiny"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        call: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        if busy:
            call.update(method="generate", params=LONG)
        process.stdin.write(json.dumps(call).encode() + b"\n")
        process.stdin.flush()
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(20) == 0  # while stdin is still open


PARENT = f"import subprocess, time; subprocess.Popen({COMMAND!r} + ARGUMENTS); time.sleep(1000)"


@pytest.mark.parametrize("busy", [False, True])
def test_the_engine_dies_with_its_parent_although_its_pipes_live_on(
    models: Path, busy: bool
) -> None:
    """Another process (this one) holds the other ends of both pipes, and goes on reading."""
    arguments = ["--models-dir", str(models), "--model", "tiny"]
    parent = PARENT.replace("ARGUMENTS", repr(arguments))
    with Host(command=[sys.executable, "-c", parent]) as host:
        running = host.start("generate", **(LONG if busy else {**LONG, "maxTokens": 2}))
        if busy:
            first_delta(host, running)
        else:
            host.reply(running)
        host.process.kill()
        killed = time.monotonic()
        messages = host.rest()  # to the end of stdout: only the engine had it
        assert time.monotonic() - killed < 20
        assert not any(message.get("id") == running for message in messages)
        assert host.process.stdin is not None
        assert not host.process.stdin.closed


def test_stdin_may_be_the_null_device() -> None:
    done = run(stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (0, b"")


def test_stdin_may_be_a_file(models: Path, tmp_path: Path) -> None:
    requests = [
        {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        for number, (method, params) in enumerate(
            [("ping", {}), ("tokenize", {"text": "x" * 300_000}), ("generate", {"prompt": "ab"})]
        )
    ]
    file = tmp_path / "requests"
    file.write_text("\n".join(map(json.dumps, requests)))
    with file.open("rb") as stdin:
        done = run("--models-dir", str(models), "--model", "tiny", stdin=stdin)
    assert done.returncode == 0
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert {reply["id"] for reply in replies if "result" in reply} == {0, 1, 2}


def test_stdout_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "replies"
    with file.open("wb") as stdout:
        subprocess.run(
            COMMAND,
            input=b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n',
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            timeout=PATIENCE,
            check=True,
        )
    assert file.read_bytes() == b'{"jsonrpc":"2.0","id":1,"result":{}}\n'


class DeafHost(Host):
    """A host that never reads stderr."""

    def _read_stderr(self) -> None:
        pass


def test_a_full_stderr_stops_nothing(models: Path) -> None:
    arguments = ["--models-dir", str(models), "--model", "tiny", "--log-level", "debug"]
    with DeafHost(*arguments) as host:
        for _ in range(3000):
            host.notify("x" * 100)  # each is a line in the log
        result = host.call("generate", prompt="ab", maxTokens=5, ignoreEos=True)
        assert result["usage"]["completionTokens"] == 5
        host.close_stdin()
        assert host.wait() == 0


@LINUX
def test_the_log_leaves_room_for_who_else_writes_to_stderr() -> None:
    reading, writing = os.pipe()
    try:
        log = Log("debug", fd=writing)
        for _ in range(5000):
            log.info("x", body="é" * 300)
        assert log.dropped > 0
        os.set_blocking(writing, False)
        assert os.write(writing, b"!" * 8192) == 8192
        rows = os.read(reading, 1 << 20).split(b"!")[0].splitlines()
        assert all(json.loads(row)["event"] == "x" for row in rows)
    finally:
        os.close(reading)
        os.close(writing)


def test_a_log_line_is_short_whatever_it_is_about() -> None:
    reading, writing = os.pipe()
    try:
        log = Log("debug", fd=writing)
        nested: list[Any] = []
        for _ in range(500):
            nested = [nested]
        for body in ("🎉" * 5000, "\u0000" * 5000, '"' * 5000, nested, 2**80):
            log.info("x", body=body)
            row = os.read(reading, 1 << 20)
            assert len(row) <= 4096
            assert json.loads(row)["event"] == "x"
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nosuch"],
        ["--vers"],
        ["--port", "80"],
        ["nosuch"],
        ["--max-models", "0"],
        ["--memory-limit", "9e999"],
        ["--memory-limit", "lots"],
        ["--keep-alive", "inf"],
        ["--keep-alive", "-1"],
        ["--log-level", "loud"],
        ["--model", "\udcff"],
    ],
)
def test_a_wrong_command_line_is_explained_on_stderr(arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"usage: mlx-stdio" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [(["--version"], b"mlx-stdio "), (["--help"], b"--model "), (["serve", "-h"], b"--model ")],
)
def test_help_and_version_are_for_stdout(arguments: list[str], text: bytes) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (0, b"")
    assert text in done.stdout


@LINUX
def test_an_idle_engine_takes_no_time(host: Host) -> None:
    host.call("generate", prompt="ab", maxTokens=5)

    def used() -> float:
        fields = Path(f"/proc/{host.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    time.sleep(0.3)
    before = used()
    time.sleep(2)
    assert used() - before < 0.2
