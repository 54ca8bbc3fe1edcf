"""Which work is done next. Owned by the engine's thread; one `tick` is one engine step.

Rules it keeps:
- jobs are looked at by priority, then in the order of arrival;
- a job that waits for room in memory holds back those behind it that could take the room, so it
  cannot starve; an unload holds back later jobs on its model;
- where all places are taken and an interactive job waits, a background row is set aside, and goes
  on from where it was as soon as a place is free;
- models take turns by the rule of `turns.py`; in a step every row of a model gets a token
  (`runner.py`);
- a job that fails ends alone; a job whose sink is closed (cancelled, timed out) is dropped before
  the next thing is done for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from mlx_stdio.engine import speculative
from mlx_stdio.engine.job import GenerateJob, Job, LoadJob, UnloadJob
from mlx_stdio.engine.loading import Loading
from mlx_stdio.engine.row import Row
from mlx_stdio.engine.runner import Runner
from mlx_stdio.engine.turns import Turns
from mlx_stdio.errors import EngineError, invalid_params
from mlx_stdio.kv import layers
from mlx_stdio.kv.prefixes import Prefixes
from mlx_stdio.log import Log
from mlx_stdio.models.card import Card
from mlx_stdio.models.ledger import Ledger
from mlx_stdio.models.residency import ModelCache, Resident
from mlx_stdio.settings import Settings


class Scheduler:
    """The queue, the load in progress and the models at work."""

    def __init__(
        self,
        settings: Settings,
        cache: ModelCache,
        ledger: Ledger,
        prefixes: Prefixes,
        log: Log,
    ) -> None:
        self._settings = settings
        self._cache = cache
        self._ledger = ledger
        self._prefixes = prefixes
        self._log = log
        self._waiting: list[Job] = []
        self._loading: Loading | None = None
        self._runners: dict[str, Runner] = {}
        self._turns = Turns()

    def add(self, job: Job) -> None:
        """A new job, behind those of its priority that arrived before it."""
        self._waiting.append(job)
        self._waiting.sort(key=lambda waiting: (waiting.rank, waiting.arrived))

    @property
    def running(self) -> int:
        """Rows that are read or decoded now; any thread may ask."""
        return sum(runner.count for runner in list(self._runners.values()))

    @property
    def kv_bytes(self) -> int:
        """Bytes of their caches; any thread may ask."""
        return sum(runner.kv_bytes for runner in list(self._runners.values()))

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
        self._resume()
        stepped = self._step()
        busy = loaded or admitted or stepped or self._loading is not None
        # Files are written while nobody waits for a token.
        return busy or self._prefixes.save_one()

    def idle_deadline(self) -> float | None:
        """Unload what is idle; when to look again (`time.monotonic`)."""
        awaited = [model_id for job in self._waiting for model_id, _ in _models_of(job)]
        return self._cache.evict_idle(time.monotonic(), awaited)

    def close(self) -> None:
        """The engine leaves: write what is not on the disk yet."""
        while self._prefixes.save_one():
            pass

    def _drop_closed(self) -> None:
        self._waiting = [job for job in self._waiting if not job.sink.closed]
        for runner in list(self._runners.values()):
            runner.drop_closed()
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
            if any(wanted == model_id for wanted, _ in _models_of(job)):
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
        held_all = held_kv = False  # somebody waits for room for weights, for KV
        held: set[str] = set()
        older: list[str] = []
        places = 0
        for job in list(self._waiting):
            models = list(_models_of(job))
            model_id = job.model_id
            resident = self._cache.get(model_id)
            missing = next((m for m in models if self._cache.get(m[0]) is None), None)
            done = False
            if any(wanted in held for wanted, _ in models):
                pass
            elif isinstance(job, UnloadJob):
                done = self._unload(job, resident, awaited=model_id in older)
                if not done:
                    held.add(model_id)
            elif missing is not None or resident is None:
                assert missing is not None
                if missing[1] is not None and self._loading is None and not held_all:
                    beside = model_id if missing[0] != model_id else None
                    done, held_all = self._start_load(job, missing[1], older, beside)
            elif isinstance(job, LoadJob):
                done = job.card is not None  # its tokenizer may still prove to be broken
                if done:
                    self._apply_load(job, resident)
            elif isinstance(job, GenerateJob) and not (
                held_kv or (held_all and not resident.pinned)
            ):
                done, held_kv = self._start(job, resident, older)
            if done:
                self._waiting.remove(job)
                continue
            older += [wanted for wanted, _ in models]
            places += 1
            if model_id in held or not any(self._is_loading(wanted) for wanted, _ in models):
                _tell_place(job, places)
        return len(self._waiting) < before

    def _start_load(
        self, job: Job, card: Card, older: list[str], beside: str | None
    ) -> tuple[bool, bool]:
        """Whether the job ended (it failed), and whether it has to wait for room."""
        try:
            if not self._cache.make_room(card, older, beside):
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

    def _start(self, job: GenerateJob, resident: Resident, older: list[str]) -> tuple[bool, bool]:
        """Whether the job is off the queue (it runs or has failed), and whether it awaits room."""
        prompt = job.prompt
        if prompt is None or not self._has_place(job):
            return False, False
        draft = None
        if job.draft is not None and job.draft.model_id is not None:
            draft = self._cache.get(job.draft.model_id)
        residents = [resident] if draft is None else [resident, draft]
        try:
            _check_ids(job, prompt.tokens, resident.weights.vocabulary_size)
            row = Row(job, prompt, resident, draft)
            if job.kv_bits is not None or job.max_kv_size is not None:
                layers.make(resident.weights.model, job.kv_bits, job.max_kv_size)
            if job.draft is not None:
                speculative.check(row)
            if not self._ledger.reserve(row, _kv_estimate(row), self._cache, residents, older):
                return False, True
            self._make_place()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this request's
            self._fail(job, error)
            return True, False
        for used in residents:
            used.users += 1
            self._cache.touch(used)
        self._runner(resident).add(row)
        return True, False

    def _has_place(self, job: GenerateJob) -> bool:
        if self.running < self._settings.max_concurrent:
            return True
        return job.rank == 0 and any(runner.has_background for runner in self._runners.values())

    def _make_place(self) -> None:
        """An interactive job takes the place of a background row where none is free."""
        if self.running >= self._settings.max_concurrent:
            any(runner.park() for runner in self._runners.values())

    def _resume(self) -> None:
        """Free places that nobody took go to the rows that were set aside."""
        for runner in self._runners.values():
            while self.running < self._settings.max_concurrent and runner.unpark():
                pass

    def _runner(self, resident: Resident) -> Runner:
        runner = self._runners.get(resident.card.id)
        if runner is None or runner.resident is not resident:
            runner = Runner(
                resident, self._prefixes, self._settings.prefill_step, self._log, self._ended
            )
            self._runners[resident.card.id] = runner
        return runner

    def _step(self) -> bool:
        busy = [runner for runner in self._runners.values() if runner.busy]
        if not busy:
            return False
        runner = self._turns.next(busy)
        began = time.monotonic()
        runner.step(beside_streams=any(other.streaming for other in busy))
        self._turns.charge(runner, time.monotonic() - began)
        return True

    def _fail(self, job: Job, error: Exception) -> None:
        if not isinstance(error, EngineError):
            self._log.error("request.failed", model=job.model_id, error=repr(error))
            error = EngineError("internalError", f"{type(error).__name__}: {error}")
        try:
            # A traceback would keep the arrays of its frames for as long as the error lives.
            job.sink.fail(error.with_traceback(None))
        except Exception as broken:  # noqa: BLE001 - one sink must not take the others down
            self._log.error("sink.failed", model=job.model_id, error=repr(broken))

    def _ended(self, row: Row, error: Exception | None) -> None:
        """A row is over."""
        if error is not None:
            self._fail(row.job, error)
        self._ledger.release(row)
        for used in (row.resident, row.draft):
            if used is not None:
                used.users -= 1
                self._cache.touch(used)
        if not self.running:
            import mlx.core as mx

            mx.clear_cache()


def _models_of(job: Job) -> Iterator[tuple[str, Card | None]]:
    """The models that a job needs, and their cards where they are known already."""
    yield job.model_id, job.card
    if isinstance(job, GenerateJob) and job.draft is not None and job.draft.model_id is not None:
        yield job.draft.model_id, job.draft.card


def _check_ids(job: GenerateJob, tokens: list[int], vocabulary: int) -> None:
    """Only the weights know for certain which ids have a row: others would be foreign memory."""
    if max(tokens) >= vocabulary:
        raise invalid_params("$.prompt", f"a token id beyond the vocabulary ({vocabulary})")
    if any(token >= vocabulary for token in job.sampling.logit_bias):
        raise invalid_params("$.logitBias", f"an id beyond the vocabulary ({vocabulary})")
    if job.sampling.top_k >= vocabulary:
        raise invalid_params("$.topK", f"must be below the vocabulary ({vocabulary})")


def _kv_estimate(row: Row) -> int:
    """Bytes that a row's caches will take at their longest."""
    job = row.job
    tokens = len(row.prompt.tokens) + row.budget
    needed = row.resident.weights.geometry.estimate(tokens, job.kv_bits, job.max_kv_size)
    if row.draft is not None:
        needed += row.draft.weights.geometry.estimate(tokens)
    return needed


def _tell_place(job: Job, place: int) -> None:
    if job.first_place == 0:
        job.first_place = job.place = place
        job.sink.progress("queued", 0, place, "requests")
    elif place <= job.place - max(1, job.place // 4):
        job.place = place
        job.sink.progress("queued", job.first_place - place, job.first_place, "requests")
