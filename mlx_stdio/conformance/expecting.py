"""What a program says, held against what a transcript expects of it.

Notifications may come at any time, also such as were added to the protocol since a transcript was
written (5.10). They are passed over where a step does not ask for them, but for a stream's text and
the word of a fault.
"""

from __future__ import annotations

import re
from typing import Any, Final

from mlx_stdio.conformance.ledger import Broken, Ledger
from mlx_stdio.conformance.matching import Bindings, Mismatch, fill, match
from mlx_stdio.conformance.peer import NotAMessage, Peer

_ASKED_FOR: Final = frozenset({"stream/delta", "engine/fatal"})


class Failed(Exception):  # noqa: N818 - an outcome
    """Something else came than was due."""

    def __init__(self, reason: str, came: Any = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.came = came


class StreamEnded(Failed):
    """Nothing can come any more."""


class _Many:
    """A `$many`, and how many have come."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.pattern = body["$many"]
        self.least = body.get("$min", 0)
        self.below = body.get("$below")
        self.name = body.get("$count")
        self.count = 0


class Expecting:
    """The messages of one process, in their order.

    Attributes:
        ledger: the account of what was sent and came.
        bindings: the names bound so far.
        cut_short: a message has come after which nothing more is due: one that the step names, or
            one that says that the engine lacks what it was asked for, where the step wants another.
    """

    def __init__(self, peer: Peer, names: dict[str, Any]) -> None:
        self._peer = peer
        self.ledger = Ledger()
        self.bindings = Bindings(names, self.ledger.texts)
        self.cut_short = False

    def expect(self, pattern: Any, or_end: Any = None) -> None:
        """The next message, or all of `$many`.

        Args:
            or_end: matches the message after which nothing more is due.

        Raises:
            Failed: another came.
        """
        if or_end is not None and self._ends_here(or_end):
            self.cut_short = True
            return
        if not _is_many(pattern):
            self.expect_all([pattern])
            return
        many = _Many(pattern)
        while True:
            message = self._next()
            if self.fits(many.pattern, message) is None:
                many.count += 1
            elif not _is_noise(message):
                break
            self._pass()
        self._end_many(many)

    def expect_all(self, patterns: list[Any], or_end: Any = None) -> None:
        """One message for each pattern, in whatever order, and any number for those of `$many`.

        Args:
            or_end: as above.

        Raises:
            Failed: one came that is none of these, or too many or too few of `$many`.
        """
        many = [_Many(pattern) for pattern in patterns if _is_many(pattern)]
        due = [pattern for pattern in patterns if not _is_many(pattern)]
        while due:
            message = self._next()
            # The texts streamed so far are needed to match, so the account comes first.
            self._pass()
            if or_end is not None and self.fits(or_end, message) is None:
                self.cut_short = True
                return
            reasons: list[str] = []
            for at, pattern in enumerate(due):
                reason = self.fits(pattern, message)
                if reason is None:
                    del due[at]
                    break
                reasons.append(reason)
            else:
                for some in many:
                    reason = self.fits(some.pattern, message)
                    if reason is None:
                        some.count += 1
                        break
                    reasons.append(reason)
                else:
                    if self.ledger.is_lack(message, due):
                        self.cut_short = True
                        return
                    if not _is_noise(message):
                        raise Failed(_nearest(reasons), message)
        for some in many:
            self._end_many(some)

    def expect_nothing(self) -> None:
        """The end of the stream; if the transcript was cut short, what is in flight may go on.

        Raises:
            Failed: something came.
        """
        while self._peer.peek() is not None:
            message = self._next()
            self._pass()
            if not _is_noise(message) and not self.cut_short:
                raise Failed("nothing more is due", message)

    def fits(self, pattern: Any, message: Any) -> str | None:
        """Why a message does not match; None where it does, and its names are bound."""
        try:
            self.bindings.names = match(pattern, message, self.bindings)
        except Mismatch as mismatch:
            return str(mismatch)
        return None

    def _next(self) -> Any:
        """The next message, looked at but not passed."""
        message = self._peer.peek()
        if message is None:
            raise StreamEnded("the stream has ended")
        if isinstance(message, NotAMessage):
            raise Failed(message.reason, message.data.decode(errors="replace"))
        return message

    def _pass(self) -> None:
        message = self._peer.take()
        try:
            self.ledger.came(message)
        except Broken as broken:
            raise Failed(f"breaks a rule of every conversation: {broken}", message) from None

    def _ends_here(self, pattern: Any) -> bool:
        """Whether the next message says that the rest of the transcript does not apply."""
        while _is_noise(self._next()):
            self._pass()
        if self.fits(pattern, self._next()) is not None:
            return False
        self._pass()
        return True

    def _end_many(self, many: _Many) -> None:
        """Look at how many there were."""
        least = fill(many.least, self.bindings)
        below = fill(many.below, self.bindings)
        if many.count < least:
            raise Failed(f"{many.count} came, at least {least} are due")
        if below is not None and many.count >= below:
            raise Failed(f"{many.count} came, fewer than {below} are due")
        if many.name is not None:
            self.bindings.names[many.name] = many.count


def _nearest(reasons: list[str]) -> str:
    """Of the reasons why a message is none of those that are due, those farthest inside it."""
    depths = [len(re.findall(r"[.\[]", reason.partition(": ")[0])) for reason in reasons]
    found = [one for one, depth in zip(reasons, depths, strict=True) if depth == max(depths)]
    return "; or ".join(dict.fromkeys(found))


def _is_many(pattern: Any) -> bool:
    return isinstance(pattern, dict) and "$many" in pattern


def _is_noise(message: Any) -> bool:
    method = message.get("method") if isinstance(message, dict) else None
    return isinstance(method, str) and method not in _ASKED_FOR
