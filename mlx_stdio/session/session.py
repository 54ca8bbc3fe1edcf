"""The session: bytes from the host in, work begun, replies out.

`feed` is synchronous and never waits for the engine, so a cancel or a ping is handled the moment
its bytes are there, whatever the engine is doing. It runs on the event loop's thread only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from mlx_stdio import __version__
from mlx_stdio.errors import EngineError
from mlx_stdio.log import Log
from mlx_stdio.protocol import PROTOCOL_VERSION
from mlx_stdio.session.batch import Batch
from mlx_stdio.session.deadlines import Deadlines
from mlx_stdio.session.ending import EXIT_ENGINE_FAULT, EXIT_OK, EXIT_WITHOUT_SHUTDOWN, Ending
from mlx_stdio.settings import Settings
from mlx_stdio.wire.detect import AutoFramer, Framer, Framing, Piece, make_framer, with_length
from mlx_stdio.wire.envelope import (
    Call,
    Ignored,
    Invalid,
    Message,
    Notification,
    error_bytes,
    notification_bytes,
    parse,
    result_bytes,
)
from mlx_stdio.wire.framing import Malformed, Oversize
from mlx_stdio.wire.writer import Frame, Writer

if TYPE_CHECKING:
    from mlx_stdio.session.registry import Registry
    from mlx_stdio.session.request import Respond
    from mlx_stdio.wire.envelope import RequestId

    class Served(Protocol):
        """What a session needs of the methods that it serves."""

        registry: Registry

        def call(self, name: str, request_id: RequestId, params: Any, respond: Respond) -> None:
            """Start a request; an `EngineError` refuses it before any work."""

        def cancel(self, request_id: RequestId) -> None:
            """Cancel a request; an id that is not in flight is passed over."""


M = TypeVar("M", bound="Served")


def _is_exit(message: Message) -> bool:
    return isinstance(message, Notification) and message.method == "exit"


class Session(Generic[M]):
    """One host's conversation with one engine."""

    def __init__(
        self,
        settings: Settings,
        writer: Writer,
        ending: Ending,
        log: Log,
        make_methods: Callable[..., M],
    ) -> None:
        """Args:
        make_methods: makes what `methods` is; called as `Methods` is.
        """
        self._make_methods = make_methods
        self._settings = settings
        self._writer = writer
        self._ending = ending
        self._log = log
        self._framer = self._make_framer(settings)
        self._feeding = threading.Lock()
        self._shut_down = False
        self._drained = False
        self._leaving = False
        self._started = time.monotonic()
        self.deadlines = Deadlines()

    def _make_framer(self, settings: Settings) -> Framer:
        if settings.framing == "auto":
            self._writer.hold()
            return AutoFramer(settings.max_message_bytes, self._answer_in)
        framing: Framing = "newline" if settings.framing == "newline" else "content-length"
        self._answer_in(framing)
        return make_framer(framing, settings.max_message_bytes)

    def _answer_in(self, framing: Framing) -> None:
        self._writer.begin(with_length if framing == "content-length" else None)

    @cached_property
    def methods(self) -> M:
        """The methods that need the engine; made when the first of them is called."""
        return self._make_methods(
            self._settings,
            self._writer,
            self._log,
            self.deadlines,
            self._started,
            on_idle=self._on_idle,
            on_fatal=self.fatal,
        )

    def feed(self, data: bytes) -> None:
        """Handle bytes from stdin as they came."""
        with self._feeding:
            for frame in self._framer.feed(data):
                self._frame(frame)
        self._writer.flush()

    def end_of_input(self) -> None:
        """Stdin is closed: finish what is in flight, then leave."""
        for frame in self._framer.close():
            self._frame(frame)
        self._writer.flush()
        self._drained = True
        if "methods" not in self.__dict__ or not len(self.methods.registry):
            self._on_idle()

    def terminate(self, code: int, reason: str) -> None:
        """Answer everything in flight with `shuttingDown` and leave."""
        self._shut_down = self._leaving = True
        self._interrupt_all("shuttingDown", f"the engine is leaving ({reason})")
        self._ending.leave(code, reason)

    def fatal(self, error: BaseException) -> None:
        """The engine's thread has failed: say so, answer everything, leave."""
        self._leaving = True
        message = EngineError("engineFault", f"{type(error).__name__}: {error}").message
        self._log.error("engine.fatal", error=message)
        note = {"kind": "engineFault", "message": message}
        self._writer.put(Frame(notification_bytes("engine/fatal", note)))
        with self._feeding:
            # What was read by now is in flight and hears of the fault; what comes later is refused.
            self._shut_down = True
            self._interrupt_all("engineFault", message)
        self._ending.leave(EXIT_ENGINE_FAULT, "engine fault")

    def _interrupt_all(self, kind: str, message: str) -> None:
        if "methods" in self.__dict__:
            for request in self.methods.registry.all():
                request.interrupt(kind, message)
        self._writer.flush()

    def _on_idle(self) -> None:
        """Nothing is in flight any more."""
        if self._drained and not self._leaving:
            self._ending.leave_when_read("end of input")

    def _frame(self, frame: Piece) -> None:
        if isinstance(frame, Malformed):
            self._respond(error_bytes(None, EngineError("parseError", frame.reason)))
            return
        if isinstance(frame, Oversize):
            error = EngineError(
                "invalidRequest",
                f"a message longer than {frame.limit} bytes was skipped",
                maxMessageBytes=frame.limit,
            )
            self._respond(error_bytes(None, error))
            return
        message = parse(frame)
        if not isinstance(message, list):
            self._message(message, self._respond)
            return
        expected = sum(isinstance(member, (Call, Invalid)) for member in message)
        batch = Batch(expected, self._writer)
        # `exit` last: it ends the process where it stands, and the others' array with it.
        for member in sorted(message, key=_is_exit):
            self._message(member, batch.respond)

    def _respond(self, response: bytes) -> None:
        self._writer.put(Frame(response))

    def _message(self, message: Message, respond: Respond) -> None:
        if isinstance(message, Call):
            try:
                self._call(message, respond)
            except EngineError as error:
                respond(error_bytes(message.id, error))
            except Exception as error:  # noqa: BLE001 - one message must not end the session
                self._log.error("request.failed", method=message.method, error=repr(error))
                text = f"{type(error).__name__}: {error}"
                respond(error_bytes(message.id, EngineError("internalError", text)))
        elif isinstance(message, Invalid):
            respond(error_bytes(message.id, message.error))
        elif isinstance(message, Notification):
            self._notify(message)
        else:
            assert isinstance(message, Ignored)
            self._log.warning("response.ignored")

    def _call(self, call: Call, respond: Respond) -> None:
        if "methods" in self.__dict__ and call.id in self.methods.registry:
            raise EngineError("invalidRequest", "a request with this id is still in flight")
        if call.method == "ping" and (call.params is None or call.params == {}):
            # Before anything is imported or looked up.
            respond(result_bytes(call.id, {}))
            return
        from mlx_stdio.protocol.methods import METHODS
        from mlx_stdio.protocol.validate import read_params

        method = METHODS.get(call.method)
        if method is None or method.notification:
            raise EngineError("methodNotFound", f"no method is named {call.method[:100]!r}")
        params = read_params(method, call.params)
        if not method.built:
            raise EngineError("unsupported", f"`{call.method}` is not built in this version")
        if call.method in ("initialize", "ping", "shutdown", "rpc.discover"):
            respond(result_bytes(call.id, self._lifecycle(call.method, params)))
            return
        if self._shut_down:
            raise EngineError("shuttingDown", "the engine was told to shut down")
        self.methods.call(call.method, call.id, params, respond)

    def _lifecycle(self, name: str, params: Any) -> Any:
        if name == "initialize":
            self._log.info("initialize", client=params.client_info)
            return self._initialize()
        if name == "shutdown":
            self._shut_down = True
            return None
        if name == "rpc.discover":
            from mlx_stdio.protocol.openrpc import openrpc_document

            return openrpc_document()
        return {}

    def _initialize(self) -> Any:
        from mlx_stdio.protocol import lifecycle
        from mlx_stdio.protocol.methods import METHODS, UNSUPPORTED_PARAMS

        calls = [method for method in METHODS.values() if not method.notification]
        return lifecycle.InitializeResult(
            protocol_version=PROTOCOL_VERSION,
            server_info=lifecycle.ServerInfo(version=__version__),
            capabilities=lifecycle.Capabilities(
                methods=[method.name for method in calls if method.built],
                unsupported_methods=[method.name for method in calls if not method.built],
                unsupported_params=list(UNSUPPORTED_PARAMS),
                framings=["newline", "content-length"],
            ),
            limits=lifecycle.Limits(
                max_message_bytes=self._settings.max_message_bytes,
                max_concurrent_requests=self._settings.max_concurrent,
                max_queued_requests=self._settings.max_queued,
            ),
            default_model=self._settings.model,
        )

    def _notify(self, note: Notification) -> None:
        if note.method == "exit":
            code = EXIT_OK if self._shut_down else EXIT_WITHOUT_SHUTDOWN
            self.terminate(code, "exit")
        elif note.method == "$/cancelRequest":
            request_id = note.params.get("id") if isinstance(note.params, dict) else None
            if isinstance(request_id, (str, int)) and not isinstance(request_id, bool):
                if "methods" in self.__dict__:
                    self.methods.cancel(request_id)
            else:
                self._log.warning("cancel.malformed")
        else:
            # The specification forbids any answer; a log line is all that a typo can get.
            self._log.debug("notification.ignored", method=note.method)
