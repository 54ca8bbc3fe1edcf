"""The methods that need the engine, its models or their tokenizers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlx_stdio.engine.engine import Engine
from mlx_stdio.engine.job import LoadJob, UnloadJob
from mlx_stdio.errors import EngineError
from mlx_stdio.log import Log
from mlx_stdio.models.card import Card, read_card
from mlx_stdio.models.catalog import Catalog
from mlx_stdio.protocol.generation import Generation
from mlx_stdio.protocol.models import LoadParams, LoadResult, ModelListResult, UnloadParams
from mlx_stdio.session import texts
from mlx_stdio.session.deadlines import Deadlines
from mlx_stdio.session.generation import Generations
from mlx_stdio.session.prepare import refuse_unbuilt
from mlx_stdio.session.registry import Registry
from mlx_stdio.session.request import GenerationRequest, ModelRequest, Request, Respond
from mlx_stdio.session.status import list_models, resident_state, status
from mlx_stdio.session.unheard import Unheard
from mlx_stdio.session.workers import Workers
from mlx_stdio.settings import Settings
from mlx_stdio.text.model import TextStore
from mlx_stdio.wire.envelope import RequestId, notification_bytes, result_bytes
from mlx_stdio.wire.writer import Frame, Writer


class Methods:
    """Starts requests and keeps them until they are answered."""

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
    ) -> None:
        """Args:
        started: `time.monotonic` of the start.
        on_idle: called, from any thread, when the last request in flight was answered.
        on_fatal: called from the engine's thread when it has failed.
        """
        self._settings = settings
        self._writer = writer
        self._log = log
        self._deadlines = deadlines
        self._started = started
        self._on_idle = on_idle
        self.registry = Registry()
        self._catalog = Catalog(settings.models_dir)
        self._texts = TextStore(log, trust_remote_code=settings.trust_remote_code)
        self.engine = Engine(
            settings, log, self._model_changed, on_fatal=on_fatal, flush=writer.flush
        )
        self._workers = Workers(log)
        self._generations = Generations(
            self.engine,
            self._catalog,
            self._texts,
            self._workers,
            settings.model,
            writer.flush,
        )

    def call(self, name: str, request_id: RequestId, params: Any, respond: Respond) -> None:
        """Start a request.

        Raises:
            EngineError: it is refused before any work.
        """
        if isinstance(params, (Generation, LoadParams)):
            refuse_unbuilt(params)
        if name == "engine/status":
            limit = self._settings.memory_limit or 0
            state = status(self.engine, self.registry, self._texts, limit, self._started)
            respond(result_bytes(request_id, state))
        elif isinstance(params, Generation):
            self._generate(request_id, params, respond)
        elif isinstance(params, LoadParams):
            self._load(request_id, params, respond)
        elif isinstance(params, UnloadParams):
            self._unload(request_id, params, respond)
        elif name == "models/list":
            request = Request(request_id, respond, self._writer, self._closed)
            self.registry.add(request)
            self._later(
                request,
                lambda: ModelListResult(
                    models=list_models(self.engine, self._catalog, self._texts)
                ),
            )
        else:
            self._text(name, request_id, params, respond)

    def cancel(self, request_id: RequestId) -> None:
        """Cancel a request; an id that is not in flight is passed over."""
        request = self.registry.get(request_id)
        if request is not None:
            request.interrupt("cancelled", "cancelled by the client")
            self.engine.wake()

    def preload(self) -> None:
        """Make the default model resident before anybody asks; a failure is only logged."""
        try:
            model_id, folder = self._catalog.resolve(self._settings.model)
        except EngineError as error:
            self._log.warning("preload.failed", message=error.message)
            return
        job = LoadJob(Unheard(self._log), model_id)

        def prepare() -> None:
            try:
                job.card = read_card(model_id, folder)
                self.engine.submit(job)
                self._texts.load(job.card)
            except EngineError as error:
                job.sink.fail(error)

        self._workers.submit(prepare)

    def _generate(self, request_id: RequestId, params: Generation, respond: Respond) -> None:
        settings = self._settings
        if self.registry.generating >= settings.max_concurrent + settings.max_queued:
            raise EngineError(
                "overloaded",
                "too many requests are waiting",
                retryAfterMs=self.registry.retry_after_ms(settings.max_concurrent),
            )
        request = GenerationRequest(request_id, respond, self._writer, self._closed)
        self._open(request, params)
        try:
            self._generations.start(request, params)
        except EngineError as error:
            request.fail(error)
        except Exception as error:  # noqa: BLE001 - the one reply must come
            request.fail(EngineError("internalError", f"{type(error).__name__}: {error}"))

    def _load(self, request_id: RequestId, params: LoadParams, respond: Respond) -> None:
        model_id, folder = self._catalog.resolve(params.model)

        def result(seconds: float) -> LoadResult:
            resident = self.engine.cache.get(model_id)
            assert resident is not None
            return LoadResult(
                model=resident_state(resident, self._texts), load_ms=round(seconds * 1000, 3)
            )

        request = ModelRequest(request_id, respond, self._writer, self._closed, on_loaded=result)
        self._open(request, params)

        job = LoadJob(
            request,
            model_id,
            arrived=request.arrived,
            pin=params.pin,
            keep_alive=params.keep_alive_seconds,
        )

        def prepare() -> None:
            card = self._card(model_id, folder)
            # Before the weights, so that a request to the loaded model is tokenized at once.
            self._texts.load(card)
            job.card = card

        self.engine.submit(job)
        self._later(request, prepare)

    def _unload(self, request_id: RequestId, params: UnloadParams, respond: Respond) -> None:
        model_id = params.model
        if self.engine.cache.get(model_id) is None:  # a resident one's folder may be gone
            model_id, _ = self._catalog.resolve(params.model)
        request = ModelRequest(request_id, respond, self._writer, self._closed)
        self._open(request, params)
        self.engine.submit(UnloadJob(request, model_id, arrived=request.arrived))

    def _text(self, name: str, request_id: RequestId, params: Any, respond: Respond) -> None:
        model_id, folder = self._catalog.resolve(params.model or self._settings.model)
        request = Request(request_id, respond, self._writer, self._closed)
        self.registry.add(request)
        run = texts.TEXT_METHODS[name]
        self._later(request, lambda: run(params, self._texts.load(self._card(model_id, folder))))

    def _card(self, model_id: str, folder: Path) -> Card:
        resident = self.engine.cache.get(model_id)
        return resident.card if resident is not None else read_card(model_id, folder)

    def _later(self, request: Request, work: Callable[[], Any]) -> None:
        """Do slow work on a worker thread; a result other than None answers the request."""

        def run() -> None:
            if request.closed:  # cancelled while it waited for a worker
                return
            try:
                result = work()
                if result is not None:
                    request.succeed(result)
            except EngineError as error:
                request.fail(error)
            except Exception as error:  # noqa: BLE001 - the one reply must come
                request.fail(EngineError("internalError", f"{type(error).__name__}: {error}"))
            self._writer.flush()
            self.engine.wake()

        self._workers.submit(run)

    def _open(self, request: Request, params: Any) -> None:
        request.stream_token = getattr(params, "stream_token", None)
        self.registry.add(request)
        if params.timeout_ms is not None:
            self._deadlines.add(request, params.timeout_ms)

    def _closed(self, request: Request, verdict: str) -> None:
        self.registry.remove(request, verdict)
        if not len(self.registry):
            self._on_idle()

    def _model_changed(self, model_id: str, state: str, reason: str) -> None:
        if state == "available":
            self._texts.forget(model_id)
        self._log.info("model.changed", model=model_id, state=state, reason=reason)
        note = {"model": model_id, "state": state, "reason": reason}
        self._writer.put(Frame(notification_bytes("models/changed", note)))
