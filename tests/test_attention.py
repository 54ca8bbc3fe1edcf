"""Masked attention of one query: which calls the kernel takes, and what it gives on a GPU."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from mlx_stdio.engine import attention
from mlx_stdio.models import lean


def arrays(
    rows: int = 2, heads: int = 8, kept: int = 2, head: int = 64, steps: int = 1, length: int = 40
) -> list[Any]:
    """Queries and keys and values as a model has them: transposed, and slices of a buffer."""
    import mlx.core as mx

    queries = mx.random.normal((rows, steps, heads, head)).transpose(0, 2, 1, 3)
    buffers = [mx.random.normal((rows, kept, length + 24, head)) for _ in "kv"]
    begins = mx.arange(rows)[:, None, None, None] * (length // rows)
    mask = mx.arange(length)[None, None, None] >= begins
    return [queries, *(buffer[:, :, :length] for buffer in buffers), mask]


def test_which_calls_the_kernel_takes() -> None:
    import mlx.core as mx

    taken = arrays()
    assert attention.takes(*taken)
    queries, keys, values, mask = taken
    assert not attention.takes(queries, keys, values, None)
    assert not attention.takes(queries, keys, values, "causal")
    assert not attention.takes(queries, (keys, keys, keys), (values, values, values), mask)
    assert not attention.takes(queries, keys, values, mask.astype(mx.float32))
    assert not attention.takes(queries, keys, values, mask[:1])
    assert not attention.takes(queries, keys, values, mask[:, 0])
    assert not attention.takes(queries, keys, values[..., :32], mask)
    assert not attention.takes(queries.astype(mx.float16), keys, values, mask)
    assert not attention.takes(*arrays(steps=2))
    assert not attention.takes(*arrays(head=80))
    assert not attention.takes(*arrays(head=512))


def test_what_it_takes_the_place_of() -> None:
    """Models of `mlx_lm` take the function by its name, with these arguments."""
    lean.install()
    from mlx_lm.models import base, llama

    names = list(inspect.signature(base.scaled_dot_product_attention).parameters)
    assert names == ["queries", "keys", "values", "cache", "scale", "mask", "sinks"]
    assert "scaled_dot_product_attention" in vars(llama)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"rows": 1, "length": 1},
        {"rows": 5, "heads": 6, "kept": 6, "head": 32, "length": 700},
        {"rows": 3, "heads": 16, "kept": 1, "head": 256, "length": 33},
        {"rows": 2, "heads": 4, "kept": 2, "head": 96, "length": 5000},
        {"rows": 4, "heads": 4, "kept": 4, "head": 128, "length": 300},
    ],
)
def test_it_is_the_attention_of_mlx(shape: dict[str, int], dtype: str) -> None:
    import mlx.core as mx

    if not mx.cuda.is_available():
        pytest.skip("the kernel is for NVIDIA GPUs")
    *inputs, mask = arrays(**shape)
    queries, keys, values = (array.astype(getattr(mx, dtype)) for array in inputs)
    exact = [array.astype(mx.float32) for array in (queries, keys, values)]
    scale = shape.get("head", 64) ** -0.5
    expected = mx.fast.scaled_dot_product_attention(*exact, scale=scale, mask=mask)
    found = attention.decode(queries, keys, values, scale, mask)
    assert found.dtype == queries.dtype
    assert found.shape == expected.shape
    bound = {"float32": 1e-4, "bfloat16": 1e-2, "float16": 2e-3}[dtype]
    assert bool(mx.all(mx.abs(found.astype(mx.float32) - expected) < bound))
