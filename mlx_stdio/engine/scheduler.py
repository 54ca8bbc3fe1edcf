"""Which work is done next. Owned by the engine's thread; one `tick` is one engine step.

Rules it keeps:
- jobs are looked at by priority, then in the order of arrival;
- a job that waits for room in memory holds back those behind it that could take the room, so it
  cannot starve; an unload holds back later jobs on its model;
- where all places are taken and an interactive job waits, a background row is set aside, and goes
  on from where it was as soon as a place is free; no background job begins before it;
- models take turns by the rule of `turns.py`; in a step every row of a model gets a token
  (`runner.py`);
- a job that fails ends alone; a job whose sink is closed (cancelled, timed out) is dropped before
  the next thing is done for it;
- the queue is looked through when something has changed that may let a job start, not each step:
  a thousand waiting jobs do not slow down those that run.
"""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Callable

from mlx_stdio.engine.admission import check, kv_estimate
from mlx_stdio.engine.job import GenerateJob, Job, LoadJob, Prompt, UnloadJob
from mlx_stdio.engine.loading import Loading
from mlx_stdio.engine.queue import Look, card_of, is_plain, models_of, readiness, tell_place
from mlx_stdio.engine.rest import Rest
from mlx_stdio.engine.row import Row
from mlx_stdio.engine.runner import Runner
from mlx_stdio.engine.speculable import check_model
from mlx_stdio.engine.turns import Turns
from mlx_stdio.errors import EngineError
from mlx_stdio.kv.prefixes import Prefixes
from mlx_stdio.log import Log
from mlx_stdio.models.card import Card
from mlx_stdio.models.ledger import Ledger
from mlx_stdio.models.residency import ModelCache, Resident, weight_estimate
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
        flush: Callable[[], None],
    ) -> None:
        """Args:
        flush: sends what was queued for the hosts; the engine does so after each tick too.
        """
        self._flush = flush
        self._settings = settings
        self._cache = cache
        self._ledger = ledger
        self._prefixes = prefixes
        self._log = log
        self._waiting: list[Job] = []
        self._loading: Loading | None = None
        self._runners: dict[str, Runner] = {}
        self._turns = Turns()
        self._rest = Rest()
        self._changed = False  # something that may let a waiting job start
        self._unready: list[tuple[Job, int]] = []

    def add(self, job: Job) -> None:
        """A new job, behind those of its priority that arrived before it."""
        insort(self._waiting, job, key=lambda waiting: (waiting.rank, waiting.arrived))
        self._changed = True

    @property
    def running(self) -> int:
        """Rows that are read or decoded now; any thread may ask."""
        return sum(runner.count for runner in list(self._runners.values()))

    @property
    def decoding(self) -> bool:
        """Whether any row decodes."""
        return any(runner.streams for runner in self._runners.values())

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
        """Unload what is idle, give the pool back; when to look again (`time.monotonic`)."""
        now = time.monotonic()
        pool = None if self.running else self._rest.deadline(now)
        deadlines = [pool, *(resident.idle_deadline for resident in self._cache.snapshot())]
        soonest = min((at for at in deadlines if at is not None), default=None)
        if soonest is None or soonest > now:
            return soonest
        self._changed = True
        awaited = {model_id for job in self._waiting for model_id in models_of(job)}
        unload = self._cache.evict_idle(now, awaited)
        return min((at for at in (pool, unload) if at is not None), default=None)

    def close(self) -> None:
        """The engine leaves: write what is not on the disk yet."""
        while self._prefixes.save_one():
            pass

    def _drop_closed(self) -> None:
        if any(job.sink.closed for job in self._waiting):
            self._waiting = [job for job in self._waiting if not job.sink.closed]
            self._changed = True
        for runner in list(self._runners.values()):
            runner.drop_closed()
        if self._loading and not self._awaiting(self._loading.card.id):
            self._log.info("model.load_abandoned", model=self._loading.card.id)
            self._loading.abandon()
            self._end_load()

    def _end_load(self) -> None:
        """The load in progress is over, well or not; its claim is the model's now, or nobody's."""
        self._ledger.release(self._loading)
        self._loading = None
        self._changed = True

    def _is_loading(self, model_id: str) -> bool:
        return self._loading is not None and self._loading.card.id == model_id

    def _awaiting(self, model_id: str) -> list[Job]:
        """Who waits for a load of this model: not those behind an unload of it."""
        jobs: list[Job] = []
        for job in self._waiting:
            if model_id in models_of(job):
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
            self._end_load()
            for job in waiting:
                self._waiting.remove(job)
                job.sink.fail(error)
            return True
        if weights is not None:
            # In this order: whoever lists the models meanwhile finds it loading or ready.
            self._cache.add(card, weights, self._settings.keep_alive)
            self._rest.begins(loaded=True)
            self._end_load()
            self._ledger.reclaim(self._cache.weight_bytes)  # the files may have promised less
            self._log.info("model.loaded", model=card.id, bytes=weights.bytes)
        return True

    def _admit(self) -> bool:
        """Start what can start; whether that changed anything for those who still wait."""
        if not self._changed and all(readiness(job) == was for job, was in self._unready):
            return False
        self._changed = False
        self._unready = []
        before = len(self._waiting)
        queue = Look(parked=any(runner.parked for runner in self._runners.values()))
        for job in list(self._waiting):
            if job.model_id in queue.stuck and is_plain(job):
                queue.places += 1
                tell_place(job, queue.places)
                continue
            ready = readiness(job)  # first: another thread may go on filling it in
            wanted = models_of(job)
            if self._begin(job, wanted, queue):
                self._waiting.remove(job)
                continue
            if ready < 3:
                self._unready.append((job, ready))
            queue.older.update(wanted)
            queue.places += 1
            loading = self._loading.card.id if self._loading is not None else None
            if loading not in wanted or job.model_id in queue.unloading:
                tell_place(job, queue.places)
        if len(self._waiting) < before:
            self._changed = True  # for one that was looked at before the one that made room
            return True
        return False

    def _begin(self, job: Job, wanted: tuple[str, ...], queue: Look) -> bool:
        """Try to start one job; whether it is off the queue."""
        if queue.unloading and not queue.unloading.isdisjoint(wanted):
            return False
        resident = self._cache.get(job.model_id)
        if isinstance(job, UnloadJob):
            done = self._unload(job, resident, awaited=job.model_id in queue.older)
            if not done:
                queue.unloading.add(job.model_id)
            return done
        missing = next((m for m in wanted if self._cache.get(m) is None), None)
        if missing is not None or resident is None:
            assert missing is not None
            if self._loading is not None or queue.held:
                return False
            return self._start_load(job, missing, resident, queue)
        if isinstance(job, LoadJob):
            if job.card is None:  # its tokenizer may still prove to be broken
                return False
            self._apply_load(job, resident)
            return True
        if not isinstance(job, GenerateJob) or job.prompt is None:
            return False
        if (
            queue.awaits_kv
            or (queue.promised and not resident.pinned)
            or (queue.parked and job.rank == 2)
            or not self._has_place(job)
        ):
            queue.stuck.add(job.model_id)
            return False
        return self._start(job, job.prompt, resident, queue)

    def _start_load(self, job: Job, missing: str, resident: Resident | None, queue: Look) -> bool:
        """Begin to load a model; whether the job ended instead (it failed)."""
        card = card_of(job, missing)
        if card is None:
            return False
        beside = job.model_id if missing != job.model_id else None
        try:
            if beside is not None and resident is not None:
                # The draft model is not loaded for a model that cannot use it.
                assert isinstance(job, GenerateJob)
                if job.prompt is not None:
                    check_model(Row(job, job.prompt, resident))
            if not self._cache.make_room(card, queue.older, beside):
                queue.promised = max(1, weight_estimate(card))
                return False
        except EngineError as error:
            job.sink.fail(error)
            return True
        self._loading = Loading(card, trust_remote_code=self._settings.trust_remote_code)
        self._ledger.claim(self._loading, weight_estimate(card))
        return False

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

    def _start(self, job: GenerateJob, prompt: Prompt, resident: Resident, queue: Look) -> bool:
        """Whether the job is off the queue: it runs, or has failed."""
        draft = None
        if job.draft is not None and job.draft.model_id is not None:
            draft = self._cache.get(job.draft.model_id)
        residents = [resident] if draft is None else [resident, draft]
        row = None
        try:
            row = Row(job, prompt, resident, draft)
            check(row)
            if not self._ledger.reserve(
                row, kv_estimate(row), self._cache, residents, queue.older, queue.promised
            ):
                queue.awaits_kv = True
                return False
            self._make_place()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this request's
            self._ledger.release(row)
            self._fail(job, error)
            return True
        for used in residents:
            used.users += 1
            self._cache.touch(used)
        self._runner(resident).add(row)
        return True

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
                self._changed = True

    def _runner(self, resident: Resident) -> Runner:
        runner = self._runners.get(resident.card.id)
        if runner is None or runner.resident is not resident:
            runner = Runner(
                resident,
                self._prefixes,
                self._settings.prefill_step,
                self._log,
                self._ended,
                lambda: self._ledger.spare(self._cache.weight_bytes),
                self._flush,
            )
            self._runners[resident.card.id] = runner
        return runner

    def _step(self) -> bool:
        busy = [runner for runner in self._runners.values() if runner.busy]
        if not busy:
            return False
        runner = self._turns.next(busy)
        began = time.monotonic()
        streams = sum(other.streams for other in busy)
        self._prefixes.hurried = streams > 0
        runner.step(streams)
        self._turns.charge(runner, time.monotonic() - began)
        self._ledger.relieve()
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
        self._changed = True
        for used in (row.resident, row.draft):
            if used is not None:
                used.users -= 1
                self._cache.touch(used)
        if not self.running:
            self._rest.begins()
