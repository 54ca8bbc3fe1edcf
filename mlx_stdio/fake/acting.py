"""Acts a script's steps for one request, or at the start for none."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from mlx_stdio.engine.job import Outcome
from mlx_stdio.errors import CODES, EngineError
from mlx_stdio.fake.script import Failure, Step
from mlx_stdio.fake.stage import Work, pause
from mlx_stdio.session.request import GenerationRequest, Request
from mlx_stdio.wire.envelope import notification_bytes
from mlx_stdio.wire.writer import Frame, Writer

_FLUSH_SECONDS = 1.0
_DYING_SECONDS = 1.0
"""A signal may end the process on another thread: this one must not answer meanwhile."""


class Powers(NamedTuple):
    """What steps do that is no request's affair.

    Attributes:
        raw_fd: the descriptor of stdout, for bytes that are no message.
        leave: ends the process with a code.
        fatal: fails as the engine's thread does.
    """

    writer: Writer
    raw_fd: int
    leave: Callable[[int, str], None]
    fatal: Callable[[BaseException], None]


class Acting:
    """One run through the steps.

    Attributes:
        silent: the request is not to be answered.
        default: what would be done without the script is to follow.
        spoke: there is a text, if only an empty one.
        finish: how it ends.
    """

    def __init__(self, steps: list[Step], request: Request | None, powers: Powers) -> None:
        self._steps = steps
        self._request = request
        self._powers = powers
        self.silent = False
        self.default = False
        self.spoke = False
        self.finish: Literal["stop", "length"] = "stop"
        self._answered = False

    def work(self) -> Work:
        """Do the steps. What follows them is up to the caller; so is a request's cancel."""
        for step in self._steps:
            yield from pause(step.delay_ms / 1000, self._is_over)
            if self._is_over() and not self._answered:
                return  # cancelled, or its time is up: the rest is not for anybody
            if step.stream is not None:
                for character in step.stream:
                    self._delta(character)
                    yield from pause(step.every_ms / 1000, self._is_over)
            else:
                self._act(step)
            if self.silent or self.default:
                return

    def _is_over(self) -> bool:
        return self._request is not None and self._request.closed

    def _act(self, step: Step) -> None:
        powers = self._powers
        action = step.action
        if action in ("delta", "progress", "result", "finish", "error", "silent", "default"):
            self._answer(step, action)
        elif step.notify is not None:
            note = notification_bytes(step.notify.method, step.notify.params)
            powers.writer.put(Frame(note))
        elif step.raw is not None:
            powers.writer.close(_FLUSH_SECONDS)  # what was said before comes before
            os.write(powers.raw_fd, step.raw.encode())
        elif step.exit is not None:
            powers.leave(step.exit, "as the script says")
        elif step.signal is not None:
            powers.writer.close(_FLUSH_SECONDS)
            number = signal.Signals[step.signal]
            os.kill(os.getpid(), number)
            if signal.getsignal(number) is signal.SIG_DFL:
                time.sleep(_DYING_SECONDS)
        elif step.fatal is not None:
            powers.fatal(RuntimeError(step.fatal))

    def _answer(self, step: Step, action: str) -> None:
        request = self._request
        if request is None:
            return
        if step.delta is not None:
            self._delta(step.delta)
        elif step.progress is not None:
            told = step.progress
            request.progress(told.phase, told.completed, told.total, told.unit)
        elif step.error is not None:
            self._answered = True
            request.fail(_error(step.error))
        elif action == "result":
            self._answered = True
            request.succeed(step.result)
        elif step.finish is not None:
            self.spoke = True
            self.finish = step.finish
        else:
            self.silent = action == "silent"
            self.default = action == "default"

    def _delta(self, text: str) -> None:
        self.spoke = True
        if isinstance(self._request, GenerationRequest):
            self._request.delta(text, [ord(character) for character in text], [])


def _error(failure: Failure) -> EngineError:
    """The scripted error; its kind may be one that the protocol does not have."""
    error = EngineError("internalError", failure.message, **failure.data)
    error.kind = failure.kind
    error.code = failure.code if failure.code is not None else CODES.get(failure.kind, error.code)
    return error


def scripted_outcome(
    request: GenerationRequest, params: Any, finish: Literal["stop", "length"]
) -> Outcome:
    """The end of a scripted text: a token is a character."""
    now = time.monotonic() - request.arrived
    prompt = getattr(params, "prompt", "")
    return Outcome(
        finish_reason=finish,
        prompt_tokens=max(1, len(prompt)),
        cached_tokens=0,
        completion_tokens=request.tokens,
        drafted_tokens=0,
        accepted_tokens=0,
        queue=0.0,
        load=0.0,
        prefill=0.0,
        first_token=now,
        total=now,
        decode=0.0,
    )
