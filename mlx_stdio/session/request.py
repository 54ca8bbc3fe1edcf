"""One request in flight: it is answered exactly once, whoever gets there first.

The engine's thread finishes it, the reader's thread cancels it or lets it time out; a lock decides.
The winner queues the reply while it holds the lock, so every delta is in the queue before it, and
none comes after it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from mlx_stdio.engine.draws import TokenScore
from mlx_stdio.engine.job import Outcome, Phase, Unit
from mlx_stdio.errors import EngineError
from mlx_stdio.protocol.generation import Timings, TokenLogprobs, TopLogprob, Usage
from mlx_stdio.protocol.notifications import Progress
from mlx_stdio.session.delta import Delta
from mlx_stdio.wire.envelope import RequestId, error_bytes, notification_bytes, result_bytes
from mlx_stdio.wire.writer import Frame, Writer

Respond = Callable[[bytes], None]
"""Takes the one response of a request: straight to the writer, or into a batch's array."""


class Request:
    """A request that waits for its reply, and the sink of the job that it started."""

    def __init__(
        self,
        request_id: RequestId,
        respond: Respond,
        writer: Writer,
        on_closed: Callable[[Request, str], None],
    ) -> None:
        """Args:
        on_closed: told once, with `completed`, `failed` or `cancelled`.
        """
        self.id = request_id
        self.closed = False
        self.stream_token: str | int | None = None
        self.arrived = time.monotonic()
        self._respond = respond
        self._writer = writer
        self._on_closed = on_closed
        self._lock = threading.Lock()

    def succeed(self, result: Any) -> None:
        """Answer with a result, unless the request was answered already."""
        self._close("completed", lambda: result_bytes(self.id, result))

    def fail(self, error: EngineError) -> None:
        """Answer with an error, unless the request was answered already."""
        self._close("failed", lambda: error_bytes(self.id, error))

    def interrupt(self, kind: str, message: str) -> None:
        """Answer with an error that came from outside, and with what there is so far."""
        verdict = "cancelled" if kind == "cancelled" else "failed"

        def response() -> bytes:
            return error_bytes(self.id, EngineError(kind, message, **self._partial()))

        self._close(verdict, response)

    def progress(self, phase: Phase, completed: int, total: int, unit: Unit) -> None:
        """Send `$/progress` for this request."""
        note = Progress(
            request_id=self.id,
            stream_token=self.stream_token,
            phase=phase,
            completed=completed,
            total=total,
            unit=unit,
        )
        with self._lock:
            if not self.closed:
                self._writer.put(Frame(notification_bytes("$/progress", note)))

    def _partial(self) -> dict[str, Any]:
        return {}

    def _close(self, verdict: str, response: Callable[[], bytes]) -> None:
        with self._lock:
            if self.closed:
                return
            message = response()  # first: if that raises, the request can still be failed
            self.closed = True
            self._respond(message)
        self._on_closed(self, verdict)


class ModelRequest(Request):
    """`models/load` or `models/unload`: the result is made by the session that knows the cache."""

    def __init__(
        self,
        *args: Any,
        on_loaded: Callable[[float], Any] | None = None,
    ) -> None:
        super().__init__(*args)
        self._on_loaded = on_loaded

    def loaded(self, seconds: float) -> None:
        """See `ModelSink`."""
        assert self._on_loaded is not None
        self.succeed(self._on_loaded(seconds))

    def unloaded(self, freed: int) -> None:
        """See `ModelSink`."""
        self.succeed({"freedBytes": freed})


class GenerationRequest(Request):
    """A request whose text grows.

    Attributes:
        stream: whether deltas are sent as notifications.
        build: makes the method's result from the text and the members that all outcomes share.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.stream = True
        self.model = ""
        self.seed = 0
        self.wants_logprobs = False
        self.build: Callable[[str, dict[str, Any]], Any] = lambda _text, shared: shared
        self.outcome: Outcome | None = None
        self._text: list[str] = []
        self._tokens = 0
        self._scores: list[TokenScore] = []
        self._seq = 0

    def delta(self, text: str, tokens: list[int], scores: list[TokenScore]) -> None:
        """See `Sink`. Queues one delta; a slow host finds it merged with the one before."""
        with self._lock:
            if self.closed:
                return
            self._text.append(text)
            self._tokens += len(tokens)
            self._scores += scores
            if self.stream:
                item = Delta(self, self._next_seq, text, tokens, [_wire_score(s) for s in scores])
                self._writer.put(item, lane=self)

    @property
    def tokens(self) -> int:
        """How many there are so far."""
        return self._tokens

    def finish(self, outcome: Outcome) -> None:
        """See `GenerateSink`."""
        self.outcome = outcome
        self.succeed(self.build("".join(self._text), self._shared(outcome)))

    def _partial(self) -> dict[str, Any]:
        return {"partial": {"text": "".join(self._text), "completionTokens": self._tokens}}

    def _next_seq(self) -> int:
        seq = self._seq
        self._seq += 1
        return seq

    def _shared(self, outcome: Outcome) -> dict[str, Any]:
        rate = None
        if outcome.completion_tokens > 1 and outcome.decode > 0:
            rate = (outcome.completion_tokens - 1) / outcome.decode
        return {
            "model": self.model,
            "finish_reason": outcome.finish_reason,
            "usage": Usage(
                prompt_tokens=outcome.prompt_tokens,
                cached_tokens=outcome.cached_tokens,
                completion_tokens=outcome.completion_tokens,
                drafted_tokens=outcome.drafted_tokens,
                accepted_tokens=outcome.accepted_tokens,
            ),
            "timings": Timings(
                queue_ms=_ms(outcome.queue),
                load_ms=_ms(outcome.load),
                prefill_ms=_ms(outcome.prefill),
                first_token_ms=None if outcome.first_token is None else _ms(outcome.first_token),
                total_ms=_ms(outcome.total),
                tokens_per_second=None if rate is None else round(rate, 2),
            ),
            "seed": self.seed,
            "logprobs": [_wire_score(s) for s in self._scores] if self.wants_logprobs else None,
        }


def _ms(seconds: float) -> float:
    return round(max(0.0, seconds) * 1000, 3)


def _wire_score(score: TokenScore) -> TokenLogprobs:
    return TokenLogprobs(
        token=score.token,
        logprob=score.logprob,
        top=[TopLogprob(token=token, logprob=logprob) for token, logprob in score.top],
    )
