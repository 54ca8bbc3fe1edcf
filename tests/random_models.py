"""Small random models of several architectures, made with `mlx_lm.models` in another process.

The tests' process never imports MLX: what it knows of a model it learns from the engine or from
`python -m tests.random_models`, which runs `mlx_lm` as its users do.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.host import run_python

_COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 2048,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "eos_token_id": 0,
}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    # dense
    "llama": {},
    "qwen3": {"head_dim": 16},
    "gpt_neox": {
        "rotary_pct": 0.25,
        "rotary_emb_base": 10000,
        "layer_norm_eps": 1e-5,
        "use_parallel_residual": True,
    },
    # mixture of experts
    "qwen3_moe": {
        "head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": 64,
        "norm_topk_prob": True,
    },
    # sliding window (rotating caches), shorter than the tests' prompts
    "gemma3_text": {
        "head_dim": 16,
        "num_hidden_layers": 6,
        "sliding_window": 16,
        "sliding_window_pattern": 3,
        "query_pre_attn_scalar": 16,
        "rope_local_base_freq": 10000.0,
    },
    # recurrent: no KV at all
    "mamba2": {
        "num_heads": 4,
        "head_dim": 32,
        "state_size": 16,
        "conv_kernel": 4,
        "expand": 2,
        "n_groups": 1,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_limit": [0.0, 1e9],
        "time_step_rank": "auto",
        "chunk_size": 64,
        "residual_in_fp32": True,
        "layer_norm_epsilon": 1e-5,
    },
    # hybrid: attention and gated delta rule
    "qwen3_next": {
        "head_dim": 16,
        "num_hidden_layers": 4,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "linear_conv_kernel_dim": 4,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "shared_expert_intermediate_size": 64,
        "mlp_only_layers": [],
        "moe_intermediate_size": 64,
        "norm_topk_prob": True,
        "full_attention_interval": 2,
        "partial_rotary_factor": 0.25,
    },
    # latent attention
    "deepseek_v2": {
        "moe_intermediate_size": 64,
        "n_shared_experts": 1,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "kv_lora_rank": 16,
        "q_lora_rank": 24,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
        "first_k_dense_replace": 1,
        "topk_group": 1,
        "n_group": 1,
        "num_key_value_heads": 4,
        "rope_scaling": {
            "type": "yarn",
            "factor": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 2048,
        },
    },
}

TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'forbidden' %}{{ raise_exception('no such role') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|fim_prefix|>",
    "<|fim_suffix|>",
    "<|fim_middle|>",
)


def make_model(folder: Path, architecture: str, *, seed: int = 0, **config: Any) -> Path:
    """Make a model folder.

    Args:
        config: members of `config.json` beside the architecture's own.
    """
    _run("make", {"folder": str(folder), "type": architecture, "seed": seed, "config": config})
    return folder


def reference(folder: Path, prompts: list[Any], max_tokens: int) -> list[dict[str, Any]]:
    """What `mlx_lm.stream_generate` makes of each prompt, greedily: `tokens`, `text`, `reason`."""
    rows: list[dict[str, Any]] = _run(
        "reference", {"folder": str(folder), "prompts": prompts, "max_tokens": max_tokens}
    )
    return rows


def _run(command: str, arguments: dict[str, Any]) -> Any:
    return run_python("-m", "tests.random_models", command, data=json.dumps(arguments))


def _make(folder: str, type: str, seed: int, config: dict[str, Any]) -> None:  # noqa: A002
    import importlib

    import mlx.core as mx
    from mlx.utils import tree_flatten
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    out = Path(folder)
    out.mkdir(parents=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # Every byte is a word, so a random model emits broken and whole characters alike.
    tokenizer.train_from_iterator(
        ["def add(a, b):\n    return a + b\n" * 20, "the quick brown fox " * 20, "你好 🎉 é" * 20],
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.save(str(out / "tokenizer.json"))
    merged = {
        "model_type": type,
        "vocab_size": tokenizer.get_vocab_size(),
        **_COMMON,
        **ARCHITECTURES[type],
        **config,
    }
    module = importlib.import_module(f"mlx_lm.models.{type}")
    mx.random.seed(seed)
    model = module.Model(module.ModelArgs.from_dict(merged))
    flat: list[Any] = tree_flatten(model.parameters())  # type: ignore[assignment]
    weights = {
        # Larger than the default initialisation: logits far apart, so that no two are equal.
        name: value * 2 if value.ndim == 2 else value
        for name, value in flat
    }
    mx.save_safetensors(str(out / "model.safetensors"), weights, {"format": "mlx"})
    (out / "config.json").write_text(json.dumps(merged))
    (out / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": SPECIAL[0],
                "chat_template": TEMPLATE,
                "clean_up_tokenization_spaces": False,
            }
        )
    )


def _reference(folder: str, prompts: list[Any], max_tokens: int) -> list[dict[str, Any]]:
    from mlx_lm import load, stream_generate

    model, tokenizer = load(folder)[:2]
    rows: list[dict[str, Any]] = []
    for prompt in prompts:
        tokens: list[int] = []
        text = ""
        reason = None
        for response in stream_generate(model, tokenizer, prompt, max_tokens=max_tokens):
            tokens.append(int(response.token))
            text += response.text
            reason = response.finish_reason
        rows.append({"tokens": tokens, "text": text, "reason": reason})
    return rows


if __name__ == "__main__":
    functions: dict[str, Any] = {"make": _make, "reference": _reference}
    print(json.dumps(functions[sys.argv[1]](**json.loads(sys.stdin.read()))))
