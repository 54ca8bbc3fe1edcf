"""The fake engine's models that are folders: found, checked and tokenized as the engine does.

What a folder says of itself (its config, the headers of its weights, its tokenizer) is read by the
engine's own code, so that a broken one is refused with the same words. No weights are read.
"""

from __future__ import annotations

from pathlib import Path

from mlx_stdio.errors import EngineError
from mlx_stdio.log import Log
from mlx_stdio.models.card import Card, read_card
from mlx_stdio.models.catalog import Catalog
from mlx_stdio.settings import Settings
from mlx_stdio.text.model import TextModel, TextStore


class _Here(Catalog):
    """`pico`, `--models-dir` and paths.

    Not the hub's cache: what a host's tests see must not depend on what somebody has downloaded.
    """

    @staticmethod
    def _snapshot(name: str) -> Path | None:  # noqa: ARG004 - it has none
        return None


class Folders:
    """The folders that a name leads to."""

    def __init__(self, settings: Settings, log: Log) -> None:
        self._catalog = _Here(settings.models_dir)
        self._trusts = settings.trust_remote_code
        self._texts = TextStore(log, trust_remote_code=settings.trust_remote_code)

    def resolve(self, name: str) -> tuple[str, Path]:
        """A folder's canonical id and path.

        Raises:
            EngineError: `modelNotFound`.
        """
        return self._catalog.resolve(name)

    def known(self) -> list[Card]:
        """Those that can be named without a path, as far as they are whole."""
        cards: list[Card] = []
        for model_id, folder in self._catalog.known():
            try:
                cards.append(read_card(model_id, folder))
            except EngineError:
                continue
        return cards

    def text(self, card: Card) -> TextModel:
        """The text side of a model.

        Raises:
            EngineError: `modelLoadFailed`.
        """
        return self._texts.load(card)

    def text_if_loaded(self, card: Card) -> TextModel | None:
        """The same, where it is there already."""
        return self._texts.ready(card.id)

    def forget(self, card: Card) -> None:
        """A model was given back, and its vocabulary goes too."""
        self._texts.forget(card.id)

    def check(self, card: Card) -> None:
        """What the engine finds out when it begins to load.

        Raises:
            EngineError: `modelLoadFailed`, for a folder with code of its own.
        """
        if card.code is not None and not self._trusts:
            raise EngineError(
                "modelLoadFailed",
                f"the model brings code of its own, {card.code!r}, which an engine runs only if it "
                "was started with --trust-remote-code",
                model=card.id,
            )
