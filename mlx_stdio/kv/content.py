"""Which model a KV on disk belongs to: by what its folder holds, not by where it lies."""

from __future__ import annotations

import hashlib
from importlib.metadata import version

from mlx_stdio.models.card import Card

FORMAT = 1
"""Of our files; a new number makes the old ones unknown, and they age out."""

_ENDS = 64 * 1024  # bytes of a shard at either end that are looked at


def model_key(card: Card) -> str:
    """64 hex digits; another model, other weights, another `mlx_lm` or format have another key.

    Weights are told apart by name, size, time of change and both ends: reading all of them would
    take as long as loading them.

    Raises:
        OSError: a file of the folder cannot be read.
    """
    digest = hashlib.sha256(f"{FORMAT} {version('mlx-lm')}\n".encode())
    config = (card.path / "config.json").read_bytes()
    digest.update(f"{len(config)}\n".encode() + config)
    for file in sorted(card.path.glob("model*.safetensors")):
        with file.open("rb") as stream:
            status = file.stat()
            name = file.name.encode(errors="surrogateescape")
            digest.update(name + f"\0{status.st_size} {status.st_mtime_ns}\n".encode())
            digest.update(stream.read(_ENDS))
            stream.seek(max(0, status.st_size - _ENDS))
            digest.update(stream.read(_ENDS))
    return digest.hexdigest()
