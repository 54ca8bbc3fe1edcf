"""Replays a transcript against a command: each step in its order, in a process of its own.

When the steps are done, stdin is closed unless they did it: nothing more may come then, and the
exit code has to be 0.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from mlx_stdio.conformance.expecting import Expecting, Failed, StreamEnded
from mlx_stdio.conformance.folders import made
from mlx_stdio.conformance.matching import Bindings, Mismatch, fill
from mlx_stdio.conformance.peer import Peer, Stalled
from mlx_stdio.conformance.transcript import Step, Transcript

_PIECE: Final = 1 << 20
_AT_ONCE: Final = 100
_FULL_SECONDS: Final = 2.0
"""A pipe that has taken nothing for so long is full, and its reader does not read."""

_SHOWN: Final = 600


class Failure(NamedTuple):
    """Where a transcript failed.

    Attributes:
        line: in the file; 0 for the end, after its last line.
        expected: the step.
        came: the message, the exit code, or nothing.
        log: the end of what the program wrote to stderr.
    """

    line: int
    reason: str
    expected: str
    came: str
    log: str = ""


class Replay:
    """One transcript and one process.

    Attributes:
        cut_short: the program has answered that it cannot do what the rest is about.
    """

    def __init__(self, transcript: Transcript, command: list[str], seconds: float) -> None:
        self._transcript = transcript
        self._command = command
        self._seconds = seconds
        self._ended = False
        self.cut_short = False
        self._peer: Peer
        self._expecting: Expecting

    def run(self) -> Failure | None:
        """Replay it; None if all went as written.

        Raises:
            OSError: the command cannot be started.
        """
        with made(self._transcript.folders) as folders:
            arguments = fill(list(self._transcript.arguments), Bindings(folders, {}))
            command = [*self._command, *arguments]
            self._peer = Peer(command, self._transcript.framing, self._seconds)
            self._expecting = Expecting(self._peer, folders)
            failure: Failure | None = None
            try:
                failure = self._run()
            finally:
                log = self._peer.end()
        return None if failure is None else failure._replace(log=log)

    def _run(self) -> Failure | None:
        last = Step(0, "exit", {"exit": 0})
        for step in (*self._transcript.steps, last):
            if self._ended or (self._expecting.cut_short and step is not last):
                continue
            if (failure := self._try(step)) is not None:
                return failure
        return None

    def _try(self, step: Step) -> Failure | None:
        try:
            self._take(step)
            self.cut_short = self._expecting.cut_short
        except StreamEnded as ended:
            reason, came = f"{ended.reason}; {self._how_it_ended()}", None
        except Failed as failed:
            reason, came = failed.reason, failed.came
        except (Stalled, Mismatch) as error:
            reason, came = str(error), None
        else:
            return None
        return Failure(step.line, reason, _shown(step.body), _shown(came))

    def _how_it_ended(self) -> str:
        try:
            return f"exit code {self._peer.exit_code()}"
        except Stalled as error:
            return str(error)

    def _take(self, step: Step) -> None:
        value = step.body[step.kind]
        peer = self._peer
        if step.kind == "send":
            for message in self._messages(step, self._times(step)):
                peer.send(message)
        elif step.kind == "sendUntilFull":
            self._send_until_full(step)
        elif step.kind in ("sendRaw", "sendHex"):
            self._expecting.ledger.sent_raw()
            data = value.encode() if step.kind == "sendRaw" else bytes.fromhex(value)
            self._send_raw(data, self._times(step))
        elif step.kind == "reading":
            peer.reading = value
        elif step.kind == "expect":
            self._expecting.expect(value, step.body.get("orEnd"))
        elif step.kind == "expectAnyOrder":
            self._expecting.expect_all(value, step.body.get("orEnd"))
        elif step.kind == "close":
            peer.close_stdin()
        elif step.kind == "closeStdout":
            peer.close_stdout()
        elif step.kind == "signal":
            peer.signal(value)
        elif step.kind == "wait":
            time.sleep(value / 1000)
        else:
            self._expect_exit(value, at_the_end=step.line == 0)

    def _times(self, step: Step) -> int:
        times: int = fill(step.body.get("times", 1), self._expecting.bindings)
        return times - int(step.body.get("less", 0))

    def _messages(self, step: Step, times: int) -> Iterator[Any]:
        """What a step sends, each with an id one higher than the last; the ledger counts it."""
        first = fill(step.body[step.kind], self._expecting.bindings)
        for number in range(times):
            message = first if number == 0 else {**first, "id": first["id"] + number}
            self._expecting.ledger.sent(message)
            yield message

    def _send_until_full(self, step: Step) -> None:
        messages = self._messages(step, step.body["most"])
        count = 0
        while some := list(itertools.islice(messages, _AT_ONCE)):
            count += len(some)
            if not self._peer.offer(b"".join(map(self._peer.framed, some)), _FULL_SECONDS):
                if "count" in step.body:
                    self._expecting.bindings.names[step.body["count"]] = count
                return
        raise Failed(f"it has read {step.body['most']} messages, and none of its own was read")

    def _send_raw(self, data: bytes, times: int) -> None:
        at_once = max(1, _PIECE // max(1, len(data)))
        for _ in range(times // at_once):
            self._peer.write(data * at_once)
        self._peer.write(data * (times % at_once))

    def _expect_exit(self, code: Any, *, at_the_end: bool) -> None:
        if at_the_end:
            self._peer.close_stdin()
        self._expecting.expect_nothing()
        found = self._peer.exit_code()
        self._ended = True
        if (reason := self._expecting.fits(code, found)) is not None:
            raise Failed(f"exit code: {reason}", found)


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
