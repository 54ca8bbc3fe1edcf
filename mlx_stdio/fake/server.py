"""The fake engine's process: the real session on a bare `poll`, without an event loop.

What is said of the life of the process holds here too: end of file, signals, the host's death.
"""

from __future__ import annotations

import functools
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mlx_stdio.cli import read_fake_settings
from mlx_stdio.errors import EngineError
from mlx_stdio.log import Log
from mlx_stdio.server import BACKLOG, SIGNALS, read
from mlx_stdio.session.ending import Ending
from mlx_stdio.session.session import Session
from mlx_stdio.settings import Settings
from mlx_stdio.wire.envelope import Call
from mlx_stdio.wire.fence import Pipes
from mlx_stdio.wire.watch import watch_host
from mlx_stdio.wire.writer import Writer

if TYPE_CHECKING:
    from mlx_stdio.fake.methods import FakeMethods
    from mlx_stdio.fake.script import Rule, Script
    from mlx_stdio.session.request import Respond

_SLOW_MS = 5
# `poll` takes no more than 31 bits; a deadline beyond is looked at again.
_LONGEST_MS = 60_000
_OWN = ("initialize", "ping", "shutdown", "rpc.discover")
"""Methods that the session answers itself."""


def serve_fake(pipes: Pipes, arguments: list[str], parent: int) -> None:
    """Serve the host until it is done; does not return.

    Args:
        arguments: of the command line, after `fake`.
        parent: the host's process id, as it was when this process began.
    """
    settings, path = read_fake_settings(arguments)
    script = _read_script(path)
    log = Log(settings.log_level)
    writer = Writer(pipes.stdout, on_broken=lambda: ending.leave_now("stdout is closed"))
    ending = Ending(writer, log)

    def make_methods(*parts: Any, **callbacks: Any) -> FakeMethods:
        from mlx_stdio.fake.methods import FakeMethods

        return FakeMethods(
            *parts, **callbacks, script=script, raw_fd=pipes.stdout, leave=ending.leave
        )

    session = FakeSession(settings, writer, ending, log, make_methods, script)
    watch_host(pipes.stdout, parent, lambda what: ending.leave_now(f"{what} is gone"))
    if script.start:
        session.methods.begin()
    if settings.preload:
        session.methods.preload()
    _loop(pipes.stdin, session, writer)


def _read_script(path: str | None) -> Script:
    from mlx_stdio.fake.script import BadScript, read_script

    try:
        return read_script(path)
    except BadScript as error:
        sys.stderr.write(f"mlx-stdio fake: {error}\n")
        sys.exit(2)


def _loop(stdin: int, session: FakeSession, writer: Writer) -> None:
    """Read, keep deadlines, take signals; the process ends from inside."""
    taken: list[int] = []
    waking, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    for name in SIGNALS:
        signal.signal(name, lambda number, _: taken.append(number))
    ended = False
    while True:
        slow = writer.backlog > BACKLOG
        poll = select.poll()
        poll.register(waking, select.POLLIN)
        if not (ended or slow):
            poll.register(stdin, select.POLLIN)
        delay = session.deadlines.next_delay()
        wait = None if delay is None else min(int(delay * 1000) + 1, _LONGEST_MS)
        ready = [fd for fd, _ in poll.poll(_SLOW_MS if slow else wait)]
        if waking in ready:
            os.read(waking, 64)
        while taken:
            number = taken.pop(0)
            session.terminate(128 + number, signal.Signals(number).name)
        if stdin in ready:
            data = read(stdin)
            if data == b"":
                ended = True
                session.end_of_input()
            else:
                session.feed(data or b"")
        if session.deadlines.expire():
            writer.flush()


class FakeSession(Session["FakeMethods"]):
    """A session whose script is asked first."""

    def __init__(
        self,
        settings: Settings,
        writer: Writer,
        ending: Ending,
        log: Log,
        make_methods: Callable[..., FakeMethods],
        script: Script,
    ) -> None:
        super().__init__(settings, writer, ending, log, make_methods)
        self._script = script

    def _call(self, call: Call, respond: Respond) -> None:
        rule = self._script.rule_for(call.method, call.params) if self._script.rules else None
        if rule is None:
            super()._call(call, respond)
        else:
            self._act(rule, call, respond)

    def _act(self, rule: Rule, call: Call, respond: Respond) -> None:
        from mlx_stdio.protocol.methods import METHODS
        from mlx_stdio.protocol.validate import read_params

        if call.id in self.methods.registry:
            raise EngineError("invalidRequest", "a request with this id is still in flight")
        method = METHODS.get(call.method)
        params = call.params if method is None else read_params(method, call.params)
        usual = None
        if call.method in _OWN:
            usual = functools.partial(self._lifecycle, call.method, params)
        elif self._shut_down:
            raise EngineError("shuttingDown", "the engine was told to shut down")
        if call.method == "shutdown":
            self._shut_down = True
        self.methods.act(rule, call.method, call.id, params, respond, usual)
