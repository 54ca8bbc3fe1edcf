"""One model of the fake engine: its state, its text side, and the prompts that it has read."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from mlx_stdio.kv.prefix import USEFUL
from mlx_stdio.kv.tokens import common, pack
from mlx_stdio.models.card import Card
from mlx_stdio.protocol.models import ModelState, State
from mlx_stdio.text.model import TextModel

_PROMPTS: Final = 32
"""Of so many texts a model knows that it has read them."""


class Model:
    """See the module.

    Attributes:
        users: requests that use it now.
        used: when it was used last.
        leaving: how many `models/unload` wait for it.
        watched: a work waits for the end of its `keepAliveSeconds`.
        known: what would be in the prefix cache, the latest last.
    """

    def __init__(
        self,
        card: Card,
        text: Callable[[], TextModel],
        text_if_loaded: Callable[[], TextModel | None] | None = None,
    ) -> None:
        """Args:
        text: loads the text side, if need be; raises `EngineError`.
        text_if_loaded: only for a model that is a folder.
        """
        self.card = card
        self.text = text
        self.is_folder = text_if_loaded is not None
        self._text_if_loaded = text_if_loaded or text
        self.state: State = "available"
        self.users = 0
        self.used = time.monotonic()
        self.pinned = False
        self.keep_alive: float | None = None
        self.watched = False
        self.leaving = 0
        self.known: deque[list[int]] = deque(maxlen=_PROMPTS)

    @property
    def id(self) -> str:
        """Its canonical name."""
        return self.card.id

    def row(self) -> ModelState:
        """As `models/list` tells it."""
        card = self.card
        ready = self.state == "ready"
        text = self._text_if_loaded()
        return ModelState(
            id=card.id,
            state=self.state,
            path=str(card.path) if card.path.is_absolute() else None,
            model_type=card.model_type,
            context_length=card.context_length,
            vocabulary_size=card.vocabulary_size,
            bytes=card.disk_bytes,
            pinned=self.pinned if ready else None,
            running=self.users if ready else None,
            last_used_seconds_ago=round(time.monotonic() - self.used, 3) if ready else None,
            keep_alive_seconds=self.keep_alive,
            tokenizer=text.tokenizer.kind if text is not None else None,
        )

    def cached(self, tokens: Sequence[int]) -> int:
        """How many tokens of a prompt would be found in the prefix cache; one is always read."""
        most = len(tokens) - 1
        asked = pack(tokens)
        found = max((common(asked, pack(known)) for known in self.known), default=0)
        return min(found, most) if found >= USEFUL else 0
