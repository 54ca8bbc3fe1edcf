"""A cache as the bytes of a safetensors file, and back.

The arrays are the file's tensors. All else is in the header's `__metadata__`: the classes and their
states as JSON, with `{"array": n}` where an array was. What is read is not trusted: only classes of
`_CLASSES` are made, and every offence is a `ValueError`.

Source: the safetensors format (8 bytes of header length, a JSON header, the data); the states are
those of `mlx_lm.models.cache`, whose own loader makes any class that a file names.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import orjson

from mlx_stdio.kv import layers
from mlx_stdio.kv.kinds import is_list

if TYPE_CHECKING:
    import mlx.core as mx

MAX_HEADER = 64 << 20

_CLASSES = frozenset(
    {
        "KVCache",
        "QuantizedKVCache",
        "RotatingKVCache",
        "ChunkedKVCache",
        "ConcatenateKVCache",
        "ArraysCache",
    }
)
_TYPES = {
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "U8": "uint8",
    "U32": "uint32",
    "I32": "int32",
    "I64": "int64",
    "BOOL": "bool_",
}


def storable(cache: list[Any]) -> bool:
    """Whether all classes of a cache can be written."""
    return all(
        storable(list(layer.caches))
        if is_list(layer)
        else type(layer).__name__ in _CLASSES and type(layer).__module__ == "mlx_lm.models.cache"
        for layer in cache
    )


def encode(cache: list[Any], metadata: dict[str, str]) -> Iterator[bytes | memoryview]:
    """The file's bytes, in pieces; the same input gives the same bytes.

    Args:
        cache: not changed. Unused rows are not written.
        metadata: further members of `__metadata__`, beside `cache`.
    """
    import mlx.core as mx

    cache = layers.compact(layers.copy(cache), exact=True)
    tensors: list[mx.array] = []
    tree = orjson.dumps([_describe(layer, tensors) for layer in cache]).decode()
    flat = [mx.contiguous(tensor).reshape(-1).view(mx.uint8) for tensor in tensors]
    mx.eval(flat)
    names = {getattr(mx, value): key for key, value in _TYPES.items()}
    header: dict[str, Any] = {"__metadata__": {**metadata, "cache": tree}}
    at = 0
    for number, tensor in enumerate(tensors):
        end = at + tensor.nbytes
        header[str(number)] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, end],
        }
        at = end
    text = orjson.dumps(header)
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text))
    yield text
    buffers: list[Any] = flat  # MLX's stubs do not say that arrays have a buffer
    for buffer in buffers:
        if buffer.size:
            yield memoryview(buffer)


def _describe(layer: Any, tensors: list[mx.array]) -> dict[str, Any]:
    name = type(layer).__name__
    if is_list(layer):
        return {"class": name, "parts": [_describe(part, tensors) for part in layer.caches]}
    return {"class": name, "state": _tree(layer.state, tensors)}


def _tree(value: Any, tensors: list[mx.array]) -> Any:
    import mlx.core as mx

    if isinstance(value, mx.array):
        tensors.append(value)
        return {"array": len(tensors) - 1}
    if isinstance(value, (list, tuple)):
        return [_tree(part, tensors) for part in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise ValueError(f"a state holds a {type(value).__name__}")


def header_size(first: bytes, size: int) -> int:
    """Bytes of the header, from a file's first eight and its size."""
    if len(first) != 8:
        raise ValueError("no header")
    (length,) = struct.unpack("<Q", first)
    if not 2 <= length <= min(size - 8, MAX_HEADER):
        raise ValueError("the header's length is impossible")
    return int(length)


def read_metadata(text: bytes) -> tuple[dict[str, str], dict[str, Any]]:
    """`__metadata__` and the table of tensors, out of a header."""
    header = orjson.loads(text)
    metadata = header.pop("__metadata__", None) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("no metadata")
    return metadata, header


def decode(blob: bytes) -> tuple[list[Any], dict[str, str]]:
    """The cache, its arrays evaluated, and the metadata.

    Raises:
        ValueError: the bytes are not those of a cache.
    """
    import mlx.core as mx

    try:
        length = header_size(blob[:8], len(blob))
        metadata, table = read_metadata(blob[8 : 8 + length])
        data = memoryview(blob)[8 + length :]
        tensors = {name: _tensor(row, data) for name, row in table.items()}
        mx.eval(list(tensors.values()))
        cache = [_make(row, tensors) for row in orjson.loads(metadata["cache"])]
    except (KeyError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"not a cache: {error!r}") from error
    return cache, metadata


def _tensor(row: dict[str, Any], data: memoryview) -> mx.array:
    import mlx.core as mx

    dtype = getattr(mx, _TYPES[row["dtype"]])
    start, end = row["data_offsets"]
    shape = row["shape"]
    if not 0 <= start <= end <= len(data):
        raise ValueError("a tensor lies beyond the end")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.size != end - start:
        raise ValueError("a tensor's shape does not fit its data")
    if start == end:
        return mx.zeros(shape, dtype)
    # Copies at once: nothing refers to the file afterwards.
    buffer: Any = data[start:end]
    return mx.array(buffer).view(dtype).reshape(shape)


def _make(row: dict[str, Any], tensors: dict[str, mx.array]) -> Any:
    from mlx_lm.models import cache as kinds

    name = row["class"]
    if name == "CacheList":
        return kinds.CacheList(*(_make(part, tensors) for part in row["parts"]))
    if name not in _CLASSES:
        raise ValueError(f"no cache class is called {name!r}")
    return getattr(kinds, name).from_state(_untree(row["state"], tensors))


def _untree(value: Any, tensors: dict[str, mx.array]) -> Any:
    if isinstance(value, dict):
        return tensors[str(value["array"])]
    if isinstance(value, list):
        return [_untree(part, tensors) for part in value]
    return value
