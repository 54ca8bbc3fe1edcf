"""KV of prompts and finished turns, kept to be reused by the longest common prefix.

Rules it keeps:
- what is stored is never changed: a hit is a copy, which shares memory until it is written to;
- the least recently *used* entry goes first, whichever model it belongs to;
- an entry that can be trimmed stands for all its prefixes, so they are not kept beside it; one that
  cannot (recurrent state, a window that has slid) is a checkpoint, useful only as a whole;
- only the engine's thread calls it; figures may be read from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from msgspec import Struct

from mlx_stdio.kv import layers
from mlx_stdio.kv.tokens import WIDTH, longest, pack

USEFUL = 8
"""Tokens; a shorter prefix costs more to copy than to read."""


class Hit(Struct, frozen=True):
    """KV of the first `length` tokens; the cache is the caller's own, its arrays may be lazy."""

    cache: list[Any]
    length: int


class _Entry(Struct, eq=False):
    key: Hashable
    tokens: bytes
    cache: list[Any]
    nbytes: int

    def trimmable(self) -> bool:
        return layers.trimmable(self.cache)


class PrefixStore:
    """The entries of all models.

    Args:
        limit_bytes: asked at each `put`: what the store may hold in all.
        useful: prefixes of fewer tokens are not looked for.
    """

    def __init__(self, limit_bytes: Callable[[], int], useful: int = USEFUL) -> None:
        self._limit_bytes = limit_bytes
        self._useful = useful
        # Both in the order of use, the latest last.
        self._entries: dict[_Entry, None] = {}
        self._by_key: dict[Hashable, dict[_Entry, None]] = {}
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self.hit_tokens = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(
        self, key: Hashable, tokens: Sequence[int], most: int, better_than: int = 0
    ) -> Hit | None:
        """The longest stored prefix of `tokens`.

        Args:
            key: whose tokens these are: the model, and all that its KV depends on.
            tokens: a prompt.
            most: tokens to reuse at most; one token must remain to be read, so `len(tokens) - 1`.
            better_than: tokens; what is no longer than that is not wanted.

        Returns:
            a copy to go on from, or None.
        """
        entries = self._by_key.get(key, {})
        floor = max(better_than, self._useful - 1)
        found = longest(reversed(entries), pack(tokens), most, floor)
        if found is None:
            self.misses += 1
            return None
        entry, length = found
        self._touch(entry)
        self.hits += 1
        self.hit_tokens += length
        cache = layers.copy(entry.cache)
        if beyond := len(entry.tokens) // WIDTH - length:
            layers.trim(cache, beyond)
            # Else the first write would copy the trimmed part too.
            layers.compact(cache)
        return Hit(cache, length)

    def put(self, key: Hashable, tokens: Sequence[int], cache: list[Any]) -> bool:
        """Store the KV of `tokens`; the cache is the store's from now on.

        Args:
            key: as for `find`.
            tokens: what the cache has seen. If it has seen more (a token in vain at the end of a
                text), the rest is trimmed, or the cache refused where that cannot be done.
            cache: compact, with arrays that are evaluated or on their way: nothing waits here.

        Returns:
            whether it can be found now.
        """
        packed = pack(tokens)
        if not packed or not _fit(cache, len(tokens)):
            return False
        same_key = self._by_key.get(key, {})
        trimmable = layers.trimmable(cache)
        if trimmable:
            for entry in same_key:
                if entry.tokens.startswith(packed) and entry.trimmable():
                    self._touch(entry)
                    return True
        entry = _Entry(key, packed, cache, layers.nbytes(cache))
        limit = self._limit_bytes()
        if entry.nbytes > limit:
            return False
        for other in list(same_key):
            if packed.startswith(other.tokens) and (trimmable or other.tokens == packed):
                self._remove(other)
        self.evict(self.bytes + entry.nbytes - limit)
        self._entries[entry] = None
        self._by_key.setdefault(key, {})[entry] = None
        self.bytes += entry.nbytes
        return True

    def peek(self, key: Hashable, tokens: Sequence[int]) -> list[Any] | None:
        """The stored cache of exactly these tokens, not to be changed. Counts as no use."""
        packed = pack(tokens)
        entries = self._by_key.get(key, {})
        return next((entry.cache for entry in entries if entry.tokens == packed), None)

    def evict(self, bytes_wanted: int) -> int:
        """Free at least so many bytes, if there are so many, the least recently used first.

        Returns:
            bytes freed. Memory is back when no copy shares it and MLX's pool is cleared.
        """
        freed = 0
        while freed < bytes_wanted and self._entries:
            freed += self._remove(next(iter(self._entries)))
            self.evictions += 1
        return freed

    def drop(self, key_predicate: Callable[[Any], bool]) -> int:
        """Forget all entries with such keys (a model is unloaded); the bytes freed."""
        keys = [key for key in self._by_key if key_predicate(key)]
        return sum(self._remove(entry) for key in keys for entry in list(self._by_key[key]))

    def clear(self) -> int:
        """Forget everything; the bytes freed. The counters stay."""
        return self.drop(lambda _: True)

    def _touch(self, entry: _Entry) -> None:
        for order in (self._entries, self._by_key[entry.key]):
            del order[entry]
            order[entry] = None

    def _remove(self, entry: _Entry) -> int:
        del self._entries[entry]
        same_key = self._by_key[entry.key]
        del same_key[entry]
        if not same_key:
            del self._by_key[entry.key]
        self.bytes -= entry.nbytes
        return entry.nbytes


def _fit(cache: list[Any], tokens: int) -> bool:
    """Make the cache be of exactly so many tokens; whether that could be done."""
    length = layers.length(cache)
    if length is not None and length > tokens and layers.trimmable(cache):
        layers.trim(cache, length - tokens)
        return True
    return length is None or length == tokens
