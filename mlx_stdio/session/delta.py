"""`stream/delta` as it waits in the writer: it can grow, and is numbered when it leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mlx_stdio.protocol.generation import TokenLogprobs
from mlx_stdio.wire.envelope import notification_bytes
from mlx_stdio.wire.writer import Item

if TYPE_CHECKING:
    from mlx_stdio.session.request import Request


class Delta:
    """A piece of one request's text. The writer calls it under its own lock."""

    __slots__ = ("_next_seq", "_request", "_scores", "_text", "_tokens")

    def __init__(
        self,
        request: Request,
        next_seq: Callable[[], int],
        text: str,
        tokens: list[int],
        scores: list[TokenLogprobs],
    ) -> None:
        self._request = request
        self._next_seq = next_seq
        self._text = [text]
        self._tokens = list(tokens)
        self._scores = scores

    def render(self) -> bytes:
        """The notification; plain members, because this is the hot path."""
        params: dict[str, object] = {"requestId": self._request.id}
        if self._request.stream_token is not None:
            params["streamToken"] = self._request.stream_token
        params["seq"] = self._next_seq()
        params["text"] = "".join(self._text)
        params["channel"] = "content"
        if self._tokens:
            params["tokens"] = self._tokens
        if self._scores:
            params["logprobs"] = self._scores
        return notification_bytes("stream/delta", params)

    def absorb(self, later: Item) -> bool:
        """Take over a later delta of the same request."""
        if not isinstance(later, Delta):
            return False
        self._text += later._text
        self._tokens += later._tokens
        self._scores += later._scores
        return True
