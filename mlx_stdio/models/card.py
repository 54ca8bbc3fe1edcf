"""What a model folder says of itself before any weight is read: its card.

Reading a card is cheap and does not touch MLX, so a request with a token beyond the vocabulary or
a prompt beyond the context is refused before anything is loaded.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from mlx_stdio.errors import EngineError

_CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
    "model_max_length",
)


@dataclass(frozen=True, slots=True)
class Card:
    """A model's vital figures.

    Attributes:
        id: the canonical id that the catalogue gave.
        context_length: tokens, or None for a model that sets no bound (a recurrent one).
        vocabulary_size: rows of the logits, or None where only the weights tell.
        eos_ids: tokens that end a text, by `generation_config.json`, else `config.json`.
        disk_bytes: size of the weight files.
        generation: the model's own `generation_config.json`, or an empty object.
    """

    id: str
    path: Path
    model_type: str
    context_length: int | None
    vocabulary_size: int | None
    eos_ids: frozenset[int]
    disk_bytes: int
    generation: dict[str, Any] = field(default_factory=dict)


def read_card(model_id: str, folder: Path) -> Card:
    """Read a folder's card and check that its weight files are whole.

    Raises:
        EngineError: `modelLoadFailed`, saying which file is missing or broken.
    """
    config = _json(model_id, folder / "config.json")
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise _broken(model_id, "config.json has no `model_type`")
    generation_file = folder / "generation_config.json"
    generation = _json(model_id, generation_file) if generation_file.is_file() else {}
    weights = sorted(folder.glob("model*.safetensors"))
    if not weights:
        raise _broken(model_id, f"no model*.safetensors in {folder}")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        listed = _json(model_id, index).get("weight_map")
        if not isinstance(listed, dict):
            raise _broken(model_id, f"{index.name} has no `weight_map`")
        if missing := {str(name) for name in listed.values()} - {file.name for file in weights}:
            raise _broken(model_id, f"{min(missing)} is listed in the index and missing")
    for file in weights:
        _check_whole(model_id, file)
    eos = generation.get("eos_token_id")
    if eos is None:
        eos = _config_value(config, ("eos_token_id",))
    return Card(
        id=model_id,
        path=folder,
        model_type=model_type,
        context_length=_positive(_config_value(config, _CONTEXT_KEYS)),
        vocabulary_size=_positive(_config_value(config, ("vocab_size",))),
        eos_ids=frozenset(_ids(eos)),
        disk_bytes=sum(file.stat().st_size for file in weights),
        generation=generation,
    )


def _json(model_id: str, file: Path) -> dict[str, Any]:
    try:
        _check_regular(model_id, file)
        value = orjson.loads(file.read_bytes())
    except FileNotFoundError:
        raise _broken(model_id, f"{file.name} is missing in {file.parent}") from None
    except OSError as error:
        raise _broken(model_id, f"{file.name}: {error.strerror}") from None
    except orjson.JSONDecodeError as error:
        # Python's own reader takes `Infinity` and `NaN`, which some configs hold.
        import json

        try:
            value = json.loads(file.read_bytes())
        except (ValueError, RecursionError):
            raise _broken(model_id, f"{file.name} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise _broken(model_id, f"{file.name} is not an object")
    return value


def _check_regular(model_id: str, file: Path) -> None:
    """Reading a pipe or a device may never come to an end."""
    if file.exists() and not file.is_file():
        raise _broken(model_id, f"{file.name} is not a file")


def _check_whole(model_id: str, file: Path) -> None:
    """A safetensors file states its own length: 8 bytes, a JSON header, and offsets into the rest.

    MLX reads lazily and would find a truncated file only in the middle of its work.
    """
    try:
        _check_regular(model_id, file)
        size = file.stat().st_size
        with file.open("rb") as stream:
            (header_size,) = struct.unpack("<Q", stream.read(8))
            if header_size > size:
                raise ValueError("its header is cut off")
            header = orjson.loads(stream.read(header_size))
        ends = [
            int(row["data_offsets"][1]) for name, row in header.items() if name != "__metadata__"
        ]
    except (
        OSError,
        struct.error,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
    ) as error:
        raise _broken(model_id, f"{file.name} is no safetensors file: {error}") from None
    if size < 8 + header_size + max(ends, default=0):
        raise _broken(model_id, f"{file.name} is truncated at {size} bytes")


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


def _broken(model_id: str, message: str) -> EngineError:
    return EngineError("modelLoadFailed", message, model=model_id)
