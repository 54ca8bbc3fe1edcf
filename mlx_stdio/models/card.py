"""What a model folder says of itself before any weight is read: its card.

Reading a card is cheap and does not touch MLX, so a request with a token beyond the vocabulary or
a prompt beyond the context is refused before anything is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import Struct, field

from mlx_stdio.models.shards import broken, read_json, read_shards

_CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
    "model_max_length",
)


class Card(Struct, frozen=True):
    """A model's vital figures.

    Attributes:
        id: the canonical id that the catalogue gave.
        context_length: tokens, or None for a model that sets no bound (a recurrent one).
        vocabulary_size: rows of the logits, or None where only the weights tell.
        eos_ids: tokens that end a text, by `generation_config.json`, else `config.json`.
        disk_bytes: size of the weight files.
        generation: the model's own `generation_config.json`, or an empty object.
        growth: bytes that the weights take in memory beyond `disk_bytes`.
        files: how many weight files there are.
        code: the file in the folder that holds the model's own code, if it has any.
    """

    id: str
    path: Path
    model_type: str
    context_length: int | None
    vocabulary_size: int | None
    eos_ids: frozenset[int]
    disk_bytes: int
    generation: dict[str, Any] = field(default_factory=dict)
    growth: int = 0
    files: int = 1
    code: str | None = None


def read_card(model_id: str, folder: Path) -> Card:
    """Read a folder's card and check that its weight files are whole.

    Raises:
        EngineError: `modelLoadFailed`, saying which file is missing or broken.
    """
    config = read_json(model_id, folder / "config.json")
    code = config.get("model_file")
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        if code is None:
            raise broken(model_id, "config.json has no `model_type`")
        model_type = "custom"  # nobody else asks what the folder's own code makes
    generation_file = folder / "generation_config.json"
    generation = read_json(model_id, generation_file) if generation_file.is_file() else {}
    shards = read_shards(model_id, folder)
    eos = _ids(generation.get("eos_token_id"))
    return Card(
        id=model_id,
        path=folder,
        model_type=model_type,
        context_length=_positive(_config_value(config, _CONTEXT_KEYS)),
        vocabulary_size=_positive(_config_value(config, ("vocab_size",))),
        eos_ids=frozenset(eos or _ids(_config_value(config, ("eos_token_id",)))),
        disk_bytes=shards.disk_bytes,
        generation=generation,
        growth=shards.growth,
        files=shards.count,
        code=None if code is None else str(code),
    )


def _config_value(config: dict[str, Any], keys: tuple[str, ...]) -> Any:
    for scope in (config, config.get("text_config")):
        if isinstance(scope, dict):
            for key in keys:
                if scope.get(key) is not None:
                    return scope[key]
    return None


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [v for v in values if isinstance(v, int) and v >= 0]
