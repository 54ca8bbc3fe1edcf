"""The process: what is started in which order, and the event loop.

The first message is answered before the event loop is imported (that alone takes longer than
Python's own start), and before MLX is. The loop then reads stdin, keeps deadlines and takes
signals; it never waits for the engine.
"""

from __future__ import annotations

import os
import select
import signal
import time
from typing import TYPE_CHECKING, Any

from mlx_stdio.log import Log
from mlx_stdio.marks import mark
from mlx_stdio.session.ending import Ending
from mlx_stdio.session.session import Session
from mlx_stdio.settings import Settings
from mlx_stdio.wire.fence import Pipes
from mlx_stdio.wire.watch import watch_host
from mlx_stdio.wire.writer import Writer

if TYPE_CHECKING:
    from mlx_stdio.session.methods import Methods

_CHUNK = 256 * 1024
_FIRST_MESSAGE_MS = 50
"""How long the start waits for a first message before it goes on with the slow imports."""

_SETTLE_SECONDS = 1.0
_LOOK_MS = 5
"""The longest that the event loop waits for the first token, and how often that is looked at."""

_SAVE_SECONDS = 1.0
"""How long the end may be delayed by writing prefixes that are not on the disk yet."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)
BACKLOG = 4096
"""Messages that may wait for a slow host before no more are read from it."""


def serve(pipes: Pipes, settings: Settings, parent: int) -> None:
    """Serve the host on the other end of the pipes until it is done; does not return.

    Args:
        parent: the host's process id, as it was when this process began.
    """
    # Until the event loop takes signals they are only noted: their default is to end the process
    # without a reply to what the first message began.
    early: list[int] = []
    for number in SIGNALS:
        signal.signal(number, lambda number, _: early.append(number))
    log = Log(settings.log_level)
    writer = Writer(pipes.stdout, on_broken=lambda: ending.leave_now("stdout is closed"))
    ending = Ending(writer, log)

    def make_methods(*parts: Any, **callbacks: Any) -> Methods:
        from mlx_stdio.session.methods import Methods

        methods = Methods(*parts, **callbacks)
        if settings.prompt_cache_dir is not None:
            ending.last = lambda: methods.engine.stop(_SAVE_SECONDS)
        return methods

    session = Session(settings, writer, ending, log, make_methods)
    watch_host(pipes.stdout, parent, lambda what: ending.leave_now(f"{what} is gone"))
    ended = _answer_first(pipes.stdin, session)
    mark("main: the first message is handled")
    # The engine's thread imports MLX while this one imports the event loop.
    session.methods.engine.start()
    mark("main: the methods are imported, the engine's thread runs")
    if settings.preload:
        session.methods.preload()
    if ended:
        session.end_of_input()
    else:
        ended = _read_until_settled(pipes.stdin, session, writer, early)

    import anyio

    anyio.run(_Loop(pipes.stdin, session, writer, early, ended=ended).run)


def _answer_first(stdin: int, session: Session[Methods]) -> bool:
    """Handle what the host has written by now; whether it has closed its end already."""
    poll = select.poll()
    poll.register(stdin, select.POLLIN)
    if not poll.poll(_FIRST_MESSAGE_MS):
        return False
    data = read(stdin)
    session.feed(data or b"")
    return data == b""


def _read_until_settled(
    stdin: int, session: Session[Methods], writer: Writer, early: list[int]
) -> bool:
    """Read on with a bare `poll` while the engine's thread imports what the first request needs.

    The threads share one interpreter, and the event loop's import is a fifth of the whole start:
    it comes when the first token is out, or nothing is to be done. A signal, or a host that does
    not read, needs the loop at once.

    Returns:
        whether the host has closed its end.
    """
    settled = session.methods.engine.settled
    end = time.monotonic() + _SETTLE_SECONDS
    poll = select.poll()
    poll.register(stdin, select.POLLIN)
    while not (settled.is_set() or early) and time.monotonic() < end:
        if writer.backlog > BACKLOG:
            return False
        if poll.poll(_LOOK_MS):
            data = read(stdin)
            if data == b"":
                session.end_of_input()
                return True
            session.feed(data or b"")
        expire(session, writer)
    return False


def expire(session: Session[Methods], writer: Writer) -> None:
    """Answer what is past its deadline."""
    if session.deadlines.expire():
        writer.flush()
        session.methods.engine.wake()


def read(stdin: int) -> bytes | None:
    """What is there; empty at the end, None if another reader of the pipe was faster."""
    try:
        return os.read(stdin, _CHUNK)
    except BlockingIOError:
        return None
    except OSError:  # a terminal that is gone
        return b""


class _Loop:
    """The event loop's three tasks: stdin, deadlines, signals."""

    def __init__(
        self,
        stdin: int,
        session: Session[Methods],
        writer: Writer,
        early: list[int],
        *,
        ended: bool,
    ) -> None:
        """Args:
        early: signals that came before this loop.
        ended: whether stdin is at its end already.
        """
        import anyio

        self._stdin = stdin
        self._session = session
        self._writer = writer
        self._early = early
        self._ended = ended
        self._deadlines_changed = anyio.Event()

    async def run(self) -> None:
        """Run until the process ends."""
        import anyio

        mark("main: the event loop runs")
        async with anyio.create_task_group() as group:
            group.start_soon(self._take_signals)
            group.start_soon(self._keep_deadlines)
            group.start_soon(self._read_input)

    async def _read_input(self) -> None:
        import anyio

        while not self._ended:
            try:
                await anyio.wait_readable(self._stdin)
            except OSError:
                # A regular file or the null device: always readable, and epoll refuses it.
                await anyio.lowlevel.checkpoint()
            data = read(self._stdin)
            if data is None:
                continue
            if not data:
                self._ended = True
                self._session.end_of_input()
                return
            self._session.feed(data)
            self._deadlines_changed.set()
            while self._writer.backlog > BACKLOG:
                await anyio.sleep(0.005)

    async def _keep_deadlines(self) -> None:
        import anyio

        while True:
            with anyio.move_on_after(self._session.deadlines.next_delay()):
                await self._deadlines_changed.wait()
            self._deadlines_changed = anyio.Event()
            expire(self._session, self._writer)

    async def _take_signals(self) -> None:
        import anyio

        with anyio.open_signal_receiver(*SIGNALS) as signals:
            for number in self._early:
                self._terminate(number)
            async for number in signals:
                self._terminate(number)

    def _terminate(self, number: int) -> None:
        self._session.terminate(128 + number, signal.Signals(number).name)
