"""The start: its profile, what is handled before the event loop runs, and the preparing threads."""

from __future__ import annotations

import re
import subprocess
import sys
import threading

import pytest

from mlx_stdio.log import Log
from mlx_stdio.session.workers import Workers
from tests.host import Host, RpcError

ORDER = (
    ("host", "the process is spawned"),
    ("main", "Python is up, the fence stands"),
    ("main", "the wire is imported"),
    ("main", "the first message is handled"),
    ("main", "the methods are imported, the engine's thread runs"),
    ("engine", "MLX is imported"),
    ("engine", "the weights are read"),
    ("engine", "the prompt is read"),
    ("engine", "the first token is drawn"),
    ("host", "the first token is here"),
)


def profile(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mlx_stdio", "--profile-start", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_profile_tells_what_was_done_by_when() -> None:
    done = profile()
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^ *(\d+\.\d)  (\w+) +(\+\d+\.\d)?  +(.+)$", done.stdout, re.MULTILINE)
    times = [float(at) for at, *_ in rows]
    assert times == sorted(times)
    found = [(thread, what) for _, thread, _, what in rows]
    assert [row for row in found if row in ORDER] == list(ORDER)
    assert {thread for thread, _ in found} == {"host", "main", "engine", "prepare"}
    # Only the engine's own threads were seen computing.
    assert all(bool(spent) == (thread != "host") for _, thread, spent, _ in rows)


def test_a_start_that_fails_says_why() -> None:
    done = profile("--model", "nowhere")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "nowhere" in done.stderr


def test_a_deadline_holds_before_the_event_loop_runs() -> None:
    with Host() as host:  # the very first message
        with pytest.raises(RpcError) as caught:
            host.call("generate", prompt="a", maxTokens=1000, ignoreEos=True, timeoutMs=40)
        assert caught.value.kind == "deadlineExceeded"
        assert host.call("generate", prompt="a", maxTokens=1)["usage"]["completionTokens"] == 1


def test_prepared_two_at_a_time_and_a_failure_stops_nothing() -> None:
    workers = Workers(Log("error"))
    together, release = threading.Barrier(3), threading.Event()
    running, most = [0], [0]
    done = threading.Semaphore(0)
    lock = threading.Lock()

    def fail() -> None:
        raise RuntimeError

    def task() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        release.wait(10)
        with lock:
            running[0] -= 1
        done.release()

    for _ in range(4):
        workers.submit(fail)
    workers.submit(lambda: together.wait(10))
    workers.submit(lambda: together.wait(10))
    together.wait(10)  # both threads are still there
    for _ in range(6):
        workers.submit(task)
    release.set()
    assert all(done.acquire(timeout=10) for _ in range(6))
    assert most[0] <= 2
