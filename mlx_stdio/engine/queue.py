"""The queue as the scheduler looks through it: what a job waits for, and what it is told.

A job that waits for room holds back those behind it that could take the room.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct, field

from mlx_stdio.engine.job import GenerateJob, Job, Sink, UnloadJob
from mlx_stdio.models.card import Card


class Look(Struct):
    """What is known of the jobs that were looked at so far, when it is another one's turn.

    Attributes:
        parked: a background row is set aside.
        older: ids of models that they wait for.
        stuck: those of them that are resident, and that no later generation can start on now.
        unloading: ids of models that they wait to unload.
        places: how many they are.
        promised: bytes of weights that one of them waits for room for; 0 if none does.
        awaits_kv: one of them waits for room for its KV.
    """

    parked: bool
    older: set[str] = field(default_factory=set)
    stuck: set[str] = field(default_factory=set)
    unloading: set[str] = field(default_factory=set)
    places: int = 0
    promised: int = 0
    awaits_kv: bool = False

    @property
    def held(self) -> bool:
        """Whether a load could take the room that another one waits for."""
        return self.promised > 0 or self.awaits_kv


def models_of(job: Job) -> tuple[str, ...]:
    """The models that a job needs."""
    if isinstance(job, GenerateJob) and job.draft is not None and job.draft.model_id is not None:
        return job.model_id, job.draft.model_id
    return (job.model_id,)


def is_plain(job: Job) -> bool:
    """Whether it is a generation that is ready and needs no other model."""
    return isinstance(job, GenerateJob) and job.draft is None and job.prompt is not None


def card_of(job: Job, model_id: str) -> Card | None:
    """The card of one of the models that a job needs, where it is known already."""
    if model_id == job.model_id:
        return job.card
    assert isinstance(job, GenerateJob)
    assert job.draft is not None
    return job.draft.card


def readiness(job: Job) -> int:
    """How much of a job is filled in: 3 is all, as another thread finds it out bit by bit."""
    if not isinstance(job, GenerateJob):
        return 3 if job.card is not None or isinstance(job, UnloadJob) else 0
    drafts = job.draft is not None and job.draft.model_id is not None
    draft_known = not drafts or (job.draft is not None and job.draft.card is not None)
    return (job.card is not None) + draft_known + (job.prompt is not None)


class Waiting(Protocol):
    """Whoever is told its place; 0 before it was."""

    first_place: int
    place: int

    @property
    def sink(self) -> Sink:
        """Where it is told."""


def tell_place(job: Waiting, place: int) -> None:
    """Report the place in the queue: the first one, and then each gain of a quarter."""
    if job.first_place == 0:
        job.first_place = job.place = place
        job.sink.progress("queued", 0, place, "requests")
    elif place <= job.place - max(1, job.place // 4):
        job.place = place
        job.sink.progress("queued", job.first_place - place, job.first_place, "requests")
