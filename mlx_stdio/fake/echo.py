"""What a generation does where no script says otherwise: it repeats what it was given, and ends.

A place, a model, a prompt, tokens: the phases are those of the real engine, and so are the checks
of parameters, stop strings and the members of the reply.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterator
from typing import Literal

from mlx_stdio.engine.draws import TokenScore
from mlx_stdio.engine.job import Outcome, Prompt
from mlx_stdio.fake.shelf import Model, Shelf
from mlx_stdio.fake.stage import Work, pause
from mlx_stdio.fake.text import END, answer_to
from mlx_stdio.protocol.generation import Generation
from mlx_stdio.session.request import GenerationRequest

_NEVER = -9999.0


class Places:
    """How many generations run at once; the others wait in their order."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.running = 0
        self._waiting: deque[GenerationRequest] = deque()

    def enter(self, request: GenerationRequest) -> Work:
        """Wait for a place; who was cancelled meanwhile gets one too, and leaves it at once."""
        self._waiting.append(request)
        first = told = self._waiting.index(request) + 1
        while not request.closed:
            place = self._waiting.index(request) + 1
            if place == 1 and self.running < self._most:
                break
            if place < told or (place == first == told):
                request.progress("queued", first - place, first, "requests")
                told = place - (place == first)
            yield 0.002
        self._waiting.remove(request)
        self.running += 1

    def leave(self) -> None:
        """A place is free."""
        self.running -= 1


class Speaker:
    """One generation's text, token by token, and its outcome."""

    def __init__(
        self,
        request: GenerationRequest,
        params: Generation,
        prompt: Prompt,
        began: float,
        load: float,
    ) -> None:
        """Args:
        began: when it got its place.
        load: seconds that the model's load took.
        """
        self._request = request
        self._prompt = prompt
        self._logprobs = params.logprobs
        self._began = began
        self._load = load
        self._first: float | None = None
        self._count = 0
        self._tokens: list[int] = []
        self._scores: list[TokenScore] = []

    def say(self, token: int) -> bool:
        """One more token; whether the text has ended with it."""
        self._count += 1
        self._first = self._first or time.monotonic()
        if self._logprobs is not None:
            others = [(other, _NEVER) for other in range(self._logprobs) if other != token]
            top = [(token, 0.0), *others][: self._logprobs]
            self._scores.append(TokenScore(token, 0.0, tuple(top)))
        if token in self._prompt.stop_ids:
            self.end("stop")
            return True
        self._tokens.append(token)
        piece = self._prompt.text.push(token)
        if self._prompt.text.stopped:
            self.end("stop", piece)
            return True
        if piece:
            self._send(piece)
        return False

    def end(self, reason: Literal["stop", "length"], piece: str = "") -> None:
        """Answer the request."""
        piece += self._prompt.text.finish()
        if self._prompt.text.stopped:
            reason = "stop"
        if piece or self._tokens or self._scores:
            self._send(piece)
        now = time.monotonic()
        arrived = self._request.arrived
        self._request.finish(
            Outcome(
                finish_reason=reason,
                prompt_tokens=len(self._prompt.tokens),
                cached_tokens=0,
                completion_tokens=self._count,
                drafted_tokens=0,
                accepted_tokens=0,
                queue=self._began - arrived,
                load=self._load,
                prefill=0.0,
                first_token=None if self._first is None else self._first - arrived,
                total=now - arrived,
                decode=now - (self._first or now),
            )
        )

    def _send(self, piece: str) -> None:
        self._request.delta(piece, self._tokens, self._scores)
        self._tokens, self._scores = [], []


def echo(
    request: GenerationRequest,
    params: Generation,
    prompt: Prompt,
    model: Model,
    shelf: Shelf,
    places: Places,
    most: int,
    token_seconds: float,
) -> Work:
    """A whole generation.

    Args:
        most: tokens that it may have.
    """
    yield from places.enter(request)
    began = time.monotonic()
    try:
        was_ready = model.state == "ready"
        yield from shelf.load(model, request)
        load = 0.0 if was_ready else time.monotonic() - began
        speaker = Speaker(request, params, prompt, began, load)
        model.users += 1
        try:
            tokens = _endless(answer_to(prompt.tokens), prompt)
            for token in itertools.islice(tokens, most):
                yield from pause(token_seconds, lambda: request.closed)
                if request.closed or speaker.say(token):
                    return
            speaker.end("length")
        finally:
            model.users -= 1
            model.used = time.monotonic()
    finally:
        places.leave()


def _endless(answer: list[int], prompt: Prompt) -> Iterator[int]:
    """The answer and its end; where ends do not count, the answer again and again."""
    if END in prompt.stop_ids:
        yield from answer
        yield END
    yield from itertools.cycle(answer or [ord(" ")])
