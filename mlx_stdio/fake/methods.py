"""The fake engine's methods: what `session/methods.py` is to the real one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mlx_stdio.errors import EngineError
from mlx_stdio.fake.acting import Acting, Powers, scripted_outcome
from mlx_stdio.fake.echo import check_draft, echo
from mlx_stdio.fake.folders import Folders
from mlx_stdio.fake.places import Places
from mlx_stdio.fake.script import Rule, Script
from mlx_stdio.fake.shelf import Shelf
from mlx_stdio.fake.stage import Stage, Work
from mlx_stdio.fake.status import status
from mlx_stdio.log import Log
from mlx_stdio.protocol.generation import Generation
from mlx_stdio.protocol.lifecycle import StatusResult
from mlx_stdio.protocol.models import LoadParams, LoadResult, ModelListResult, UnloadParams
from mlx_stdio.session import texts
from mlx_stdio.session.deadlines import Deadlines
from mlx_stdio.session.prepare import max_tokens_of, prompt_of, refuse_unbuilt, sampling_of
from mlx_stdio.session.registry import Registry
from mlx_stdio.session.request import GenerationRequest, Request, Respond
from mlx_stdio.session.results import BUILDERS
from mlx_stdio.session.unheard import Unheard
from mlx_stdio.settings import Settings
from mlx_stdio.wire.envelope import RequestId, notification_bytes, result_bytes
from mlx_stdio.wire.writer import Frame, Writer


class FakeMethods:
    """Starts requests; all of them are acted on the stage."""

    def __init__(
        self,
        settings: Settings,
        writer: Writer,
        log: Log,
        deadlines: Deadlines,
        started: float,
        *,
        on_idle: Callable[[], None],
        on_fatal: Callable[[BaseException], None],
        script: Script,
        raw_fd: int,
        leave: Callable[[int, str], None],
    ) -> None:
        """Args:
        raw_fd: see `Powers`; so `leave`.
        """
        self._settings = settings
        self._writer = writer
        self._log = log
        self._deadlines = deadlines
        self._started = started
        self._on_idle = on_idle
        self._script = script
        self._powers = Powers(writer, raw_fd, leave, on_fatal)
        self.registry = Registry()
        self._stage = Stage(writer.flush)
        self._places = Places(settings.max_concurrent)
        names = dict.fromkeys([settings.model, *script.models])
        self._shelf = Shelf(
            list(names),
            script.context_length,
            script.load_ms / 1000,
            settings.max_models,
            settings.memory_limit,
            Folders(settings, log),
            self._model_changed,
        )

    def begin(self) -> None:
        """The steps that a script does at the start."""
        self._stage.add(Acting(self._script.start, None, self._powers).work())

    def preload(self) -> None:
        """Load the default model before anybody asks; a failure is only logged."""
        sink = Unheard(self._log)

        def work() -> Work:
            try:
                yield from self._shelf.load(self._shelf.find(self._settings.model), sink)
            except EngineError as error:
                sink.fail(error)

        self._stage.add(work())

    def call(self, name: str, request_id: RequestId, params: Any, respond: Respond) -> None:
        """Start a request that no rule fits.

        Raises:
            EngineError: it is refused before any work.
        """
        if name == "engine/status":  # counts itself no more than the real one's does
            respond(result_bytes(request_id, self._status()))
            return
        request = self._open(request_id, params, respond)
        self._stage.add(self._guarded(request, self._usual(name, params, request)))

    def act(
        self,
        rule: Rule,
        name: str,
        request_id: RequestId,
        params: Any,
        respond: Respond,
        usual: Callable[[], Any] | None,
    ) -> None:
        """Start a request that a rule fits.

        Args:
            params: typed, or as they came where the protocol has no such method.
            usual: makes the result of a method that the session itself answers.
        """
        request = self._open(request_id, params, respond)
        acting = Acting(rule.steps, request, self._powers)

        def work() -> Work:
            yield from acting.work()
            if acting.silent or request.closed:
                return
            if isinstance(request, GenerationRequest) and acting.spoke and not acting.default:
                request.finish(scripted_outcome(request, params, acting.finish))
            elif usual is not None:
                request.succeed(usual())
            else:
                yield from self._usual(name, params, request)

        self._stage.add(self._guarded(request, work()))

    def cancel(self, request_id: RequestId) -> None:
        """Cancel a request; an id that is not in flight is passed over."""
        request = self.registry.get(request_id)
        if request is not None:
            request.interrupt("cancelled", "cancelled by the client")

    def _open(self, request_id: RequestId, params: Any, respond: Respond) -> Request:
        if isinstance(params, (Generation, LoadParams)):
            refuse_unbuilt(params)
        kind: type[Request] = Request
        if isinstance(params, Generation):
            kind = GenerationRequest
            settings = self._settings
            if self.registry.generating >= settings.max_concurrent + settings.max_queued:
                raise EngineError(
                    "overloaded",
                    "too many requests are waiting",
                    retryAfterMs=self.registry.retry_after_ms(settings.max_concurrent),
                )
        request = kind(request_id, respond, self._writer, self._closed)
        request.stream_token = getattr(params, "stream_token", None)
        if isinstance(request, GenerationRequest):
            request.model = params.model or self._settings.model
            request.build = BUILDERS[type(params)]
            request.stream = params.stream is not False
            request.wants_logprobs = params.logprobs is not None
        self.registry.add(request)
        if (timeout := getattr(params, "timeout_ms", None)) is not None:
            self._deadlines.add(request, timeout)
        return request

    def _guarded(self, request: Request, work: Work) -> Work:
        """The one reply comes, whatever the work raises."""
        try:
            yield from work
        except EngineError as error:
            request.fail(error)
        except Exception as error:  # noqa: BLE001 - as above
            self._log.error("request.failed", error=repr(error))
            request.fail(EngineError("internalError", f"{type(error).__name__}: {error}"))

    def _usual(self, name: str, params: Any, request: Request) -> Work:
        """What is done without a script."""
        if name == "engine/status":
            request.succeed(self._status())
        elif name == "models/list":
            request.succeed(ModelListResult(models=self._shelf.rows()))
        elif isinstance(params, LoadParams):
            yield from self._load(params, request)
        elif isinstance(params, UnloadParams):
            yield from self._shelf.unload(params.model, request)
        elif isinstance(request, GenerationRequest):
            yield from self._generate(params, request)
        elif name in texts.TEXT_METHODS:
            model = self._shelf.find(params.model or self._settings.model)
            request.succeed(texts.TEXT_METHODS[name](params, model.text()))
        else:
            raise EngineError("methodNotFound", f"no method is named {name[:100]!r}")

    def _generate(self, params: Generation, request: GenerationRequest) -> Work:
        model = self._shelf.find(request.model)
        request.model = model.id
        card = model.card
        if params.draft_model is not None:
            check_draft(self._shelf.find(params.draft_model).card, card)
        request.seed = sampling_of(params, card).seed
        most = max_tokens_of(params, card)
        prompt = prompt_of(params, model.text())
        if card.context_length is not None:
            most = min(most, card.context_length - len(prompt.tokens))
        yield from echo(
            request,
            params,
            prompt,
            model,
            self._shelf,
            self._places,
            most,
            self._script.token_ms / 1000,
            self._settings.prefill_step,
        )

    def _load(self, params: LoadParams, request: Request) -> Work:
        model = self._shelf.find(params.model)
        began = time.monotonic()
        was_ready = model.state == "ready"
        yield from self._shelf.load(model, request)
        if request.closed:
            return
        if params.pin is not None:
            model.pinned = params.pin
        if params.keep_alive_seconds is not None:
            model.keep_alive = params.keep_alive_seconds
        model.used = time.monotonic()
        if model.keep_alive is not None and not model.watched:
            model.watched = True
            self._stage.add(self._shelf.idle(model))
        took = 0.0 if was_ready else round((time.monotonic() - began) * 1000, 3)
        request.succeed(LoadResult(model=model.row(), load_ms=took))

    def _status(self) -> StatusResult:
        limit = self._settings.memory_limit or 0
        return status(self._shelf, self._places, self.registry, limit, self._started)

    def _closed(self, request: Request, verdict: str) -> None:
        self.registry.remove(request, verdict)
        if not len(self.registry):
            self._on_idle()

    def _model_changed(self, model_id: str, state: str, reason: str) -> None:
        note = {"model": model_id, "state": state, "reason": reason}
        self._writer.put(Frame(notification_bytes("models/changed", note)))
