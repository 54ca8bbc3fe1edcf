"""Copies of the embedded model in folders of their own: the same files for every contender.

Two things are changed. The weights are float32, the fast type on a CPU: the engine widens its own
`pico` there, and its peers would have to compute in float16, which says nothing about them. And the
end of a text is a token that the model was never taught, so a stream has the length that was asked
for without an option that only some contenders have.

Run as a process of its own, so that the bench itself never imports MLX.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

PICO = Path(__file__).resolve().parent.parent / "mlx_stdio" / "pico"
_END, _END_NAME = 4, "<|fim_pad|>"
_WEIGHTS = "model.safetensors"


def make_copies(folder: Path, count: int) -> list[Path]:
    """That many folders. Made anew: the model may have changed since the last run."""
    copies = [folder / f"pico-{number + 1}" for number in range(count)]
    for copy in copies:
        shutil.rmtree(copy, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "bench.copies", str(copies[0])], check=True, timeout=120)
    for copy in copies[1:]:
        shutil.copytree(copies[0], copy)
    return copies


def _make(folder: Path) -> None:
    import mlx.core as mx

    folder.mkdir(parents=True)
    for file in PICO.iterdir():
        if file.is_file() and file.name != _WEIGHTS:
            shutil.copyfile(file, folder / file.name)
    weights = mx.load(str(PICO / _WEIGHTS))
    assert isinstance(weights, dict)
    widened = {name: array.astype(mx.float32) for name, array in weights.items()}
    mx.save_safetensors(str(folder / _WEIGHTS), widened, {"format": "mlx"})
    _set(folder / "config.json", eos_token_id=_END, torch_dtype="float32")
    _set(folder / "generation_config.json", eos_token_id=_END)
    _set(folder / "tokenizer_config.json", eos_token=_END_NAME)


def _set(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


if __name__ == "__main__":
    _make(Path(sys.argv[1]))
