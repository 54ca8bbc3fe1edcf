"""Prefixes that outlive the process: a folder of safetensors files, bounded in bytes.

Rules it keeps:
- a file appears whole or not at all: it is written under another name, synced and renamed;
- its name holds the checksum of its bytes; whatever does not match is a miss and is deleted, if the
  name is one of ours; files with other names are not ours and are left alone;
- nothing here raises: a full disk or a missing folder is logged, and is a miss;
- other engines may use the folder at the same time: a file that has gone is a miss;
- prompts are private: the folder is made for its owner only, and so are the files.
"""

from __future__ import annotations

import base64
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from mlx_stdio.kv import codec, layers
from mlx_stdio.kv.content import model_key
from mlx_stdio.kv.files import open_regular, scan, write_whole
from mlx_stdio.kv.tokens import WIDTH, longest, pack
from mlx_stdio.log import Log

__all__ = ["DiskPrefixes", "model_key"]

_NAME = re.compile(r"kv-([0-9a-f]{24})-[0-9a-f]{8}\.safetensors")
_TEMPORARY = re.compile(r"\.kv-[0-9a-f]{16}\.tmp")


class _File(Struct, frozen=True):
    name: str
    variant: str
    tokens: bytes
    whole: bool  # only the whole of it can be used

    def trimmable(self) -> bool:
        return not self.whole


class Writing(Struct, eq=False):
    """A file to be written: the bytes are there, the name is known when it is done.

    `run` may be called on another thread: it touches no array, and nothing of the index.
    """

    disk: DiskPrefixes
    model_key: str
    variant: str
    tokens: bytes
    whole: bool
    pieces: list[bytes | memoryview]
    name: str | None = None

    def run(self) -> None:
        """Write it; a failure is logged."""
        self.name = self.disk._write(self.model_key, self.pieces)


class DiskPrefixes:
    """The folder, as far as this engine knows it. Only the engine's thread calls it, but for
    `Writing.run`.

    Args:
        folder: made when something is first saved.
        limit_bytes: what our files in it may take in all, those of every model and engine.
        log: hears of what went wrong.
    """

    def __init__(self, folder: Path, limit_bytes: int, log: Log) -> None:
        self._folder = folder
        self._limit = limit_bytes
        self._log = log
        self._index: dict[str, dict[str, _File]] = {}
        self._scanned = False
        self.bytes = 0  # of all our files, when the folder was last looked at

    def find(
        self,
        model_key: str,
        variant: str,
        tokens: Sequence[int],
        most: int,
        better_than: int,
        *,
        largest: int | None = None,
    ) -> tuple[list[Any], int] | None:
        """The longest prefix of `tokens` in the folder.

        Args:
            model_key: see the function of that name.
            variant: what else the KV depends on (quantisation, a bound).
            tokens: a prompt.
            most: tokens to reuse at most.
            better_than: tokens that are at hand already; only more are worth reading a file.
            largest: bytes of a file that may be read at most; None reads any.

        Returns:
            a cache with evaluated arrays and the number of its tokens, or None.
        """
        packed = pack(tokens)
        files = self._files(model_key)
        while True:
            same = [file for file in files.values() if file.variant == variant]
            if largest is not None:
                same = [file for file in same if self._size(file.name) <= largest]
            found = longest(reversed(same), packed, most, better_than)
            if found is None:
                return None
            file, length = found
            cache = self._load(model_key, file, length)
            if cache is not None:
                return cache, length
            del files[file.name]

    def save(self, model_key: str, variant: str, tokens: Sequence[int], cache: list[Any]) -> bool:
        """Write the KV of `tokens`, unless the folder has it.

        Args:
            model_key: as for `find`.
            variant: as for `find`.
            tokens: exactly what the cache has seen.
            cache: not changed.

        Returns:
            whether the folder has it now.
        """
        writing = self.begin(model_key, variant, tokens, cache)
        if isinstance(writing, bool):
            return writing
        writing.run()
        return self.finish(writing)

    def begin(
        self, model_key: str, variant: str, tokens: Sequence[int], cache: list[Any]
    ) -> Writing | bool:
        """What `save` has to write, or its result if that is nothing."""
        packed = pack(tokens)
        fits = layers.length(cache) in (None, len(tokens))
        if not packed or not fits or not codec.storable(cache):
            return False
        whole = not layers.trimmable(cache)
        files = self._files(model_key)
        same = [file for file in files.values() if file.variant == variant]
        for file in same:
            known = file.tokens == packed or (not file.whole and file.tokens.startswith(packed))
            if known and self._touch(file.name):
                return True
        metadata = {
            "model": model_key,
            "variant": variant,
            "tokens": base64.b64encode(packed).decode(),
            "whole": str(int(whole)),
        }
        try:
            pieces = list(codec.encode(cache, metadata))
        except (ValueError, RuntimeError) as error:
            self._failed(error)
            return False
        return Writing(self, model_key, variant, packed, whole, pieces)

    def finish(self, writing: Writing) -> bool:
        """It has run: know the file, and delete those that it stands for; whether it is there."""
        name = writing.name
        if name is None:
            return False
        files = self._files(writing.model_key)
        files[name] = _File(name, writing.variant, writing.tokens, writing.whole)
        if not writing.whole:
            for file in list(files.values()):
                same = file.variant == writing.variant and file.name != name
                if same and writing.tokens.startswith(file.tokens):
                    del files[file.name]
                    self._delete(file.name)
        return True

    def _files(self, model_key: str) -> dict[str, _File]:
        """What is known of one model's files; their headers are read once."""
        if model_key not in self._index:
            known = self._index[model_key] = {}
            for name, _, _ in sorted(self._scan(), key=lambda row: row[2]):
                if name.startswith(f"kv-{model_key[:24]}-") and (file := self._read_header(name)):
                    header_key, entry = file
                    if header_key == model_key:
                        known[name] = entry
        return self._index[model_key]

    def _read_header(self, name: str) -> tuple[str, _File] | None:
        try:
            with open_regular(self._folder / name) as stream:
                size = os.fstat(stream.fileno()).st_size
                length = codec.header_size(stream.read(8), size)
                metadata, _ = codec.read_metadata(stream.read(length))
            return _file_of(name, metadata)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self._discard(name, error)
            return None

    def _load(self, model_key: str, file: _File, length: int) -> list[Any] | None:
        import mlx.core as mx

        try:
            with open_regular(self._folder / file.name) as stream:
                blob = stream.read()
            if f"{zlib.crc32(blob):08x}" != file.name[-20:-12]:
                raise ValueError("its checksum is another")
            cache, metadata = codec.decode(blob)
            count = len(file.tokens) // WIDTH
            # By chance another engine's file may have taken this one's name.
            if _file_of(file.name, metadata) != (model_key, file):
                raise ValueError("it is not what it was")
            if layers.length(cache) not in (None, count):
                raise ValueError("it is not what its header says")
            if count > length:
                layers.trim(cache, count - length)
                mx.eval(layers.arrays(layers.compact(cache)))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, MemoryError) as error:
            self._discard(file.name, error)
            return None
        self._touch(file.name)
        return cache

    def _write(self, model_key: str, pieces: list[bytes | memoryview]) -> str | None:
        temporary = self._folder / f".kv-{os.urandom(8).hex()}.tmp"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            size = sum(len(piece) for piece in pieces)
            if size > self._limit:
                return None
            self._evict(size)
            crc = 0
            for piece in pieces:
                crc = zlib.crc32(piece, crc)
            name = f"kv-{model_key[:24]}-{crc:08x}.safetensors"
            write_whole(temporary, self._folder / name, pieces)
            self._evict(0, spare=name)
        except OSError as error:
            self._failed(error)
            self._delete(temporary.name)
            return None
        return name

    def _failed(self, error: Exception) -> None:
        self._log.warning("kv.disk.save_failed", folder=str(self._folder), error=repr(error))

    def _evict(self, wanted: int, spare: str = "") -> None:
        """Make room for `wanted` bytes, the longest unused file first."""
        rows = sorted(self._scan(), key=lambda row: row[2])
        for name, size, _ in rows:
            if self.bytes + wanted <= self._limit:
                break
            if name != spare and self._delete(name):
                self.bytes -= size

    def _scan(self) -> list[tuple[str, int, float]]:
        """Our files: name, bytes, time of last use. Removes what a crash has left behind."""
        rows: list[tuple[str, int, float]] = []
        try:
            rows = scan(self._folder, _NAME, _TEMPORARY)
        except FileNotFoundError:
            pass  # not made yet
        except OSError as error:
            self._log.warning("kv.disk.unreadable", folder=str(self._folder), error=repr(error))
        self.bytes = sum(size for _, size, _ in rows)
        return rows

    def _size(self, name: str) -> int:
        try:
            return (self._folder / name).stat().st_size
        except OSError:
            return 0  # it is gone, which reading it will show

    def _touch(self, name: str) -> bool:
        try:
            os.utime(self._folder / name)
        except OSError:
            return False
        return True

    def _discard(self, name: str, error: Exception) -> None:
        self._log.warning("kv.disk.broken", file=name, error=repr(error))
        self._delete(name)

    def _delete(self, name: str) -> bool:
        try:
            (self._folder / name).unlink(missing_ok=True)
        except OSError:
            return False
        return True


def _file_of(name: str, metadata: dict[str, str]) -> tuple[str, _File]:
    """The model's key and the entry of a file."""
    try:
        tokens = base64.b64decode(metadata["tokens"], validate=True)
        if not tokens or len(tokens) % WIDTH:
            raise ValueError("no tokens")
        return metadata["model"], _File(name, metadata["variant"], tokens, metadata["whole"] != "0")
    except KeyError as error:
        raise ValueError(f"no {error}") from None
