"""Writes the model folder in the Hugging Face layout (float16 safetensors)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from tools.pico.model import Llama
from tools.pico.tokenizer import END_OF_TEXT, IM_END


def save_model(model: Llama, folder: Path) -> None:
    """Write weights and configuration beside the tokenizer that lies in the folder already."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ends = [tokenizer.token_to_id(END_OF_TEXT), tokenizer.token_to_id(IM_END)]
    padding = tokenizer.token_to_id("<|fim_pad|>")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **dataclasses.asdict(model.shape),
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": ends[0],
        "eos_token_id": ends,
        "pad_token_id": padding,
        "torch_dtype": "float16",
    }
    generation = {
        "bos_token_id": ends[0],
        "eos_token_id": ends,
        "pad_token_id": padding,
        "do_sample": False,
        "temperature": 0.0,
    }
    weights = {n: p.detach().to("cpu", torch.float16) for n, p in model.named_parameters()}
    if not all(torch.isfinite(w).all() for w in weights.values()):
        raise ValueError("a weight does not fit float16")
    weights = {name: weight.contiguous() for name, weight in sorted(weights.items())}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
