"""What this device cannot compute, found out before a model's weights are read.

`mlx_lm` loads models that MLX has no kernel for, and MLX says so at the first prompt: when the
graph is built, or, on a CPU, only when it is run. A host that loads such a model should hear it
then, not with every request, and gigabytes should not be read for it. A model is refused only for
what was tried and did not work, on a few numbers.
"""

from __future__ import annotations

from typing import Any

from mlx_stdio.kv.geometry import Geometry, run_lazily

_ROWS = 2
"""Of one row there is always a product: what is missing is missing for prompts."""
_DIMS = 32


def check(model: Any, geometry: Geometry) -> None:
    """Try what may be missing.

    Args:
        geometry: the model's; it is known if a graph could be built.

    Raises:
        Exception: whatever MLX or the model's code raises.
    """
    import mlx.core as mx

    if not geometry.known:
        _build(model)
    if mx.default_device() != mx.cpu:
        return
    # By name: the classes are not worth an import for models that have no such layer.
    layers = {type(layer).__name__: layer for layer in model.modules()}
    if "SwitchLinear" in layers:
        for dtype in _types_of_experts(model):
            x, weight = mx.zeros((_ROWS, 1, _DIMS), dtype), mx.zeros((_ROWS, _DIMS, _DIMS), dtype)
            mx.eval(mx.gather_mm(x, weight, rhs_indices=mx.arange(_ROWS)))
    if "QQLinear" in layers:
        mode = layers["QQLinear"].mode
        packed, scales, *_ = mx.quantize(mx.zeros((_DIMS, _DIMS)), mode=mode)
        mx.eval(mx.qqmm(mx.zeros((_ROWS, _DIMS)), packed, scales, mode=mode))


def _build(model: Any) -> None:
    from mlx_lm.models.cache import make_prompt_cache

    run_lazily(model, make_prompt_cache(model), (1,))


def _types_of_experts(model: Any) -> set[Any]:
    """The types in which a model's experts compute; what reaches them may be wider than they."""
    import mlx.core as mx

    types: set[Any] = set()
    product = mx.gather_mm

    def noting(*arguments: Any, **options: Any) -> Any:
        result = product(*arguments, **options)
        types.add(result.dtype)
        return result

    mx.gather_mm = noting
    try:
        _build(model)
    finally:
        mx.gather_mm = product
    return types
