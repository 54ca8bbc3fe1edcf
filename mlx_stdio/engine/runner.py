"""One model at work: its prompts being read, its batches being decoded.

A step draws one token for every row, then reads some of the prompts (`prompts.py`). Rules:
- rows that can be merged decode together, unless the padding would cost more memory than the rows;
- a row that fails ends alone. If a whole forward pass fails, its rows are read anew and go on one
  by one, so that only the one that causes it ends; all draw the tokens that they would have drawn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mlx_stdio.engine.batch import Batch, Ended, Kept
from mlx_stdio.engine.device import on_gpu
from mlx_stdio.engine.grouping import grouped
from mlx_stdio.engine.pace import Pace
from mlx_stdio.engine.prompts import Prompts
from mlx_stdio.engine.reading import Reading
from mlx_stdio.engine.row import Row
from mlx_stdio.engine.speculative import Speculative
from mlx_stdio.kv import layers
from mlx_stdio.log import Log

if TYPE_CHECKING:
    from mlx_stdio.kv.prefixes import Prefixes
    from mlx_stdio.models.residency import Resident

_FIRST_ON_CPU, _FIRST_ON_GPU = 128, 512
"""Tokens of a model's very first chunk."""

_BROKEN_BATCHES = 3
"""After so many failures of a whole batch in short order, the model's rows are batched no more."""

_FORGIVEN = 0.99
"""What is left of a failure after a step in which a batch went well."""


class Runner:
    """See the module. Owned by the engine's thread."""

    def __init__(
        self,
        resident: Resident,
        prefixes: Prefixes,
        prefill_step: int,
        log: Log,
        on_end: Callable[[Row, Exception | None], None],
        spare_bytes: Callable[[], int],
        flush: Callable[[], None],
    ) -> None:
        """Args:
        flush: sends what was queued.
        spare_bytes: of memory that nobody has set aside.
        on_end: a row is over, and what it failed with; its sink was told unless it failed.
        """
        self.resident = resident
        self.pace = Pace(prefill_step, _FIRST_ON_GPU if on_gpu() else _FIRST_ON_CPU)
        self.prompts = Prompts(self.pace, self._can_batch, log)
        self.batches: list[Batch | Speculative] = []
        self.parked: list[Batch | Speculative | Reading] = []
        self._prefixes = prefixes
        self._log = log
        self._on_end = on_end
        self._spare_bytes = spare_bytes
        self._flush = flush
        self._broken = 0.0
        self._batchable: bool | None = None

    def add(self, row: Row) -> None:
        """A request begins."""
        self.prompts.add(Reading(row, self._prefixes if row.job.cache_prompt else None))

    @property
    def rows(self) -> list[Row]:
        """All rows that have a place, in no order."""
        return [reading.row for reading in list(self.prompts.readings)] + [
            row for batch in list(self.batches) for row in batch.rows
        ]

    @property
    def count(self) -> int:
        """How many rows have a place; any thread may ask."""
        return len(self.prompts) + sum(len(batch.rows) for batch in list(self.batches))

    @property
    def kv_bytes(self) -> int:
        """Bytes of all caches; any thread may ask."""
        owners = [*self.prompts.readings, *self.batches, *self.parked]
        return sum(owner.kv_bytes for owner in owners)

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.prompts or self.batches)

    @property
    def streams(self) -> int:
        """How many rows decode."""
        return sum(len(batch.rows) for batch in self.batches)

    @property
    def urgent(self) -> bool:
        """Whether an interactive prompt is to be read."""
        return any(reading.row.job.rank == 0 for reading in self.prompts.readings)

    @property
    def background(self) -> bool:
        """Whether all its work is in the background."""
        return all(row.job.rank == 2 for row in self.rows)

    @property
    def has_background(self) -> bool:
        """Whether a row could be set aside."""
        return any(row.job.rank == 2 for row in self.rows)

    def settle(self) -> None:
        """Wait for what was started."""
        for batch in list(self.batches):
            try:
                batch.settle()
            except Exception as error:  # noqa: BLE001
                self._disband(batch, error)

    def drop_closed(self) -> None:
        """Let go of rows whose requests were answered."""
        for owner in [o for o in self.parked if _rows(o)[0].job.sink.closed]:
            # Back among the others, and out with them.
            self._unpark(owner)
        for reading in [r for r in self.prompts.readings if r.row.job.sink.closed]:
            self.prompts.remove(reading)
            reading.abandon()
            self._finish(reading.row, None)
        for batch in list(self.batches):
            self._retire(batch, [(row, None) for row in batch.rows if row.job.sink.closed])

    def step(self, streams: int) -> None:
        """One token for every row, and a part of the prompts.

        Args:
            streams: how many rows decode, of this and of other models.
        """
        began = time.monotonic()
        decoded = self._decode()
        after = time.monotonic()
        if decoded and not self.prompts:
            self.pace.stepped(after - began)
        self.prompts.read(
            streams=streams,
            on_done=self._begin,
            on_together=self._begin_together,
            on_failed=self._finish,
        )

    def _can_batch(self) -> bool:
        """Whether the model's code takes batches; found out when it is first needed."""
        if self._batchable is None:
            self._batchable = layers.batchable(self.resident.weights.model)
        return self._batchable

    def _decode(self) -> bool:
        self._gather()
        for batch in list(self.batches):
            try:
                batch.launch()
            except Exception as error:  # noqa: BLE001 - a model's code may raise anything
                self._disband(batch, error)
        decoding = list(self.batches)
        for batch in decoding:
            try:
                ended = batch.advance()
            except Exception as error:  # noqa: BLE001
                self._disband(batch, error)
            else:
                if len(batch.rows) > 1:
                    self._broken *= _FORGIVEN
                self._retire(batch, ended)
        return bool(decoding)

    def _gather(self) -> None:
        """Merge what can be merged."""
        if len(self.batches) < 2 or not self._can_batch():
            return
        per_token = self.resident.weights.geometry.per_token
        for group, joining in grouped(self.batches, per_token, self._spare_bytes()):
            for batch in joining:
                self.batches.remove(batch)
            try:
                group.join(joining)
            except Exception as error:  # noqa: BLE001 - its rows are read anew, one by one
                rows = dict.fromkeys(row for b in (group, *joining) for row in b.rows)
                self._read_anew(group, list(rows), error)

    def _begin(self, reading: Reading) -> None:
        row = reading.row
        row.prompt_read()
        if row.job.draft is not None:
            self.batches.append(Speculative(row, reading.caches))
        else:
            wait = self._decodes_in_batches()
            self.batches.append(Batch([row], reading.caches[0], wait=wait))
            self._lend(reading)

    def _begin_together(self, readings: Sequence[Reading], cache: list[Any]) -> None:
        rows = [reading.row for reading in readings]
        for row in rows:
            row.prompt_read()
        wait = self._decodes_in_batches()
        self.batches.append(Batch(rows, cache, merged=True, wait=wait))
        for reading in readings:
            self._lend(reading)

    def _decodes_in_batches(self) -> bool:
        """Whether a newcomer is likely to be merged with others before the next step."""
        mergeable = any(isinstance(b, Batch) and b.mergeable for b in self.batches)
        return mergeable and self._can_batch()

    def _lend(self, reading: Reading) -> None:
        """While the row decodes, others find its prompt in its own cache."""
        if not reading.lends:
            return
        row = reading.row

        def give() -> tuple[list[Any], int] | None:
            for batch in self.batches:
                if isinstance(batch, Batch) and row in batch.rows:
                    return batch.copy_of(row), row.fed
            return None

        self._prefixes.lend(row, row.cache_key, row.history[: row.fed], give)

    def _finish(self, row: Row, error: Exception | None) -> None:
        self._prefixes.take_back(row)
        self._on_end(row, error)

    def _retire(self, batch: Batch | Speculative, ended: list[Ended]) -> None:
        if not ended:
            return
        rows = [row for row, _ in ended]
        keep = [row for row, error in ended if error is None and row.job.cache_prompt]
        staying = [row for row in batch.rows if row not in rows]
        kept: list[Kept] = []
        try:
            kept = batch.leave(rows, keep)
        except Exception as error:  # noqa: BLE001 - the batch is unusable; its rows are not
            self._read_anew(batch, staying, error)
        for row, failure in ended:
            self._finish(row, failure)
        self._flush()  # the replies need not wait until the KV is put away
        # Only now, when what was set aside for the rows is free.
        for piece in kept:
            self._prefixes.put(piece.key, piece.tokens, piece.cache)
        if not staying and batch in self.batches:
            # The batch's memory is free, and so counted, when the copies are made.
            self._prefixes.settle()
            self.batches.remove(batch)

    def _disband(self, batch: Batch | Speculative, error: Exception) -> None:
        """A forward pass failed: one row ends with it, several go on alone from their tokens."""
        if len(batch.rows) == 1:
            self.batches.remove(batch)
            self._finish(batch.rows[0], error)
        else:
            self._read_anew(batch, batch.rows, error)

    def _read_anew(self, batch: Batch | Speculative, rows: Sequence[Row], error: Exception) -> None:
        """Whose fault it was is not known: each row goes on alone, so that only that one fails."""
        self.batches.remove(batch)
        self._log.error("batch.failed", model=self.resident.card.id, error=repr(error))
        self._broken += 1
        if self._broken >= _BROKEN_BATCHES:
            self._batchable = False
        for row in rows:
            self._prefixes.take_back(row)
            row.alone = True
            self.add(row)

    def park(self) -> bool:
        """Take a background row out, to go on later; whether there was one."""
        for reading in self.prompts.readings:
            if reading.row.job.rank == 2:
                self.prompts.remove(reading)
                self.parked.append(reading)
                return True
        for batch in self.batches:
            for row in batch.rows:
                if row.job.rank == 2:
                    try:
                        part = batch.split(row)
                    except Exception as error:  # noqa: BLE001 - not the newcomer's fault
                        self._read_anew(batch, batch.rows, error)
                        return self.park()
                    if part is batch:
                        self.batches.remove(batch)
                    self.parked.append(part)
                    return True
        return False

    def unpark(self) -> bool:
        """Let the row that was taken out first go on; whether there was one."""
        if self.parked:
            self._unpark(self.parked[0])
            return True
        return False

    def _unpark(self, owner: Batch | Speculative | Reading) -> None:
        self.parked.remove(owner)
        if isinstance(owner, Reading):
            self.prompts.add(owner)
        else:
            self.batches.append(owner)


def _rows(owner: Batch | Speculative | Reading) -> list[Row]:
    return [owner.row] if isinstance(owner, Reading) else owner.rows
