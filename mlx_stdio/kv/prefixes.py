"""The prefix cache as the engine uses it: in memory, and on disk where a folder was given.

What is in memory is looked at first; the disk is read only where it has clearly more. New entries
are written while the engine is idle, and when it leaves: never between two tokens of a stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mlx_stdio.kv import layers
from mlx_stdio.kv.prefix import Hit, PrefixStore

if TYPE_CHECKING:
    from mlx_stdio.kv.disk import DiskPrefixes
    from mlx_stdio.models.card import Card

Key = tuple[str, int | None, int | None]
"""Model id, `kvBits`, `maxKvSize`: KV can be shared within one key."""

_WORTH_A_FILE = 64
"""Tokens; a shorter prefix is read anew sooner than from a file."""


class Prefixes:
    """See the module. Owned by the engine's thread; `bytes` may be read from any."""

    def __init__(self, limit: Callable[[], int], disk: DiskPrefixes | None) -> None:
        """Args:
        limit: bytes that entries in memory may take.
        """
        self._limit = limit
        self._store = PrefixStore(limit)
        self._disk = disk
        self._model_keys: dict[str, str] = {}
        self._unsaved: dict[tuple[Key, tuple[int, ...]], None] = {}

    @property
    def bytes(self) -> int:
        """Bytes of the entries in memory."""
        return self._store.bytes

    @property
    def store(self) -> PrefixStore:
        """The entries in memory, for their counters."""
        return self._store

    def know(self, card: Card) -> None:
        """A model is loaded: what the disk has of it can be used from now on."""
        if self._disk is not None:
            from mlx_stdio.kv.disk import model_key

            self._model_keys[card.id] = model_key(card)

    def find(self, key: Key, tokens: Sequence[int], most: int) -> Hit | None:
        """The longest known beginning of `tokens`, at most `most` of them; a copy to go on with."""
        hit = self._store.find(key, tokens, most)
        model_key = self._model_keys.get(key[0])
        if self._disk is None or model_key is None:
            return hit
        have = hit.length if hit is not None else 0
        found = self._disk.find(model_key, _variant(key), tokens, most, have + _WORTH_A_FILE)
        if found is None:
            return hit
        return Hit(*found)

    def put(self, key: Key, tokens: Sequence[int], cache: list[Any]) -> None:
        """Keep a cache that has seen exactly these tokens; it is the store's from now on."""
        import mlx.core as mx

        if not tokens or self._limit() <= 0:
            return
        cache = layers.compact(cache)
        # Lazy arrays would hold the whole batch that they are taken from.
        mx.async_eval(layers.arrays(cache))  # type: ignore[no-untyped-call]
        kept = self._store.put(key, tokens, cache)
        if kept and key[0] in self._model_keys and len(tokens) >= _WORTH_A_FILE:
            self._unsaved[key, tuple(tokens)] = None

    def save_one(self) -> bool:
        """Write one new entry to the disk.

        Returns:
            whether there may be more.
        """
        if self._disk is None or not self._unsaved:
            return False
        key, tokens = next(iter(self._unsaved))
        del self._unsaved[key, tokens]
        cache = self._store.peek(key, tokens)
        model_key = self._model_keys.get(key[0])
        if cache is not None and model_key is not None:
            self._disk.save(model_key, _variant(key), tokens, cache)
        return bool(self._unsaved)

    def evict(self, wanted: int) -> int:
        """Give up so many bytes, least recently used first; how many were freed."""
        return self._store.evict(wanted)

    def forget(self, model_id: str) -> None:
        """A model was unloaded."""
        while self.save_one():
            pass
        self._store.drop(lambda key: key[0] == model_id)
        self._model_keys.pop(model_id, None)


def _variant(key: Key) -> str:
    _, bits, size = key
    return f"bits{bits or 0}-size{size or 0}"
