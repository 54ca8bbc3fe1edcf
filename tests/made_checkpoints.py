"""Small random checkpoints in every form that `mlx_lm` itself writes, and what it makes of each.

`python -m tests.made_checkpoints FOLDER [NAME …]` makes a folder for each form, loads it with the
real `mlx_lm` and keeps its logits in `FOLDER/logits.safetensors`; it prints a `Fact` of each.
`tests/foreign_checkpoints.py` has the forms that others write and `mlx_lm` converts.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

from mlx_stdio.models.card import read_card
from mlx_stdio.models.loader import Weights, load_steps
from tests.host import run_python

PROMPT = [7, 8, 9, 300, 12, 40, 41]
MAX_TOKENS = 12

SIZES: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}


class Fact(TypedDict):
    """What `mlx_lm` says of a checkpoint.

    Attributes:
        bytes: of all parameters.
        rows: of the token embedding.
        tokens: its greedy answer to `PROMPT`.
        error: why it cannot be run here, or None.
    """

    bytes: int
    rows: int
    tokens: list[int]
    error: str | None


def make_all(folder: Path, wanted: list[str]) -> dict[str, Fact]:
    """Make every form, or those that are wanted, and a fact of each."""
    import mlx.core as mx

    from tests import foreign_checkpoints
    from tests.random_models import _make

    own = folder / "checkpoints"
    for name, architecture, config in (
        ("llama", "llama", {}),
        ("tied", "llama", {"tie_word_embeddings": True}),
        ("moe", "qwen3_moe", {"moe_intermediate_size": 64}),
    ):
        _make(str(folder / "bases" / name), architecture, 5, {**SIZES, **config})
    known = {**forms(), **foreign_checkpoints.forms()}
    for name in wanted or known:
        mx.random.seed(7)
        known[name](folder / "bases", own / name)
    logits: dict[str, Any] = {}
    facts: dict[str, Fact] = {}
    for made in sorted(own.iterdir()):
        facts[made.name] = _fact(made, logits)
    mx.save_safetensors(str(folder / "logits.safetensors"), logits)
    return facts


def forms() -> dict[str, Callable[[Path, Path], None]]:
    """By name: makes a form from the bases, in a folder that is not there yet."""
    made: dict[str, Callable[[Path, Path], None]] = {}
    for dtype in ("float32", "float16", "bfloat16"):
        made[f"plain-{dtype}"] = _form(dtype=dtype)
        made[f"affine-4-{dtype}"] = _form(dtype=dtype, bits=4)
    for bits in (2, 3, 4, 5, 6, 8):
        for group in (32, 64, 128):
            made[f"affine-{bits}-{group}"] = _form(bits=bits, group_size=group)
    for mode in ("mxfp4", "mxfp8", "nvfp4"):
        made[mode] = _form(mode=mode)
        made[f"{mode}-tied"] = _form("tied", mode=mode)
        made[f"{mode}-experts"] = _form("moe", mode=mode)
    return made | {
        "tied": _form("tied"),
        "affine-tied": _form("tied", bits=4),
        "affine-experts": _form("moe", bits=4),
        "experts-float32": _form("moe", dtype="float32"),
        "experts-bfloat16": _form("moe"),
        "nvfp4-global-scales": _form("moe", mode="nvfp4", global_scale=True),
        "mixed-bits": _form(predicate=_mixed_bits),
        "mixed-modes": _form(predicate=_mixed_modes),
        "in-part": _form(predicate=lambda path, _: "mlp" in path, mode="mxfp8"),
        "shards": _form(shards=True),
        "shards-mixed": _form(predicate=_mixed_modes, shards=True),
        "activations": _activations,
    }


def _mixed_bits(path: str, _: Any) -> bool | dict[str, Any]:
    """As `mlx_lm.convert --quant-predicate mixed_3_6` does it, with a layer left out."""
    if "o_proj" in path:
        return False
    return {"group_size": 64, "bits": 6 if "v_proj" in path or "down" in path else 3}


def _mixed_modes(path: str, _: Any) -> bool | dict[str, Any]:
    if "embed" in path:
        return {"group_size": 32, "bits": 8, "mode": "affine"}
    if "down_proj" in path:
        return {"group_size": 32, "bits": 8, "mode": "mxfp8"}
    return {"group_size": 16, "bits": 4, "mode": "nvfp4"} if "mlp" in path else "norm" not in path


def _form(
    base: str = "llama",
    *,
    dtype: str = "bfloat16",
    shards: bool = False,
    predicate: Any = None,
    **options: Any,
) -> Callable[[Path, Path], None]:
    """A base in another type, quantised if there are options or a predicate."""

    def make(bases: Path, out: Path) -> None:
        import mlx.core as mx
        from mlx_lm.utils import load_model, quantize_model

        model, config = load_model(bases / base)
        model.set_dtype(getattr(mx, dtype))
        if options or predicate:
            sizes = {"group_size": None, "bits": None, **options}
            model, config = quantize_model(model, config, quant_predicate=predicate, **sizes)
        save(bases / base, out, model, config, shards=shards)

    return make


def _activations(bases: Path, out: Path) -> None:
    """Activations quantised too: `mlx_lm` makes other layers of these."""
    _form(mode="nvfp4")(bases, out)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "quantize_activations": True}))


def save(
    base: Path, out: Path, model: Any, config: dict[str, Any], *, shards: bool = False
) -> None:
    """Write a checkpoint with `mlx_lm`'s own code, and the base's tokenizer.

    Args:
        shards: a file for each tensor instead of one file for all.
    """
    from mlx_lm import utils

    defaults = utils.make_shards.__defaults__
    utils.make_shards.__defaults__ = (0,) if shards else defaults
    try:
        utils.save_model(out, model)
    finally:
        utils.make_shards.__defaults__ = defaults
    utils.save_config(config, out / "config.json")
    tokenizer_of(base, out)


def tokenizer_of(base: Path, out: Path) -> None:
    for file in base.glob("tokenizer*.json"):
        shutil.copy(file, out / file.name)


class Made:
    """A folder of forms, and what `mlx_lm` makes of each.

    Attributes:
        checkpoints: a folder for each form.
        logits: a file with what follows `PROMPT`, by the names of the forms that can be run here.
    """

    def __init__(self, folder: Path, *wanted: str) -> None:
        self.facts: dict[str, Fact] = run_python(
            "-m", "tests.made_checkpoints", str(folder), *wanted
        )
        self.checkpoints = folder / "checkpoints"
        self.logits = folder / "logits.safetensors"

    def check(self, name: str, folder: Path, mx: Any, **options: Any) -> None:
        """What the engine's loader makes of a folder is what `mlx_lm` made of this form."""
        fact = self.facts[name]
        weights = load(folder, **options)
        assert (weights.bytes, weights.vocabulary_size) == (fact["bytes"], fact["rows"])
        logits = weights.model(mx.array([PROMPT]))
        expected = mx.load(str(self.logits))[name]
        assert mx.isfinite(expected).all().item()
        assert logits.dtype == expected.dtype
        assert mx.array_equal(logits, expected).item()


def load(folder: Path, *, trust_remote_code: bool = False) -> Weights:
    """Load with the engine's loader."""
    *_, weights = load_steps(read_card(folder.name, folder), trust_remote_code=trust_remote_code)
    assert isinstance(weights, Weights)
    return weights


def _fact(made: Path, logits: dict[str, Any]) -> Fact:
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.generate import generate_step
    from mlx_lm.utils import load_model

    model, _ = load_model(made)
    parameters: Any = tree_flatten(model.parameters())
    rows = [m.weight.shape[0] for _, m in model.named_modules() if "Embedding" in type(m).__name__]
    fact = Fact(
        bytes=sum(value.nbytes for _, value in parameters), rows=max(rows), tokens=[], error=None
    )
    try:
        logits[made.name] = model(mx.array([PROMPT]))
        mx.eval(logits)
        answer = generate_step(mx.array(PROMPT), model, max_tokens=MAX_TOKENS)
        fact["tokens"] = [int(token) for token, _ in answer]
    except (RuntimeError, ValueError) as error:
        logits.pop(made.name, None)
        fact["error"] = str(error)
    return fact


if __name__ == "__main__":
    print(json.dumps(make_all(Path(sys.argv[1]), sys.argv[2:])))
