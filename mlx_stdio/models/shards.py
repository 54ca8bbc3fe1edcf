"""The weight files of a model's folder: whether they are whole, and what they will take in memory.

Rules it keeps:
- the files are those that `mlx_lm` reads, `model*.safetensors`; whatever else an index names is
  none of ours;
- no byte of a tensor is read: a safetensors file says in its header what it holds.
"""

from __future__ import annotations

import struct
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import orjson
from msgspec import Struct

from mlx_stdio.errors import EngineError

_PATTERN = "model*.safetensors"
_INDEX = "model.safetensors.index.json"
_FLOATS = {"F32", "F16", "BF16"}


class Shards(Struct, frozen=True):
    """What a folder's weight files come to.

    Attributes:
        count: of the files.
        disk_bytes: their size.
        growth: bytes that the weights take beyond that, once `mlx_lm` has converted them.
    """

    count: int
    disk_bytes: int
    growth: int


class _Tensor(Struct, frozen=True):
    dtype: str
    bytes: int


def read_shards(model_id: str, folder: Path) -> Shards:
    """Look at a folder's weight files.

    Raises:
        EngineError: `modelLoadFailed`, saying which file is missing or broken.
    """
    files = sorted(folder.glob(_PATTERN))
    if not files:
        raise broken(model_id, f"no {_PATTERN} in {folder}")
    tensors: dict[str, _Tensor] = {}
    for file in files:
        tensors.update(_header(model_id, file))
    if (folder / _INDEX).is_file():
        _check_index(model_id, folder, {file.name for file in files}, tensors)
    disk_bytes = sum(file.stat().st_size for file in files)
    return Shards(len(files), disk_bytes, _growth(tensors))


def _check_index(
    model_id: str, folder: Path, present: set[str], tensors: dict[str, _Tensor]
) -> None:
    """Is a shard missing? `mlx_lm` never looks at the index, and would name tensors only."""
    listed = read_json(model_id, folder / _INDEX).get("weight_map")
    if not isinstance(listed, dict):
        raise broken(model_id, f"{_INDEX} has no `weight_map`")
    names = {str(name) for name in listed.values()}
    if present.isdisjoint(names):
        return  # the index of what this was converted from, copied with the other JSON files
    missing = {name for name in names - present if fnmatchcase(name, _PATTERN)}
    lost = {str(file) for tensor, file in listed.items() if tensor not in tensors} & missing
    if lost:
        raise broken(model_id, f"{min(lost)} is listed in the index and missing")


def _header(model_id: str, file: Path) -> dict[str, _Tensor]:
    """The tensors of one file, which must be as long as they say.

    MLX reads lazily and would find a truncated file only in the middle of its work.
    """
    try:
        check_regular(model_id, file)
        size = file.stat().st_size
        with file.open("rb") as stream:
            (header_size,) = struct.unpack("<Q", stream.read(8))
            if header_size > size:
                raise ValueError("its header is cut off")
            header = orjson.loads(stream.read(header_size))
        tensors: dict[str, _Tensor] = {}
        end = 0
        for name, row in header.items():
            if name != "__metadata__":
                first, last = map(int, row["data_offsets"])
                tensors[name] = _Tensor(str(row["dtype"]), last - first)
                end = max(end, last)
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise broken(model_id, f"{file.name} is no safetensors file: {error}") from None
    if size < 8 + header_size + end:
        raise broken(model_id, f"{file.name} is truncated at {size} bytes")
    return tensors


def _growth(tensors: dict[str, _Tensor]) -> int:
    """What conversion adds. The names tell; a config may call the same thing by several names."""
    nothing = _Tensor("", 0)
    grown = 0
    for name, tensor in tensors.items():
        if name.endswith(".qweight"):
            # AWQ, GPTQ: a bias as large as the scale in the place of four bits of zero.
            prefix = name.removesuffix("qweight")
            grown += tensors.get(f"{prefix}scales", nothing).bytes
            grown -= tensors.get(f"{prefix}qzeros", nothing).bytes
        elif name.endswith("_scale_inv") and tensor.dtype in _FLOATS:
            # fp8 with scales that MLX has no mode for becomes bfloat16.
            weight = tensors.get(name.removesuffix("_scale_inv"), nothing)
            if weight.dtype == "F8_E4M3":
                grown += weight.bytes - tensor.bytes
        elif name.endswith("weight_shape"):
            # compressed-tensors in 4 bits: a bias as well.
            scale = tensors.get(name.removesuffix("shape") + "scale", nothing)
            grown += (scale.bytes if scale.dtype in _FLOATS else 0) - tensor.bytes
    return grown


def read_json(model_id: str, file: Path) -> dict[str, Any]:
    """A file that holds one JSON object.

    Raises:
        EngineError: `modelLoadFailed`.
    """
    try:
        check_regular(model_id, file)
        value = orjson.loads(file.read_bytes())
    except FileNotFoundError:
        raise broken(model_id, f"{file.name} is missing in {file.parent}") from None
    except OSError as error:
        raise broken(model_id, f"{file.name}: {error.strerror}") from None
    except orjson.JSONDecodeError as error:
        # Python's own reader takes `Infinity` and `NaN`, which some configs hold.
        import json

        try:
            value = json.loads(file.read_bytes())
        except (ValueError, RecursionError):
            raise broken(model_id, f"{file.name} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise broken(model_id, f"{file.name} is not an object")
    return value


def check_regular(model_id: str, file: Path) -> None:
    """Reading a pipe or a device may never come to an end.

    Raises:
        EngineError: `modelLoadFailed`.
    """
    if file.exists() and not file.is_file():
        raise broken(model_id, f"{file.name} is not a file")


def broken(model_id: str, message: str) -> EngineError:
    """What is wrong with a folder."""
    return EngineError("modelLoadFailed", message, model=model_id)
