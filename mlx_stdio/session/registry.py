"""The requests in flight, by id, and the counts of those that have ended."""

from __future__ import annotations

import threading

from mlx_stdio.protocol.lifecycle import Counters
from mlx_stdio.session.request import GenerationRequest, Request
from mlx_stdio.wire.envelope import RequestId


class Registry:
    """Safe to use from several threads."""

    def __init__(self) -> None:
        self._requests: dict[RequestId, Request] = {}
        self._lock = threading.Lock()
        self._verdicts = {"completed": 0, "failed": 0, "cancelled": 0}
        self._total = 0
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._generating = 0
        self._mean_seconds = 0.5

    def __contains__(self, request_id: RequestId) -> bool:
        # One that is being closed may have its reply out already: its id is free.
        request = self._requests.get(request_id)
        return request is not None and not request.closed

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: Request) -> None:
        """A request has arrived."""
        with self._lock:
            self._requests[request.id] = request
            self._total += 1
            self._generating += isinstance(request, GenerationRequest)

    def get(self, request_id: RequestId) -> Request | None:
        """A request in flight."""
        return self._requests.get(request_id)

    def all(self) -> list[Request]:
        """All requests in flight."""
        with self._lock:
            return list(self._requests.values())

    def remove(self, request: Request, verdict: str) -> None:
        """A request was answered."""
        with self._lock:
            if self._requests.get(request.id) is request:
                del self._requests[request.id]
            self._verdicts[verdict] += 1
            if not isinstance(request, GenerationRequest):
                return
            self._generating -= 1
            if (outcome := request.outcome) is not None:
                self._prompt_tokens += outcome.prompt_tokens
                self._completion_tokens += outcome.completion_tokens
                seconds = outcome.total - outcome.queue - outcome.load
                self._mean_seconds += 0.1 * (seconds - self._mean_seconds)

    @property
    def generating(self) -> int:
        """Generations in flight, waiting or running."""
        return self._generating

    def retry_after_ms(self, concurrent: int) -> int:
        """A guess at when a place is free: how long the latest generations took, and how many wait.

        Args:
            concurrent: how many run at a time.
        """
        waves = max(1.0, self._generating / concurrent)
        return min(60_000, max(100, int(1000 * self._mean_seconds * waves)))

    def counters(self, loads: int, unloads: int) -> Counters:
        """For `engine/status`."""
        with self._lock:
            return Counters(
                requests=self._total,
                completed=self._verdicts["completed"],
                failed=self._verdicts["failed"],
                cancelled=self._verdicts["cancelled"],
                prompt_tokens=self._prompt_tokens,
                completion_tokens=self._completion_tokens,
                model_loads=loads,
                model_unloads=unloads,
            )
