"""Attention of one query each over keys of which some are masked, for NVIDIA GPUs.

That is what every step of a batch is: its rows are padded on the left. MLX's CUDA backend has no
fused kernel for it and takes the attention apart into some eight operations a layer; as a step of
a batch is bound by what the host launches, they are a fifth of it (docs/performance.md). Here it is
one: a block for each row and head, whose warps go through the keys by turns with a running softmax
in float32, and put their parts together at the end.

Model code calls `mlx_lm.models.base.scaled_dot_product_attention`; `install` puts a function in its
place that gives to this kernel what it takes, and everything else to the original.

Source: "FlashAttention" (Dao et al., 2022) for the running softmax; `mx.fast.cuda_kernel`.
"""

from __future__ import annotations

from functools import cache, wraps
from typing import TYPE_CHECKING, Any

from mlx_stdio.models import lean

if TYPE_CHECKING:
    import mlx.core as mx

_WARPS = 32
_LANES = 32
_LARGEST_HEAD = 256
"""Values of a head; the warps' parts must fit into 48 KiB of shared memory."""

_SOURCE = """
constexpr int E = D / 32;  // values of a head that a lane holds
const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
const int head = blockIdx.x, row = blockIdx.y, shared = head / GROUP;
const int length = keys_shape[2];
const bool* allowed = mask + row * mask_strides[0];
const T* q = queries + row * queries_strides[0] + head * queries_strides[1];
const T* k = keys + row * keys_strides[0] + shared * keys_strides[1];
const T* v = values + row * values_strides[0] + shared * values_strides[1];

float query[E], sum[E];
for (int i = 0; i < E; i++) {
  query[i] = static_cast<float>(q[(lane * E + i) * queries_strides[3]]) * scale[0];
  sum[i] = 0.0f;
}
float highest = -1e30f, weight = 0.0f;
for (int at = warp; at < length; at += WARPS) {
  if (!allowed[at * mask_strides[3]]) continue;
  float score = 0.0f;
  for (int i = 0; i < E; i++)
    score += query[i]
        * static_cast<float>(k[at * keys_strides[2] + (lane * E + i) * keys_strides[3]]);
  for (int other = 16; other > 0; other /= 2)
    score += __shfl_xor_sync(0xffffffff, score, other);
  const float now = fmaxf(highest, score);
  const float before = __expf(highest - now), own = __expf(score - now);
  highest = now;
  weight = weight * before + own;
  for (int i = 0; i < E; i++)
    sum[i] = sum[i] * before
        + own * static_cast<float>(v[at * values_strides[2] + (lane * E + i) * values_strides[3]]);
}

__shared__ float highests[WARPS], weights[WARPS], sums[WARPS][D];
if (lane == 0) {
  highests[warp] = highest;
  weights[warp] = weight;
}
for (int i = 0; i < E; i++) sums[warp][lane * E + i] = sum[i];
__syncthreads();
if (threadIdx.x < D) {
  for (int w = 0; w < WARPS; w++) highest = fmaxf(highest, highests[w]);
  float all = 0.0f, value = 0.0f;
  for (int w = 0; w < WARPS; w++) {
    const float share = __expf(highests[w] - highest);
    all += weights[w] * share;
    value += sums[w][threadIdx.x] * share;
  }
  out[(row * gridDim.x + head) * D + threadIdx.x] = static_cast<T>(value / all);
}
"""


def install() -> None:
    """Give masked decoding of all models that are imported from now on to the kernel."""
    lean.install()
    from mlx_lm.models import base

    upstream = base.scaled_dot_product_attention

    @wraps(upstream)
    def attention(
        queries: Any, keys: Any, values: Any, cache: Any, scale: float, mask: Any, sinks: Any = None
    ) -> Any:
        if sinks is None and takes(queries, keys, values, mask):
            return decode(queries, keys, values, scale, mask)
        return upstream(queries, keys, values, cache, scale, mask, sinks)

    base.scaled_dot_product_attention = attention


def takes(queries: Any, keys: Any, values: Any, mask: Any) -> bool:
    """Whether `decode` can compute this attention; looks at shapes and types only."""
    import mlx.core as mx

    if not isinstance(mask, mx.array) or not isinstance(keys, mx.array):  # quantised keys: a tuple
        return False
    if queries.ndim != 4 or mask.ndim != 4 or mask.dtype != mx.bool_:
        return False
    rows, heads, steps, head = queries.shape
    return (
        steps == 1
        and head % _LANES == 0
        and head <= _LARGEST_HEAD
        and keys.shape == values.shape
        and keys.shape[0] == rows
        and heads % keys.shape[1] == 0
        and mask.shape == (rows, 1, 1, keys.shape[2])
        and queries.dtype == keys.dtype == values.dtype
        and queries.dtype in (mx.bfloat16, mx.float16, mx.float32)
    )


def decode(
    queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: mx.array
) -> mx.array:
    """Softmax attention, lazy; float32 inside.

    Args:
        queries: `[B, H, 1, D]`.
        keys: `[B, K, T, D]`; H is a multiple of K. Any strides.
        values: as the keys.
        mask: `[B, 1, 1, T]`, bool: what may be attended to; at least one key of each row.

    Returns:
        `[B, H, 1, D]`, of the queries' type.
    """
    rows, heads, _, head = queries.shape
    kernel = _kernel()
    (out,) = kernel(
        inputs=[queries, keys, values, mask, _constant(scale)],
        template=[
            ("T", queries.dtype),
            ("D", head),
            ("GROUP", heads // keys.shape[1]),
            ("WARPS", _WARPS),
        ],
        grid=(heads * _WARPS * _LANES, rows, 1),
        threadgroup=(_WARPS * _LANES, 1, 1),
        output_shapes=[queries.shape],
        output_dtypes=[queries.dtype],
    )
    result: mx.array = out
    return result


@cache
def _kernel() -> Any:
    import mlx.core as mx

    return mx.fast.cuda_kernel(
        name="masked_decode",
        input_names=["queries", "keys", "values", "mask", "scale"],
        output_names=["out"],
        source=_SOURCE,
        ensure_row_contiguous=False,
    )


@cache
def _constant(value: float) -> mx.array:
    import mlx.core as mx

    return mx.array([value], dtype=mx.float32)
