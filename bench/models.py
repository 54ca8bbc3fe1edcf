"""Random Llama models, made for the bench: every contender can load them, and none ends early.

Run as a process of its own, so that the bench itself never imports MLX. The rows of the output
matrix that belong to the end token, the letters and the syllables are zero: among thousands of
random logits the largest is above zero, so a greedy text is made of words, and its length is what
was asked for. A folder that is there already, with the same settings, is used again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.words import END, FIRST_WORD, SPECIAL, TEMPLATE, tokenizer_json

CONTEXT = 16384


@dataclass(frozen=True)
class Shape:
    """What a model is made of.

    Attributes:
        bits: 4 or 8 for a quantised model, 0 for one that is not.
    """

    hidden: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    intermediate: int = 768
    vocabulary: int = 8192
    dtype: str = "float32"
    bits: int = 0
    seed: int = 0

    def __str__(self) -> str:
        kind = f"{self.dtype}, {self.bits} bits" if self.bits else self.dtype
        return (
            f"Llama, random weights: hidden {self.hidden}, {self.layers} layers, {self.heads} heads"
            f" ({self.kv_heads} of KV) of {self.head_dim}, intermediate {self.intermediate},"
            f" vocabulary {self.vocabulary}, {kind}"
        )


def make_model(folder: Path, shape: Shape) -> Path:
    """Make the folder unless it is there; its path."""
    if not (folder / "shape.json").exists() or (
        json.loads((folder / "shape.json").read_text()) != asdict(shape)
    ):
        subprocess.run(
            [sys.executable, "-m", "bench.models", str(folder), json.dumps(asdict(shape))],
            check=True,
            timeout=300,
        )
    return folder


def _make(folder: Path, shape: Shape) -> None:
    import mlx.core as mx
    from mlx import nn
    from mlx.utils import tree_flatten, tree_map
    from mlx_lm.models import llama

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shape.json").unlink(missing_ok=True)
    config = {
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.intermediate,
        "vocab_size": shape.vocabulary,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
        "torch_dtype": shape.dtype,
        "eos_token_id": END,
    }
    mx.random.seed(shape.seed)
    model = llama.Model(llama.ModelArgs.from_dict(config))
    head = model.lm_head.weight
    model.lm_head.weight = mx.where(mx.arange(head.shape[0])[:, None] < FIRST_WORD, 0.0, head)
    dtype = getattr(mx, shape.dtype)
    model.update(tree_map(lambda array: array.astype(dtype), model.parameters()))
    if shape.bits:
        config["quantization"] = {"group_size": 64, "bits": shape.bits}
        nn.quantize(model, group_size=64, bits=shape.bits)  # type: ignore[attr-defined]
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(shape.vocabulary)))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": SPECIAL[END],
                "chat_template": TEMPLATE,
                "clean_up_tokenization_spaces": False,
            }
        )
    )
    (folder / "shape.json").write_text(json.dumps(asdict(shape)))


if __name__ == "__main__":
    _make(Path(sys.argv[1]), Shape(**json.loads(sys.argv[2])))
