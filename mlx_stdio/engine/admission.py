"""What is checked and estimated when a request's models are there and it may begin."""

from __future__ import annotations

from mlx_stdio.engine import speculable
from mlx_stdio.engine.job import GenerateJob
from mlx_stdio.engine.row import Row
from mlx_stdio.engine.sampling import check_options
from mlx_stdio.errors import invalid_params
from mlx_stdio.kv import layers


def check(row: Row) -> None:
    """Refuse what the models cannot do, before any work.

    Raises:
        EngineError: `invalidParams` or `unsupported`, with the parameter's path.
        ValueError: an option of sampling that no parameter allows.
    """
    job = row.job
    _check_ids(job, row.prompt.tokens, row.resident.weights.vocabulary_size)
    check_options(job.sampling)
    if job.kv_bits is not None or job.max_kv_size is not None:
        layers.make(row.resident.weights.model, job.kv_bits, job.max_kv_size)
    if job.draft is not None:
        speculable.check(row)


def _check_ids(job: GenerateJob, tokens: list[int], vocabulary: int) -> None:
    """Only the weights know for certain which ids have a row: others would be foreign memory."""
    if max(tokens) >= vocabulary:
        raise invalid_params("$.prompt", f"a token id beyond the vocabulary ({vocabulary})")
    if any(token >= vocabulary for token in job.sampling.logit_bias):
        raise invalid_params("$.logitBias", f"an id beyond the vocabulary ({vocabulary})")
    if job.sampling.top_k >= vocabulary:
        raise invalid_params("$.topK", f"must be below the vocabulary ({vocabulary})")


def kv_estimate(row: Row) -> int:
    """Bytes that a row's caches will take at their longest."""
    job = row.job
    tokens = len(row.prompt.tokens) + row.budget
    needed = row.resident.weights.geometry.estimate(tokens, job.kv_bits, job.max_kv_size)
    if row.draft is not None:
        needed += row.draft.weights.geometry.estimate(tokens)
    return needed
