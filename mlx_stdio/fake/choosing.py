"""Whether a request's `logitBias` and penalties make the echo say another token than it would.

The token that comes next has a logit, all others have none; those that the request names are
weighed as the engine does: bias, then penalties, then the most likely one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mlx_stdio.protocol.generation import Generation
from mlx_stdio.session.prepare import DEFAULT_REPETITION_CONTEXT

_LOGIT: Final = 30.0


def choose(expected: int, params: Generation, prompt: Sequence[int], said: Sequence[int]) -> int:
    """The next token.

    Args:
        expected: the echo's.
        said: the tokens of the text so far.
    """
    bias = params.logit_bias
    if not bias:
        return expected
    context = params.repetition_context or DEFAULT_REPETITION_CONTEXT
    recent = [*prompt[-context:], *said][-context:]
    logits = {expected: _LOGIT, **{token: 0.0 for token in bias if token != expected}}
    for token, logit in logits.items():
        logits[token] = _penalised(logit + bias.get(token, 0.0), recent.count(token), params)
    return max(logits, key=lambda token: logits[token])


def _penalised(logit: float, times: int, params: Generation) -> float:
    if not times:
        return logit
    penalty = params.repetition_penalty or 1.0
    logit = logit / penalty if logit > 0 else logit * penalty
    return logit - (params.presence_penalty or 0.0) - times * (params.frequency_penalty or 0.0)
