"""An `OrderedDict` of the three models that were used last; what falls out of it is freed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm import load, stream_generate

LIMIT = 3


class Models:
    """To be used from one thread: MLX binds streams and lazy arrays to their thread."""

    def __init__(self, default: str) -> None:
        self._default = default
        self._loaded: OrderedDict[str, tuple[Any, Any]] = OrderedDict()

    @property
    def names(self) -> list[str]:
        """What is loaded, the last used at the end."""
        return list(self._loaded)

    def get(self, name: str) -> tuple[Any, Any]:
        """A model and its tokenizer, loaded if need be.

        Raises:
            FileNotFoundError: there is no such folder.
        """
        name = name or self._default
        if name in self._loaded:
            self._loaded.move_to_end(name)
            return self._loaded[name]
        if not Path(name).is_dir():
            raise FileNotFoundError(name)
        while len(self._loaded) >= LIMIT:
            self._loaded.popitem(last=False)
            mx.clear_cache()
        self._loaded[name] = load(name)[:2]
        return self._loaded[name]

    def stream(self, name: str, prompt: str, tokens: int) -> Iterator[Any]:
        """Greedy, one response of `mlx_lm` a token."""
        model, tokenizer = self.get(name)
        yield from stream_generate(model, tokenizer, prompt, max_tokens=tokens)
