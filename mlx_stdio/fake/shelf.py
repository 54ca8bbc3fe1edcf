"""The fake models: which there are, which are resident, who uses them."""

from __future__ import annotations

import time
from collections.abc import Callable

from mlx_stdio.errors import EngineError
from mlx_stdio.fake.stage import Work, pause
from mlx_stdio.fake.text import text_model
from mlx_stdio.protocol.models import ModelState, State
from mlx_stdio.session.request import Request
from mlx_stdio.text.model import TextModel

_PIECES = 4
"""In how many pieces a model is loaded, as progress tells."""


class Model:
    """One fake model."""

    def __init__(self, text: TextModel) -> None:
        self.text = text
        self.state: State = "available"
        self.users = 0
        self.used = time.monotonic()
        self.pinned = False
        self.keep_alive: float | None = None
        self.watched = False

    @property
    def id(self) -> str:
        """Its canonical name."""
        return self.text.card.id

    def row(self) -> ModelState:
        """As `models/list` tells it."""
        card = self.text.card
        ready = self.state == "ready"
        return ModelState(
            id=self.id,
            state=self.state,
            model_type=card.model_type,
            context_length=card.context_length,
            vocabulary_size=card.vocabulary_size,
            bytes=card.disk_bytes,
            pinned=self.pinned if ready else None,
            running=self.users if ready else None,
            last_used_seconds_ago=round(time.monotonic() - self.used, 3) if ready else None,
            keep_alive_seconds=self.keep_alive,
            tokenizer=self.text.tokenizer.kind,
        )


class Shelf:
    """All models. Everything that waits runs on the stage."""

    def __init__(
        self,
        names: list[str],
        context_length: int,
        load_seconds: float,
        on_change: Callable[[str, str, str], None],
    ) -> None:
        """Args:
        on_change: a model's id, new state and reason.
        """
        self._models = {name: Model(text_model(name, context_length)) for name in names}
        self._load_seconds = load_seconds
        self._on_change = on_change
        self.loads = self.unloads = 0

    def find(self, name: str) -> Model:
        """A model by its name.

        Raises:
            EngineError: `modelNotFound`.
        """
        found = self._models.get(name)
        if found is None:
            raise EngineError("modelNotFound", f"no fake model is named {name!r}", model=name)
        return found

    def rows(self) -> list[ModelState]:
        """Resident models first."""
        rows = [model.row() for model in self._models.values()]
        return sorted(rows, key=lambda row: row.state != "ready")

    def resident(self) -> list[ModelState]:
        """Only those."""
        return [row for row in self.rows() if row.state == "ready"]

    def load(self, model: Model, request: Request) -> Work:
        """Wait until a model is there; who comes first loads it for all, unless it is cancelled."""

        def is_over() -> bool:
            return request.closed

        while model.state == "loading" and not is_over():
            yield 0.002
        if model.state == "ready" or is_over():
            return
        model.state = "loading"
        total = model.text.card.disk_bytes
        for piece in range(_PIECES + 1):
            request.progress("loading", total * piece // _PIECES, total, "bytes")
            yield from pause(self._load_seconds / _PIECES, is_over)
            if is_over():
                model.state = "available"
                return
        model.state = "ready"
        model.used = time.monotonic()
        self.loads += 1
        self._on_change(model.id, "ready", "request")

    def idle(self, model: Model) -> Work:
        """Give a model back when its `keepAliveSeconds` have passed without a request."""
        while model.state == "ready" and model.keep_alive is not None:
            left = model.keep_alive - (time.monotonic() - model.used)
            if left <= 0 and not (model.users or model.pinned):
                self._give_back(model, "idle")
                break
            yield max(left, 0.01)
        model.watched = False

    def unload(self, model: Model, request: Request) -> Work:
        """Give a model back once nobody uses it; the request is answered."""
        while (model.users or model.state == "loading") and not request.closed:
            yield 0.002
        if request.closed:
            return
        freed = self._give_back(model, "unload") if model.state == "ready" else 0
        request.succeed({"freedBytes": freed})

    def _give_back(self, model: Model, reason: str) -> int:
        """How many bytes that were."""
        model.state, model.pinned, model.keep_alive = "available", False, None
        self.unloads += 1
        self._on_change(model.id, "available", reason)
        return model.text.card.disk_bytes
