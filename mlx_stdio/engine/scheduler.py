"""Which work is done next. Owned by the engine's thread; one `tick` is one engine step.

Rules it keeps:
- jobs are looked at by priority, then in the order of arrival;
- a job that waits for room in memory holds back later jobs on models that it could evict, so it
  cannot starve; an unload holds back later jobs on its model;
- in a step every running stream gets one token, and one prompt is read one chunk further;
- a job that fails ends alone; a job whose sink is closed (cancelled, timed out) is dropped before
  the next thing is done for it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mlx_stdio.engine.job import GenerateJob, Job, LoadJob, UnloadJob
from mlx_stdio.engine.loading import Loading
from mlx_stdio.engine.sequence import Sequence
from mlx_stdio.errors import EngineError, invalid_params
from mlx_stdio.log import Log
from mlx_stdio.models.card import Card
from mlx_stdio.models.residency import ModelCache, Resident
from mlx_stdio.settings import Settings

if TYPE_CHECKING:
    import mlx.core as mx


class Scheduler:
    """The queue, the load in progress and the running sequences."""

    def __init__(self, settings: Settings, cache: ModelCache, log: Log) -> None:
        self._settings = settings
        self._cache = cache
        self._log = log
        self._waiting: list[Job] = []
        self._loading: Loading | None = None
        self._running: list[Sequence] = []

    def add(self, job: Job) -> None:
        """A new job, behind those of its priority that arrived before it."""
        self._waiting.append(job)
        self._waiting.sort(key=lambda waiting: (waiting.rank, waiting.arrived))

    @property
    def running(self) -> list[Sequence]:
        """Sequences that are read or decoded now."""
        return self._running

    @property
    def waiting(self) -> list[Job]:
        """Jobs without a place yet."""
        return self._waiting

    @property
    def loading_card(self) -> Card | None:
        """The model that is being loaded."""
        loading = self._loading
        return loading.card if loading else None

    def tick(self) -> bool:
        """Do one step of everything.

        Returns:
            whether there was anything to do; False means that only an event can change that.
        """
        self._drop_closed()
        loaded = self._advance_load()
        admitted = self._admit()
        stepped = self._step()
        return loaded or admitted or stepped or self._loading is not None

    def idle_deadline(self) -> float | None:
        """Unload what is idle; when to look again (`time.monotonic`)."""
        return self._cache.evict_idle(time.monotonic(), [job.model_id for job in self._waiting])

    def _drop_closed(self) -> None:
        self._waiting = [job for job in self._waiting if not job.sink.closed]
        for sequence in [s for s in self._running if s.job.sink.closed]:
            self._release(sequence)
        if self._loading and not self._awaiting(self._loading.card.id):
            self._log.info("model.load_abandoned", model=self._loading.card.id)
            self._loading.abandon()
            self._loading = None

    def _is_loading(self, model_id: str) -> bool:
        return self._loading is not None and self._loading.card.id == model_id

    def _awaiting(self, model_id: str) -> list[Job]:
        """Who waits for a load of this model: not those behind an unload of it."""
        jobs: list[Job] = []
        for job in self._waiting:
            if job.model_id == model_id:
                if isinstance(job, UnloadJob):
                    break
                jobs.append(job)
        return jobs

    def _advance_load(self) -> bool:
        if self._loading is None:
            return False
        card = self._loading.card
        waiting = self._awaiting(card.id)
        try:
            weights = self._loading.advance(waiting)
        except EngineError as error:
            self._log.warning("model.load_failed", model=card.id, message=error.message)
            self._loading.abandon()
            self._loading = None
            for job in waiting:
                self._waiting.remove(job)
                job.sink.fail(error)
            return True
        if weights is not None:
            # In this order: whoever lists the models meanwhile finds it loading or ready.
            self._cache.add(card, weights, self._settings.keep_alive)
            self._loading = None
            self._log.info("model.loaded", model=card.id, bytes=weights.bytes)
        return True

    def _admit(self) -> bool:
        """Start what can start; whether that changed anything for those who still wait."""
        before = len(self._waiting)
        held_all = False
        held: set[str] = set()
        older: list[str] = []
        places = 0
        for job in list(self._waiting):
            model_id = job.model_id
            resident = self._cache.get(model_id)
            done = False
            if model_id in held:
                pass
            elif isinstance(job, UnloadJob):
                done = self._unload(job, resident, awaited=model_id in older)
                if not done:
                    held.add(model_id)
            elif resident is None:
                if job.card is not None and self._loading is None and not held_all:
                    done, held_all = self._start_load(job, job.card, older)
            elif isinstance(job, LoadJob):
                done = job.card is not None  # its tokenizer may still prove to be broken
                if done:
                    self._apply_load(job, resident)
            elif isinstance(job, GenerateJob) and not (held_all and not resident.pinned):
                done = self._start(job, resident)
            if done:
                self._waiting.remove(job)
                continue
            older.append(model_id)
            places += 1
            if model_id in held or not self._is_loading(model_id):
                _tell_place(job, places)
        return len(self._waiting) < before

    def _start_load(self, job: Job, card: Card, older: list[str]) -> tuple[bool, bool]:
        """Whether the job ended (it failed), and whether it has to wait for room."""
        try:
            if not self._cache.make_room(card, older):
                return False, True
        except EngineError as error:
            job.sink.fail(error)
            return True, False
        self._loading = Loading(card, trust_remote_code=self._settings.trust_remote_code)
        return False, False

    def _unload(self, job: UnloadJob, resident: Resident | None, *, awaited: bool) -> bool:
        if awaited or self._is_loading(job.model_id):
            return False
        if resident is None:
            job.sink.unloaded(0)
        elif resident.users:
            return False
        else:
            job.sink.unloaded(self._cache.evict(resident, "unload"))
        return True

    def _apply_load(self, job: LoadJob, resident: Resident) -> None:
        if job.pin is not None:
            resident.pinned = job.pin
        if job.keep_alive is not None:
            resident.keep_alive = job.keep_alive
        self._cache.touch(resident)
        job.sink.loaded(job.load_seconds)

    def _start(self, job: GenerateJob, resident: Resident) -> bool:
        prompt = job.prompt
        if prompt is None or len(self._running) >= self._settings.max_concurrent:
            return False
        try:
            # Only the weights know for certain which ids have a row; any other would be read
            # from foreign memory.
            vocabulary = resident.weights.vocabulary_size
            if max(prompt.tokens) >= vocabulary:
                raise invalid_params("$.prompt", f"a token id beyond the vocabulary ({vocabulary})")
            if any(token >= vocabulary for token in job.sampling.logit_bias):
                raise invalid_params("$.logitBias", f"an id beyond the vocabulary ({vocabulary})")
            if job.sampling.top_k >= vocabulary:
                raise invalid_params("$.topK", f"must be below the vocabulary ({vocabulary})")
            sequence = Sequence(job, prompt, resident)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this request's
            self._fail(job, error)
            return True
        resident.users += 1
        self._cache.touch(resident)
        self._running.append(sequence)
        return True

    def _step(self) -> bool:
        if not self._running:
            return False
        self._decode()
        reading = next((s for s in self._running if s.reading), None)
        if reading is not None:
            try:
                reading.read_chunk(self._settings.prefill_step)
            except Exception as error:  # noqa: BLE001 - a model's code may raise anything
                self._fail(reading.job, error)
                self._release(reading)
            else:
                # The next prompt in line gets the next chunk.
                self._running.remove(reading)
                self._running.append(reading)
        return True

    def _decode(self) -> None:
        import mlx.core as mx

        decoding = [s for s in self._running if not s.reading]
        started: list[mx.array] = []
        for sequence in list(decoding):
            try:
                started += sequence.launch()
            except Exception as error:  # noqa: BLE001
                decoding.remove(sequence)
                self._fail(sequence.job, error)
                self._release(sequence)
        if started:
            mx.async_eval(started)  # type: ignore[no-untyped-call]
        for sequence in decoding:
            try:
                ended = sequence.advance()
            except Exception as error:  # noqa: BLE001
                self._fail(sequence.job, error)
                ended = True
            if ended:
                self._release(sequence)

    def _fail(self, job: Job, error: Exception) -> None:
        if not isinstance(error, EngineError):
            self._log.error("request.failed", model=job.model_id, error=repr(error))
            error = EngineError("internalError", f"{type(error).__name__}: {error}")
        job.sink.fail(error)

    def _release(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        sequence.resident.users -= 1
        self._cache.touch(sequence.resident)
        if not self._running:
            import mlx.core as mx

            mx.clear_cache()


def _tell_place(job: Job, place: int) -> None:
    if job.first_place == 0:
        job.first_place = job.place = place
        job.sink.progress("queued", 0, place, "requests")
    elif place <= job.place - max(1, job.place // 4):
        job.place = place
        job.sink.progress("queued", job.first_place - place, job.first_place, "requests")
