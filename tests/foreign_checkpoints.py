"""Checkpoints as others write them and `mlx_lm` converts while it loads: AWQ, GPTQ, fp8, …

Each has the packed tensors and the `quantization_config` of its kind. The values are random: what
counts is that two loaders make the same of them.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.made_checkpoints import SIZES, tokenizer_of

_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)

# Without experts: MLX on a CPU has no product with these in 16 bits.
_DEEPSEEK: dict[str, Any] = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "q_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
}

Tensors = dict[str, Any]


def forms() -> dict[str, Callable[[Path, Path], None]]:
    """By name: makes a form from the bases, in a folder that is not there yet."""
    made: dict[str, Callable[[Path, Path], None]] = {
        "awq": _packed("awq"),
        "awq-symmetric": _packed("awq", zeros=False),
        "awq-shards": _packed("awq", shards=3),
        "gptq": _packed("gptq"),
        "fp8-blocks": _fp8,
        "fp8-shards": lambda bases, out: _fp8(bases, out, shards=3),
        "int4-compressed": _compressed,
        "gpt-oss": _gpt_oss,
        "modelopt": _modelopt,
        "nested": _nested,
        "bitnet": _bitnet,
    }
    for method, mode, more in (
        ("mxfp4", "mxfp4", {}),
        ("mxfp8", "mxfp8", {}),
        ("fp8", "mxfp8", {"scale_fmt": "ue8m0", "weight_block_size": [32, 32]}),
        ("modelopt", "nvfp4", {"quant_algo": "NVFP4", "group_size": 16}),
        ("compressed-tensors", "nvfp4", {"format": "nvfp4-pack-quantized"}),
        ("compressed-tensors", "mxfp4", {"format": "mxfp4-pack-quantized"}),
        ("compressed-tensors", "affine", {"format": "pack-quantized"}),
    ):
        made[f"method-{method}-{mode}"] = _method(mode, {"quant_method": method, **more})
    return made


def _random(
    architecture: str, config: Tensors, dtype: str = "bfloat16"
) -> tuple[Any, Tensors, Tensors]:
    """A random model, its tensors by name and its config."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from tests.random_models import _COMMON, ARCHITECTURES

    known = ARCHITECTURES.get(architecture, {})
    merged = {"model_type": architecture, "vocab_size": 320, **_COMMON, **known, **SIZES, **config}
    module = importlib.import_module(f"mlx_lm.models.{architecture}")
    model = module.Model(module.ModelArgs.from_dict(merged))
    model.set_dtype(getattr(mx, dtype))
    return model, dict(tree_flatten(model.parameters())), merged


def _write(bases: Path, out: Path, tensors: Tensors, config: Tensors, shards: int = 1) -> None:
    """Write tensors as they are. The parts of one layer get into different shards."""
    import mlx.core as mx

    out.mkdir(parents=True)
    names = sorted(tensors)
    index: dict[str, str] = {}
    for shard in range(shards):
        file = "model.safetensors" if shards == 1 else f"model-{shard + 1}-of-{shards}.safetensors"
        mine = {name: tensors[name] for name in names[shard::shards]}
        mx.save_safetensors(str(out / file), mine, {"format": "pt"})
        index |= dict.fromkeys(mine, file)
    if shards > 1:
        (out / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (out / "config.json").write_text(json.dumps(config))
    tokenizer_of(bases / "llama", out)


def _packed(method: str, *, zeros: bool = True, shards: int = 1) -> Callable[[Path, Path], None]:
    """Four bits in the order of AutoAWQ, a column of eight outputs in each word."""

    def make(bases: Path, out: Path) -> None:
        import mlx.core as mx

        def words(*shape: int) -> Any:
            values = mx.random.randint(0, 16, (*shape, 8)).astype(mx.uint32)
            shifts = mx.array(_AWQ_ORDER, dtype=mx.uint32) * 4
            return (values << shifts).sum(axis=-1).astype(mx.uint32).view(mx.int32)

        _, tensors, config = _random("llama", {})
        tensors = {name: value.astype(mx.float16) for name, value in tensors.items()}
        for name in [name for name in tensors if name.endswith("_proj.weight")]:
            outputs, inputs = tensors.pop(name).shape
            prefix = name.removesuffix("weight")
            tensors[prefix + "qweight"] = words(inputs, outputs // 8)
            scales = mx.random.uniform(0.001, 0.02, (inputs // 64, outputs))
            tensors[prefix + "scales"] = scales.astype(mx.float16)
            if zeros:
                tensors[prefix + "qzeros"] = words(inputs // 64, outputs // 8)
        config["quantization_config"] = {"quant_method": method, "bits": 4, "group_size": 64}
        _write(bases, out, tensors, config, shards)

    return make


def _fp8(bases: Path, out: Path, shards: int = 1) -> None:
    """As DeepSeek V3 is published: bytes with a scale for each 128 x 128 of them."""
    import mlx.core as mx

    # What is not packed is in 32 bits: in 16, the greedy tokens would hang on rounding.
    _, tensors, config = _random("deepseek_v3", _DEEPSEEK, "float32")
    packed = [name for name in tensors if ".mlp.down_proj." in name or ".o_proj." in name]
    for name in packed:
        rows, columns = tensors[name].shape
        tensors[name] = mx.to_fp8(tensors[name] * 8)
        blocks = (-(-rows // 128), -(-columns // 128))
        tensors[f"{name}_scale_inv"] = mx.random.uniform(0.1, 0.2, blocks)
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    _write(bases, out, tensors, config, shards)
    for file in out.glob("*.safetensors"):
        # MLX has no type of its own for these bytes, and none to write.
        data = file.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        for name in set(packed) & set(header):
            header[name]["dtype"] = "F8_E4M3"
        head = json.dumps(header).encode()
        file.write_bytes(len(head).to_bytes(8, "little") + head + data[8 + size :])


def _compressed(bases: Path, out: Path) -> None:
    """As Kimi K2 is published: four bits without zeros, in the container `compressed-tensors`."""
    import mlx.core as mx

    _, tensors, config = _random("deepseek_v3", _DEEPSEEK)
    for name in [name for name in tensors if ".mlp.down_proj." in name]:
        rows, columns = tensors.pop(name).shape
        words = mx.random.randint(0, 2**31 - 1, (rows, columns // 8))
        tensors[f"{name}_packed"] = words.astype(mx.int32)
        scales = mx.random.uniform(0.001, 0.02, (rows, columns // 32))
        tensors[f"{name}_scale"] = scales.astype(mx.bfloat16)
        tensors[f"{name}_shape"] = mx.array([rows, columns])
    method = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
    _write(bases, out, tensors, {**config, "quantization_config": method})


def _gpt_oss(bases: Path, out: Path) -> None:
    """As gpt-oss is published: experts in blocks of mxfp4, the rest in 16 bits."""
    import mlx.core as mx

    _, tensors, config = _random("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2})
    experts = [name for name in tensors if ".experts." in name]
    prefixes = sorted({name.split("experts.")[0] + "experts." for name in experts})
    for name in experts:
        del tensors[name]
    hidden, middle = config["hidden_size"], config["intermediate_size"]
    for prefix in prefixes:
        for name, rows, columns in (
            ("gate_up_proj", 2 * middle, hidden),
            ("down_proj", hidden, middle),
        ):
            blocks = (4, rows, columns // 32)
            tensors[f"{prefix}{name}_blocks"] = mx.random.randint(0, 256, (*blocks, 16)).astype(
                mx.uint8
            )
            tensors[f"{prefix}{name}_scales"] = mx.random.randint(118, 124, blocks).astype(mx.uint8)
            tensors[f"{prefix}{name}_bias"] = mx.random.normal((4, rows)).astype(mx.bfloat16)
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    _write(bases, out, tensors, config)


def _quantised(mode: str, architecture: str = "llama", **config: Any) -> tuple[Tensors, Tensors]:
    from mlx.utils import tree_flatten

    nn: Any = importlib.import_module("mlx.nn")
    model, _, merged = _random(architecture, config)
    if mode == "affine":
        nn.quantize(model, 32, 4)
    else:
        nn.quantize(model, mode=mode)
    return dict(tree_flatten(model.parameters())), merged


def _method(mode: str, method: dict[str, Any]) -> Callable[[Path, Path], None]:
    """Only the `quantization_config` is another's; the tensors have MLX's layout already."""

    def make(bases: Path, out: Path) -> None:
        tensors, config = _quantised(mode)
        _write(bases, out, tensors, {**config, "quantization_config": method})

    return make


def _modelopt(bases: Path, out: Path) -> None:
    """NVIDIA's exporter keeps what it did in a file of its own."""
    tensors, config = _quantised("nvfp4")
    _write(bases, out, tensors, config)
    method = {"quant_method": "modelopt", "quantization": {"quant_algo": "NVFP4"}}
    (out / "hf_quant_config.json").write_text(json.dumps(method))


def _nested(bases: Path, out: Path) -> None:
    """The language model of a multimodal one, with its pictures' weights, which are dropped."""
    import mlx.core as mx

    tensors, config = _quantised("mxfp8", "gemma3_text", sliding_window_pattern=2)
    tensors = {f"language_model.{name}": value for name, value in tensors.items()}
    tensors["vision_tower.patches"] = mx.zeros((64, 64))
    text = {**config, "quantization_config": {"quant_method": "mxfp8"}}
    outer = {"model_type": "gemma3", "vocab_size": 320, "eos_token_id": 0, "text_config": text}
    _write(bases, out, tensors, outer)


def _bitnet(bases: Path, out: Path) -> None:
    """Ternary weights: `mlx_lm` has a kernel for Metal only."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models.bitlinear_layers import bitnet_quantize

    model, _, config = _random("bitnet", {})
    method = {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"]}
    model = bitnet_quantize(model, method)
    tensors = dict(tree_flatten(model.parameters()))
    for name, value in tensors.items():
        if value.dtype == mx.uint8:
            tensors[name] = mx.random.randint(0, 256, value.shape).astype(mx.uint8)
    _write(bases, out, tensors, {**config, "quantization_config": method})
