"""The prefix cache as the engine uses it: in memory, and on disk where a folder was given.

What is in memory is looked at first; the disk is read only where it has clearly more. New entries
are written while the engine is idle, and when it leaves: no writing begins between two tokens of a
stream. The file itself is written by another thread, so a request that comes meanwhile starts at
once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from mlx_stdio.kv import layers
from mlx_stdio.kv.prefix import Hit, PrefixStore
from mlx_stdio.kv.tokens import longest, pack

if TYPE_CHECKING:
    import mlx.core as mx

    from mlx_stdio.kv.disk import DiskPrefixes, Writing
    from mlx_stdio.log import Log
    from mlx_stdio.models.card import Card

Give = Callable[[], tuple[list[Any], int] | None]
"""Gives a copy of a running row's cache and how many tokens it has seen; None if it has none."""

Key = tuple[str, int | None, int | None]
"""Model id, `kvBits`, `maxKvSize`: KV can be shared within one key."""

_WORTH_A_COPY = 63
"""Tokens; a row's cache is copied for more than so many beyond what is at hand."""

_WORTH_A_FILE = 64
"""Tokens; a shorter prefix is read anew sooner than from a file."""

_LARGEST_BESIDE_STREAMS = 8 * 2**20
"""Bytes of a file that is read while streams run: they pause for it."""

_WAIT = 0.005
"""Seconds for which a writing is waited for at once: a new request waits no longer."""

_AT_UNLOAD = 0.05
"""Seconds that are spent on writing when a model is unloaded: other models may have streams."""


class _Loan(Struct, frozen=True, eq=False):
    """A running row whose KV others may use."""

    key: Key
    tokens: bytes
    give: Give

    def trimmable(self) -> bool:
        return True


class Prefixes:
    """See the module. Owned by the engine's thread; `bytes` may be read from any."""

    def __init__(
        self, limit: Callable[[], int], disk: DiskPrefixes | None, log: Log | None = None
    ) -> None:
        """Args:
        limit: bytes that entries in memory may take.
        """
        self._log = log
        self._limit = limit
        self._store = PrefixStore(limit)
        self._disk = disk
        self._model_keys: dict[str, str] = {}
        self._unsaved: dict[tuple[Key, tuple[int, ...]], None] = {}
        self._started: list[mx.array] = []
        self._writing: Writing | None = None
        self._thread: threading.Thread | None = None
        self._loans: dict[Hashable, _Loan] = {}
        self.hurried = False  # streams are running: no large file is to be read now
        self.puts = 0  # how many entries were put: whoever found nothing may ask again

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

            try:
                self._model_keys[card.id] = model_key(card)
            except OSError:  # a folder that has gone since: then its prefixes stay in memory only
                self._model_keys.pop(card.id, None)

    def find(self, key: Key, tokens: Sequence[int], most: int, better_than: int = 0) -> Hit | None:
        """The longest known beginning of `tokens`; a copy to go on with.

        Args:
            most: tokens to reuse at most.
            better_than: tokens; what is no longer than that is not wanted.
        """
        if _slid(key, tokens):
            return None
        try:
            return self._find(key, tokens, most, better_than)
        except Exception as error:  # noqa: BLE001 - then it is read anew
            self._failed("find", error)
            return None

    def _failed(self, what: str, error: Exception) -> None:
        """A cache may fail; a request must not for that."""
        if self._log is not None:
            self._log.error("prefix.failed", what=what, error=repr(error))

    def _find(self, key: Key, tokens: Sequence[int], most: int, better_than: int) -> Hit | None:
        hit = self._store.find(key, tokens, most, better_than)
        if self._loans:
            hit = self._borrow(key, tokens, most, hit.length if hit else better_than) or hit
        model_key = self._model_keys.get(key[0])
        if self._disk is None or model_key is None:
            return hit
        have = hit.length if hit is not None else better_than
        found = self._disk.find(
            model_key,
            _variant(key),
            tokens,
            most,
            have + _WORTH_A_FILE,
            largest=_LARGEST_BESIDE_STREAMS if self.hurried else None,
        )
        if found is None:
            return hit
        cache, length = found
        # The next one like it needs no file.
        self._store.put(key, tokens[:length], layers.copy(cache))
        return Hit(cache, length)

    def lend(self, owner: Hashable, key: Key, tokens: Sequence[int], give: Give) -> None:
        """A row begins to decode: its prompt can be found in its own cache until it ends.

        Nothing is copied before somebody asks, and most often nobody does: when the row ends, its
        cache becomes an entry as it is.

        Args:
            tokens: its prompt, as far as it is read; the cache must stay trimmable to any of them.
        """
        if self._limit() > 0 and not _slid(key, tokens):
            self._loans[owner] = _Loan(key, pack(tokens), give)
            self.puts += 1

    def take_back(self, owner: Hashable) -> None:
        """The row is over; does nothing if it lends nothing."""
        self._loans.pop(owner, None)

    def _borrow(self, key: Key, tokens: Sequence[int], most: int, have: int) -> Hit | None:
        loans = [loan for loan in self._loans.values() if loan.key == key]
        found = longest(loans, pack(tokens), most, have + _WORTH_A_COPY)
        if found is None:
            return None
        loan, length = found
        given = loan.give()
        if given is None:
            return None
        cache, seen = given
        layers.trim(cache, seen - length)
        # The next one like it need not ask the row.
        self.put(key, tokens[:length], layers.copy(cache))
        return Hit(cache, length)

    def put(self, key: Key, tokens: Sequence[int], cache: list[Any]) -> None:
        """Keep a cache that has seen exactly these tokens; it is the store's from now on."""
        if not tokens or self._limit() <= 0 or _slid(key, tokens):
            return
        try:
            self._put(key, tokens, cache)
        except Exception as error:  # noqa: BLE001 - then it is not kept
            self._failed("put", error)

    def _put(self, key: Key, tokens: Sequence[int], cache: list[Any]) -> None:
        import mlx.core as mx

        cache = layers.compact(cache)
        # Lazy arrays would hold the whole batch that they are taken from.
        self._started = layers.arrays(cache)
        mx.async_eval(self._started)  # type: ignore[no-untyped-call]
        kept = self._store.put(key, tokens, cache)
        self.puts += 1
        if kept and key[0] in self._model_keys and len(tokens) >= _WORTH_A_FILE:
            self._unsaved[key, tuple(tokens)] = None

    def settle(self) -> None:
        """Wait until what was put last is copied out of the batch that it comes from."""
        import mlx.core as mx

        started, self._started = self._started, []
        try:
            mx.eval(started)
        except Exception as error:  # noqa: BLE001 - who finds it will fail to use it, and read anew
            self._failed("copy", error)

    def save_one(self) -> bool:
        """Begin to write a new entry to the disk, or wait a moment for the one that is written.

        Returns:
            whether there is more to do.
        """
        if self._disk is None:
            return False
        if self._thread is not None and self._writing is not None:
            self._thread.join(_WAIT)
            if self._thread.is_alive():
                return True
            self._disk.finish(self._writing)
            self._writing = self._thread = None
        while self._unsaved:
            key, tokens = next(iter(self._unsaved))
            del self._unsaved[key, tokens]
            cache = self._store.peek(key, tokens)
            model_key = self._model_keys.get(key[0])
            if cache is None or model_key is None:
                continue
            writing = self._disk.begin(model_key, _variant(key), tokens, cache)
            if not isinstance(writing, bool):
                self._writing = writing
                self._thread = threading.Thread(target=writing.run, name="kv", daemon=True)
                self._thread.start()
                return True
        return False

    def evict(self, wanted: int) -> int:
        """Give up so many bytes, least recently used first; how many were freed."""
        self._started = []
        return self._store.evict(wanted)

    def forget(self, model_id: str) -> None:
        """A model was unloaded. What cannot be written in a moment is lost."""
        end = time.monotonic() + _AT_UNLOAD
        while self.save_one() and time.monotonic() < end:
            pass
        self._started = []
        self._store.drop(lambda key: key[0] == model_id)
        self._model_keys.pop(model_id, None)


def _slid(key: Key, tokens: Sequence[int]) -> bool:
    """Whether a bounded cache drops some of these tokens.

    What it holds then depends on the chunks that a prompt is read in, and so would the answer on
    what was reused.
    """
    size = key[2]
    return size is not None and len(tokens) > size


def _variant(key: Key) -> str:
    _, bits, size = key
    return f"bits{bits or 0}-size{size or 0}"
