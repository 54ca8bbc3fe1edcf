"""Replays a transcript against a command: each step in its order, in a process of its own.

`$/progress` and `models/changed` may come at any time, so they are passed over where a step does
not ask for them. When the steps are done, stdin is closed unless they did it: nothing more may
come then, and the exit code has to be 0.
"""

from __future__ import annotations

import json
import time
from typing import Any, Final, NamedTuple

from mlx_stdio.conformance.ledger import Broken, Ledger
from mlx_stdio.conformance.matching import Bindings, Mismatch, fill, match
from mlx_stdio.conformance.peer import NotAMessage, Peer, Stalled
from mlx_stdio.conformance.transcript import Step, Transcript

_AT_ANY_TIME: Final = frozenset({"$/progress", "models/changed"})
_PIECE: Final = 1 << 20
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


class _Failed(Exception):  # noqa: N818 - an outcome
    def __init__(self, reason: str, came: Any = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.came = came


class Replay:
    """One transcript and one process."""

    def __init__(self, transcript: Transcript, command: list[str], seconds: float) -> None:
        self._transcript = transcript
        self._peer = Peer(command, transcript.framing, seconds)
        self._ledger = Ledger()
        self._bindings = Bindings({}, self._ledger.texts)
        self._ended = self._cut_short = False

    def run(self) -> Failure | None:
        """Replay it; None if all went as written."""
        failure: Failure | None = None
        last = Step(0, "exit", {"exit": 0})
        try:
            for step in (*self._transcript.steps, last):
                if self._ended or (self._cut_short and step is not last):
                    continue
                failure = self._try(step)
                if failure is not None:
                    break
        finally:
            log = self._peer.end()
        return None if failure is None else failure._replace(log=log)

    def _try(self, step: Step) -> Failure | None:
        try:
            self._take(step)
        except _Failed as failed:
            reason, came = failed.reason, failed.came
        except (Stalled, Mismatch) as error:
            reason, came = str(error), None
        else:
            return None
        return Failure(step.line, reason, _shown(step.body), _shown(came))

    def _take(self, step: Step) -> None:
        value = step.body[step.kind]
        peer = self._peer
        if step.kind == "send":
            message = fill(value, self._bindings)
            self._ledger.sent(message)
            peer.send(message)
        elif step.kind in ("sendRaw", "sendHex"):
            self._ledger.sent_raw()
            data = value.encode() if step.kind == "sendRaw" else bytes.fromhex(value)
            times = fill(step.body.get("times", 1), self._bindings)
            self._send_raw(data, times - step.body.get("less", 0))
        elif step.kind == "expect":
            self._cut_short = "orEnd" in step.body and self._ends_here(step.body["orEnd"])
            if not self._cut_short:
                self._expect(value)
        elif step.kind == "expectAnyOrder":
            self._expect_all(value)
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

    def _send_raw(self, data: bytes, times: int) -> None:
        at_once = max(1, _PIECE // max(1, len(data)))
        for _ in range(times // at_once):
            self._peer.write(data * at_once)
        self._peer.write(data * (times % at_once))

    def _next(self) -> Any:
        """The next message, looked at but not passed."""
        message = self._peer.peek()
        if message is None:
            raise _Failed("the stream has ended")
        if isinstance(message, NotAMessage):
            raise _Failed(message.reason, message.data.decode(errors="replace"))
        return message

    def _pass(self) -> None:
        message = self._peer.take()
        try:
            self._ledger.came(message)
        except Broken as broken:
            raise _Failed(f"breaks a rule of every conversation: {broken}", message) from None

    def _ends_here(self, pattern: Any) -> bool:
        """Whether the next message says that the rest of the transcript does not apply."""
        while _is_noise(self._next()):
            self._pass()
        if self._fits(pattern, self._next()) is not None:
            return False
        self._pass()
        return True

    def _expect(self, pattern: Any) -> None:
        if isinstance(pattern, dict) and "$many" in pattern:
            self._expect_many(pattern["$many"], pattern.get("$min", 0))
            return
        self._expect_all([pattern])

    def _expect_many(self, pattern: Any, least: int) -> None:
        """As many as there are; it ends with the first that is another."""
        count = 0
        while True:
            message = self._next()
            if self._fits(pattern, message) is None:
                self._pass()
                count += 1
            elif _is_noise(message):
                self._pass()
            else:
                break
        if count < least:
            raise _Failed(f"{count} came, at least {least} are due", self._next())

    def _expect_all(self, patterns: list[Any]) -> None:
        """One message for each pattern, in whatever order, and any number for those of `$many`."""
        many = [p["$many"] for p in patterns if isinstance(p, dict) and "$many" in p]
        due = [p for p in patterns if not (isinstance(p, dict) and "$many" in p)]
        while due:
            message = self._next()
            # The texts streamed so far are needed to match, so the account comes first.
            self._pass()
            reasons: list[str] = []
            for at, pattern in enumerate(due):
                reason = self._fits(pattern, message)
                if reason is None:
                    del due[at]
                    break
                reasons.append(reason)
            else:
                if not any(self._fits(p, message) is None for p in many) and not _is_noise(message):
                    raise _Failed("; or ".join(reasons), message)

    def _fits(self, pattern: Any, message: Any) -> str | None:
        """Why a message does not match; None where it does, and its names are bound."""
        try:
            self._bindings.names = match(pattern, message, self._bindings)
        except Mismatch as mismatch:
            return str(mismatch)
        return None

    def _expect_exit(self, code: Any, *, at_the_end: bool) -> None:
        if at_the_end:
            self._peer.close_stdin()
        while self._peer.peek() is not None:
            message = self._next()
            self._pass()
            if not _is_noise(message):
                raise _Failed("nothing more is due", message)
        found = self._peer.exit_code()
        self._ended = True
        if (reason := self._fits(code, found)) is not None:
            raise _Failed(f"exit code: {reason}", found)


def _is_noise(message: Any) -> bool:
    return isinstance(message, dict) and message.get("method") in _AT_ANY_TIME


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
