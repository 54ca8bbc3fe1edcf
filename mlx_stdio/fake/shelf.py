"""The fake engine's models: which there are, which are resident, who uses them, who has to go.

Rules it keeps, as the engine does:
- at most `--max-models` are resident; for one more, that which was used least recently goes first,
  and neither one in use nor a pinned one;
- who needs room waits for it, and later requests for models that are not pinned wait behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from mlx_stdio.errors import EngineError
from mlx_stdio.fake.folders import Folders
from mlx_stdio.fake.resident import Model
from mlx_stdio.fake.stage import Work, pause
from mlx_stdio.fake.text import text_model
from mlx_stdio.models.card import Card, read_card
from mlx_stdio.protocol.models import ModelState
from mlx_stdio.session.request import Request
from mlx_stdio.session.unheard import Unheard

_PIECES = 4
"""In how many pieces a model is loaded, as progress tells."""
_LOOK_SECONDS = 0.002


class Shelf:
    """All models. Everything that waits runs on the stage."""

    def __init__(
        self,
        names: list[str],
        context_length: int,
        load_seconds: float,
        most: int,
        limit: int | None,
        folders: Folders,
        on_change: Callable[[str, str, str], None],
    ) -> None:
        """Args:
        names: of the models that are no folders; they come before folders of these names.
        most: models that may be resident.
        limit: bytes that they may take; None for any.
        on_change: a model's id, new state and reason.
        """
        self._models: dict[str, Model] = {}
        for name in names:
            self._models[name] = _character_model(name, context_length)
        self._load_seconds = load_seconds
        self._most = most
        self._limit = limit
        self._folders = folders
        self._on_change = on_change
        self._line: list[Request | Unheard] = []
        self._short = False  # the first in the line waits until a model may go
        self.loads = self.unloads = 0

    def find(self, name: str) -> Model:
        """A model by its name.

        Raises:
            EngineError: `modelNotFound`, or `modelLoadFailed` for a broken folder.
        """
        found = self._models.get(name)
        if found is not None and not found.is_folder:
            return found
        model_id, folder = self._folders.resolve(name)
        found = self._models.get(model_id)
        if found is not None and found.state != "available":
            return found
        # Read again: somebody may have repaired the folder, or broken it.
        card = read_card(model_id, folder)
        if found is None or found.card != card:
            self._models[model_id] = self._of_folder(card)
        return self._models[model_id]

    def _of_folder(self, card: Card) -> Model:
        folders = self._folders
        return Model(card, lambda: folders.text(card), lambda: folders.text_if_loaded(card))

    def rows(self) -> list[ModelState]:
        """Resident models first, those that were used last before the others."""
        listed = {row.id for row in self.resident()}
        rest = [model.row() for model in self._models.values() if not model.is_folder]
        rest += [model.row() for model in self._models.values() if model.state == "loading"]
        rest += [self._of_folder(card).row() for card in self._folders.known()]
        unique = {row.id: row for row in reversed(rest) if row.id not in listed}
        return [*self.resident(), *reversed(unique.values())]

    def resident(self) -> list[ModelState]:
        """Only those."""
        ready = [model for model in self._models.values() if model.state == "ready"]
        return [model.row() for model in sorted(ready, key=lambda model: -model.used)]

    def load(self, model: Model, request: Request | Unheard) -> Work:
        """Wait until a model is there; who comes first loads it for all, unless it is cancelled.

        Raises:
            EngineError: `modelLoadFailed`, or `outOfMemory` where it can never be there.
        """
        is_free = model.pinned or not self._short
        if model.state == "ready" and is_free and not model.leaving:
            return
        self._line.append(request)
        try:
            while not request.closed and not self._may_begin(model, request):
                yield _LOOK_SECONDS
            if not request.closed and model.state != "ready":
                yield from self._read(model, request)
        finally:
            if self._line[0] is request:
                self._short = False
            self._line.remove(request)

    def _may_begin(self, model: Model, request: Request | Unheard) -> bool:
        """Whether it is a request's turn, and there is room, which is made if need be."""
        if self._line[0] is not request or model.leaving:
            return False
        if model.state == "ready":
            return True
        self._refuse_too_large(model)
        there = [other for other in self._models.values() if other.state == "ready"]
        if len(there) < self._most:
            return True
        idle = [other for other in there if not (other.users or other.pinned)]
        self._short = not idle
        if idle:
            self._give_back(min(idle, key=lambda other: other.used), "lru")
        return bool(idle)

    def _refuse_too_large(self, model: Model) -> None:
        """Refuse what can never be there beside the pinned models."""
        pinned = [other for other in self._models.values() if other.pinned]
        pinned_bytes = sum(other.card.disk_bytes for other in pinned)
        needed = model.card.disk_bytes
        if self._limit is not None and needed + pinned_bytes > self._limit:
            why = f"{needed} bytes do not fit, {pinned_bytes} of others are pinned"
        elif len(pinned) >= self._most:
            why = "every place is taken by a pinned model"
        else:
            return
        raise EngineError(
            "outOfMemory",
            why,
            model=model.id,
            neededBytes=needed,
            limitBytes=self._limit or 0,
            pinnedBytes=pinned_bytes,
        )

    def _read(self, model: Model, request: Request | Unheard) -> Work:
        model.state = "loading"
        try:
            self._folders.check(model.card)
            model.text()
            total = model.card.disk_bytes
            for piece in range(_PIECES + 1):
                request.progress("loading", total * piece // _PIECES, total, "bytes")
                yield from pause(self._load_seconds / _PIECES, lambda: request.closed)
                if request.closed:
                    return
            model.state = "ready"
        finally:
            if model.state == "loading":
                model.state = "available"
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

    def unload(self, name: str, request: Request) -> Work:
        """Give a model back once nobody uses it; the request is answered.

        Raises:
            EngineError: `modelNotFound`.
        """
        model = self._models.get(name) or self._models.get(self._folders.resolve(name)[0])
        if model is not None:
            model.leaving += 1  # later requests for it wait behind
        try:
            while model and (model.users or model.state == "loading") and not request.closed:
                yield _LOOK_SECONDS
        finally:
            if model is not None:
                model.leaving -= 1
        if request.closed:
            return
        ready = model is not None and model.state == "ready"
        request.succeed({"freedBytes": self._give_back(model, "unload") if model and ready else 0})

    def _give_back(self, model: Model, reason: str) -> int:
        """How many bytes that were."""
        model.state, model.pinned, model.keep_alive = "available", False, None
        model.known.clear()
        if model.is_folder:
            self._folders.forget(model.card)
        self.unloads += 1
        self._on_change(model.id, "available", reason)
        return model.card.disk_bytes


def _character_model(name: str, context_length: int) -> Model:
    text = text_model(name, context_length)
    return Model(text.card, lambda: text)
