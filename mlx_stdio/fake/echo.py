"""What a generation does where no script says otherwise: it repeats what it was given, and ends.

A place, a model, a prompt, tokens: the phases are those of the real engine, and so are the checks
of parameters, stop strings and the members of the reply. Where the model is a folder, the tokens
are those of its own tokenizer.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from typing import Literal

from mlx_stdio.engine.draws import TokenScore
from mlx_stdio.engine.job import Outcome, Prompt
from mlx_stdio.errors import EngineError
from mlx_stdio.fake.choosing import choose
from mlx_stdio.fake.places import Places
from mlx_stdio.fake.resident import Model
from mlx_stdio.fake.shelf import Shelf
from mlx_stdio.fake.stage import Work, pause
from mlx_stdio.fake.text import answer_to
from mlx_stdio.models.card import Card
from mlx_stdio.protocol.generation import Generation
from mlx_stdio.session.request import GenerationRequest

_CHUNK = 512
_CHUNK_SECONDS = 0.001
"""How many tokens of a long prompt are read at once at most, and how long."""


class Speaker:
    """One generation's text, token by token, and its outcome."""

    def __init__(
        self,
        request: GenerationRequest,
        params: Generation,
        prompt: Prompt,
        model: Model,
        began: float,
        load: float,
    ) -> None:
        """Args:
        began: when it got its place.
        load: seconds that the model's load took.
        """
        self._request = request
        self._params = params
        self._prompt = prompt
        self._logprob = -math.log(model.card.vocabulary_size or 1)
        self._began = began
        self._load = load
        self.cached = 0
        self.read = 0.0  # when the prompt was
        self.said: list[int] = []
        self.seen: list[int] = []  # the text so far, prompt and all
        self._first: float | None = None
        self._count = 0
        self._tokens: list[int] = []
        self._scores: list[TokenScore] = []

    def say(self, expected: int) -> bool:
        """One more token; whether the text has ended with it.

        Args:
            expected: what comes, if the request does not want another.
        """
        self._count += 1
        self._first = self._first or time.monotonic()
        token = choose(expected, self._params, self._prompt.tokens, self.said)
        self.said.append(token)
        self.seen.append(token)
        if (most := self._params.logprobs) is not None:
            # All tokens are equally likely, so these are as right as any others.
            others = (other for other in range(most + 1) if other != expected)
            top = itertools.islice(itertools.chain([expected], others), most)
            score = self._logprob
            self._scores.append(TokenScore(token, score, tuple((other, score) for other in top)))
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
                cached_tokens=self.cached,
                completion_tokens=self._count,
                drafted_tokens=0,
                accepted_tokens=0,
                queue=self._began - arrived,
                load=self._load,
                prefill=max(0.0, self.read - self._began - self._load),
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
    chunk: int,
) -> Work:
    """A whole generation.

    Args:
        most: tokens that it may have.
        chunk: tokens of a prompt that are read at once.
    """
    ticket = places.ask(request, params.priority, len(prompt.tokens))
    try:
        yield from places.wait(ticket)
        began = time.monotonic()
        was_ready = model.state == "ready"
        yield from shelf.load(model, request)
        load = 0.0 if was_ready else time.monotonic() - began
        speaker = Speaker(request, params, prompt, model, began, load)
        model.users += 1
        try:
            yield from places.turn(ticket)
            yield from _read(request, params, prompt, model, speaker, chunk)
            for token in itertools.islice(_endless(prompt, model.text().eos_ids), most):
                yield from places.hold(ticket)
                yield from pause(token_seconds, lambda: request.closed)
                if request.closed or speaker.say(token):
                    return
            speaker.end("length")
        finally:
            model.users -= 1
            model.used = time.monotonic()
    finally:
        places.leave(ticket)


def check_draft(draft: Card, card: Card) -> None:
    """Refuse a draft model that the engine would refuse.

    Raises:
        EngineError: `unsupported`.
    """
    if draft.vocabulary_size != card.vocabulary_size:
        raise EngineError(
            "unsupported",
            f"the draft model's vocabulary ({draft.vocabulary_size}) is not the model's "
            f"({card.vocabulary_size})",
            path="$.draftModel",
        )


def _read(
    request: GenerationRequest,
    params: Generation,
    prompt: Prompt,
    model: Model,
    speaker: Speaker,
    chunk: int,
) -> Work:
    """Read the prompt, but for what was read before; a long one in several chunks."""
    tokens, chunk = prompt.tokens, min(chunk, _CHUNK)
    if params.cache_prompt is not False:
        speaker.cached = model.cached(tokens)
        # It grows with the text: whoever comes later finds what was read until then.
        model.known.append(speaker.seen)
    speaker.seen += tokens[: speaker.cached]
    tells = len(tokens) - speaker.cached > chunk
    while (at := len(speaker.seen)) < len(tokens) and not request.closed:
        speaker.seen += tokens[at : at + chunk]
        if tells:
            request.progress("prefill", len(speaker.seen), len(tokens), "tokens")
            yield _CHUNK_SECONDS
    speaker.read = time.monotonic()


def _endless(prompt: Prompt, ends: frozenset[int]) -> Iterator[int]:
    """The answer and its end; where ends do not count, the answer again and again."""
    answer = answer_to(prompt.tokens, ends)
    if ends & prompt.stop_ids:
        yield from answer
        yield min(ends & prompt.stop_ids)
    yield from itertools.cycle(answer or [ord(" ")])
