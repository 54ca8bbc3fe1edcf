"""A prompt on its way into a KV cache: chunk by chunk, from where the prefix cache leaves off.

The prefix cache is asked when the first chunk is due, not when the request arrives, and again when
something was put into it meanwhile: of many requests with one beginning that come together, the
first reads it and the others find it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mlx_stdio.engine.row import Row
from mlx_stdio.kv import layers

if TYPE_CHECKING:
    from mlx_stdio.kv.prefixes import Prefixes

_WORTH_KEEPING = 64
"""Tokens read anew from which a prompt's KV is put into the prefix cache before its text ends."""

_TELL_EVERY = 0.05


class Reading:
    """One row's history being read, all but its last token, whose logits give the next one.

    A row with a draft model is read by both, one after the other.
    """

    def __init__(self, row: Row, prefixes: Prefixes | None) -> None:
        """Args:
        prefixes: None where the prefix cache is not to be used for this row.
        """
        self.row = row
        self.passed = 0  # how often another prompt was preferred
        self.caches: list[list[Any]] = []
        self._prefixes = prefixes
        self._tokens = row.history
        self._end = len(self._tokens) - 1
        self._stages = [(row.resident, row.cache_key)]
        if row.draft is not None:
            self._stages.append((row.draft, row.draft_key))
        self._stage = 0
        self._read = 0  # in the present stage
        self._kept = 0
        self._asked = 0  # what had been put into the prefix cache by then
        self._checkpoints: list[int] = []
        self._told = 0.0
        self._lends = False

    @property
    def done(self) -> bool:
        """Whether everything is read."""
        return self._stage == len(self._stages)

    @property
    def left(self) -> int:
        """Tokens still to be read, if the prefix cache has none of them."""
        return (len(self._stages) - self._stage) * self._end - self._read

    @property
    def kv_bytes(self) -> int:
        """Bytes of the caches; any thread may ask."""
        return sum(layers.nbytes(cache) for cache in list(self.caches))

    def read(self, most: int) -> int:
        """Read the next chunk and wait for it.

        Returns:
            how many tokens it had.

        Raises:
            Exception: what the model's code raises.
        """
        import mlx.core as mx

        self.open()
        cache = self.caches[self._stage]
        resident, _ = self._stages[self._stage]
        begin = self._read
        stop = next((at for at in self._checkpoints if at > begin), self._end)
        end = min(begin + most, stop)
        if end > begin:
            chunk = mx.array(self._tokens[begin:end], dtype=mx.uint32)
            resident.weights.model(chunk[None], cache=cache)
            layers.own_states(cache)
            mx.eval(layers.arrays(cache))
            self._read = end
        if end in self._checkpoints or (end == self._end and not self.lends):
            self._keep()
        if self._stage == 0:
            self._tell()
        if end == self._end:
            self._stage += 1
            self._read = 0
        return end - begin

    def _open(self) -> None:
        """Find what is known of the prompt already, or begin with an empty cache."""
        job = self.row.job
        resident, _ = self._stages[self._stage]
        sizes = (job.kv_bits, job.max_kv_size) if self._stage == 0 else (None, None)
        cache = layers.make(resident.weights.model, *sizes)
        self.caches.append(cache)
        self._kept = 0
        longest = self._end + self.row.left + 1
        self._lends = job.draft is None and layers.stays_trimmable(cache, longest)
        self._checkpoints = []
        if self._prefixes is not None and not layers.stays_trimmable(cache, self._end):
            self._checkpoints = [at for at in self.row.prompt.borders if at < self._end]
        self._look()

    def _look(self) -> None:
        """Go on from what the prefix cache has of the prompt, if that is more than was read."""
        if self._prefixes is None:
            return
        self._asked = self._prefixes.puts
        _, key = self._stages[self._stage]
        # Where something was read already, little more is not worth a copy.
        have = self._read + _WORTH_KEEPING if self._read else 0
        hit = self._prefixes.find(key, self._tokens, self._end, have)
        if hit is None:
            return
        if self._stage == 0 and not self.row.drawn:
            self.row.cached += hit.length - self._read
        self.caches[self._stage] = hit.cache
        self._read = self._kept = hit.length

    @property
    def lends(self) -> bool:
        """Whether the row's own cache can serve as a prefix while it decodes.

        If it can, no copy is kept at the end of the prompt: that would be one more for each
        request, and most are never asked for.
        """
        return self._lends and self._prefixes is not None

    def open(self) -> None:
        """Look at what the prefix cache has, before a chunk; again where there is news."""
        if len(self.caches) == self._stage:
            self._open()
        elif self._prefixes is not None and self._prefixes.puts > self._asked:
            self._look()

    @property
    def fresh(self) -> bool:
        """Whether it can be read in one pass with others: nothing is read, nothing is special."""
        return (
            self._stage == 0
            and self._read == 0
            and self.row.job.draft is None
            and not self.row.alone
            and not self._checkpoints
            and self._end > 0
            and len(self.caches) == 1
            and layers.mergeable(self.caches[0])
        )

    @property
    def rest(self) -> list[int]:
        """The tokens still to be read."""
        return self._tokens[self._read : self._end]

    def shares(self, other: Reading) -> bool:
        """Whether both begin alike, so that one may find what the other has read."""
        if self._prefixes is None or other._prefixes is None:
            return False
        return self._tokens[:_WORTH_KEEPING] == other._tokens[:_WORTH_KEEPING]

    def was_read(self, batched: list[Any], row: int) -> None:
        """All of it was read in a pass with others.

        Args:
            batched: the cache of that pass.
            row: its own place in there.
        """
        self._read = self._end
        self.caches = []
        if self._prefixes is not None and not self.lends and self._end >= _WORTH_KEEPING:
            own = layers.extract(batched, row, self._end)
            self._prefixes.put(self._stages[0][1], self._tokens[: self._end], own)
        self._stage = 1

    def start_over(self) -> None:
        """A pass with others has failed: it is read from its beginning, by itself."""
        self.row.alone = True
        self.caches = []
        self._stage = self._read = 0

    def abandon(self) -> None:
        """The request is gone; what was read of it is kept for the next one like it."""
        if len(self.caches) > self._stage:
            self._keep()

    def _keep(self) -> None:
        if self._prefixes is None or self._read - self._kept < _WORTH_KEEPING:
            return
        _, key = self._stages[self._stage]
        cache = layers.copy(self.caches[self._stage])
        self._prefixes.put(key, self._tokens[: self._read], cache)
        self._kept = self._read

    def _tell(self) -> None:
        now = time.monotonic()
        done = self._read == self._end
        if self._told == 0.0 and done:  # read at once
            return
        if not done and now - self._told < _TELL_EVERY:
            return
        self._told = now
        self.row.job.sink.progress("prefill", self._read, len(self._tokens), "tokens")
