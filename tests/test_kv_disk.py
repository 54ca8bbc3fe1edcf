"""Prefixes on disk: they come back as they were, and nothing that lies in the folder does harm."""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from mlx_stdio.kv import codec, layers
from mlx_stdio.kv.disk import DiskPrefixes, model_key
from mlx_stdio.log import Log
from mlx_stdio.models.card import Card
from tests.test_kv_layers import KINDS, decode, model, read, some_tokens
from tests.test_kv_prefix import filled, state

KEY = "ab" * 32
OTHER = "cd" * 32


class Heard(Log):
    """Collects events."""

    def __init__(self) -> None:
        super().__init__("debug")
        self.events: list[str] = []

    def write(self, level: str, event: str, **fields: Any) -> None:
        orjson.dumps(fields)
        self.events.append(event)


@pytest.fixture
def log() -> Heard:
    return Heard()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "some" / "kv"


@pytest.fixture
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def disk(folder: Path, log: Log, limit: int = 1 << 40) -> DiskPrefixes:
    return DiskPrefixes(folder, limit, log)


def found(store: DiskPrefixes, tokens: list[int], better_than: int = 0, key: str = KEY) -> int:
    hit = store.find(key, "v", tokens, len(tokens) - 1, better_than)
    if hit is None:
        return 0
    assert layers.length(hit[0]) in (None, hit[1])
    return hit[1]


def only_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_cache_comes_back(kind: str, folder: Path, log: Heard) -> None:
    import mlx.core as mx

    name, *sizes = KINDS[kind]
    made = model(name)
    for length in (12, 40):
        tokens = some_tokens(random.Random(length), length)
        cache = layers.make(made, *sizes)
        read(made, cache, tokens)
        decode(made, cache, 5, 2)  # turns a window, grows a buffer
        tokens += [5, decode(made, layers.copy(cache), 5, 1)[0]]
        before = [mx.array(array) for array in layers.arrays(cache)]
        mx.eval(before)
        tokens = tokens[: layers.length(cache) or len(tokens)]
        assert disk(folder, log).save(KEY, "v", tokens, cache)
        after = layers.arrays(cache)
        assert all(mx.array_equal(a, b) for a, b in zip(before, after, strict=True))
        hit = disk(folder, log).find(KEY, "v", [*tokens, 7], len(tokens), 0)
        assert hit is not None
        assert hit[1] == len(tokens)
        assert [type(layer) for layer in hit[0]] == [type(layer) for layer in cache]
        read(made, cache, [3, 4])
        read(made, hit[0], [3, 4])
        assert decode(made, hit[0], 9, 6) == decode(made, cache, 9, 6)
    assert log.events == []


def test_all_types_of_numbers_come_back(folder: Path, log: Heard) -> None:
    import mlx.core as mx
    from mlx_lm.models.cache import ArraysCache

    types = [mx.float32, mx.float16, mx.bfloat16, mx.uint8, mx.uint32, mx.int32, mx.int64, mx.bool_]
    cache = ArraysCache(len(types) + 2)
    for at, dtype in enumerate(types):
        cache[at] = (mx.arange(6).reshape(1, 2, 3) * 3).astype(dtype).swapaxes(1, 2)
    cache[len(types)] = mx.zeros((1, 0, 4))
    disk(folder, log).save(KEY, "v", [1, 2], [cache])
    hit = disk(folder, log).find(KEY, "v", [1, 2, 3], 2, 0)
    assert hit is not None
    for a, b in zip(cache.cache[:-1], hit[0][0].cache[:-1], strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tolist() == b.tolist()
    assert hit[0][0].cache[-1] is None


def test_a_part_of_a_trimmable_file_is_found(folder: Path, log: Heard) -> None:
    store = disk(folder, log)
    assert store.save(KEY, "v", [1, 2, 3, 4], filled(4))
    assert found(store, [1, 2, 3, 9]) == 3
    assert found(store, [1, 2, 3, 9], better_than=3) == 0
    assert found(store, [1, 2, 3, 4]) == 3
    assert found(store, [1, 2, 3, 9], key=OTHER) == 0
    assert store.find(KEY, "other", [1, 2, 3, 9], 3, 0) is None
    assert store.save(KEY, "v", [7, 8], state(2))
    assert found(store, [7, 9, 9]) == 0
    assert found(store, [7, 8, 9]) == 2


def test_what_is_there_is_not_written_again(folder: Path, log: Heard) -> None:
    store = disk(folder, log)
    store.save(KEY, "v", [1, 2], filled(2))
    store.save(KEY, "v", [1, 2, 3], filled(3))
    file = only_file(folder)  # the longer one stands for both
    os.utime(file, (1, 1))
    assert store.save(KEY, "v", [1, 2, 3], filled(3))
    assert store.save(KEY, "v", [1, 2], filled(2))
    assert only_file(folder) == file
    assert file.stat().st_mtime > 1
    assert not store.save(KEY, "v", [1, 2, 3, 4], filled(3))  # not what the cache has seen
    assert not store.save(KEY, "v", [], filled(3))
    file.unlink()
    assert store.save(KEY, "v", [1, 2], filled(2))  # known, but no longer there
    assert found(store, [1, 2, 3]) == 2


def test_the_longest_unused_goes_first(folder: Path, log: Heard) -> None:
    disk(folder, log).save(KEY, "v", [0, 1], filled(2))
    size = only_file(folder).stat().st_size
    store = disk(folder, log, 3 * size)
    for first in (1, 2):
        store.save(KEY, "v", [first, 1], filled(2))
    for at, first in enumerate((0, 1, 2)):
        name = next(f.name for f in store._index[KEY].values() if f.tokens[0] == first)
        os.utime(folder / name, (1000 + at, 1000 + at))
    assert found(store, [0, 1, 5]) == 2  # a hit counts as use
    assert store.save(OTHER, "v", [3, 1], filled(2))
    fresh = disk(folder, log)
    assert [found(fresh, [first, 1, 5]) for first in (0, 1, 2)] == [2, 0, 2]
    assert found(fresh, [3, 1, 5], key=OTHER) == 2
    assert fresh.bytes == sum(file.stat().st_size for file in folder.iterdir())
    assert found(store, [1, 1, 5]) == 0
    assert not disk(folder, log, 100).save(KEY, "v", [4, 1], filled(2))
    assert log.events == []


@pytest.mark.usefixtures("usual_umask")
def test_the_folder_and_its_files_are_private(folder: Path, log: Heard) -> None:
    disk(folder, log).save(KEY, "v", [1, 2], filled(2))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(only_file(folder).stat().st_mode) == 0o600


def renamed(file: Path, blob: bytes) -> Path:
    """A file with other bytes and the name that these would have."""
    file.unlink()
    other = file.with_name(f"kv-{KEY[:24]}-{zlib.crc32(blob):08x}.safetensors")
    other.write_bytes(blob)
    return other


def test_every_torn_or_changed_file_is_a_miss(tmp_path: Path, log: Heard) -> None:
    master = tmp_path / "master"
    made = model("list")
    cache = layers.make(made)
    tokens = some_tokens(random.Random(0), 20)
    read(made, cache, tokens)
    disk(master, log).save(KEY, "v", tokens, cache)
    blob = only_file(master).read_bytes()
    random_ = random.Random(1)
    broken = [blob[:size] for size in (*range(0, 40, 3), *range(40, len(blob), len(blob) // 40))]
    for at in [*range(0, 64, 5), *(random_.randrange(len(blob)) for _ in range(60))]:
        broken.append(blob[:at] + bytes([blob[at] ^ (1 << random_.randrange(8))]) + blob[at + 1 :])
    for at in range(0, len(blob), max(4096, len(blob) // 20)):
        zeros = blob[:at] + bytes(len(blob[at : at + 4096])) + blob[at + 4096 :]
        assert zeros != blob
        broken.append(zeros)
    broken += [blob + b"x", blob + blob]
    for at, bad in enumerate(broken):
        for late in (False, True):  # it breaks before or after its header is read
            folder = tmp_path / f"{at}-{late}"
            shutil.copytree(master, folder)
            store = disk(folder, log)
            if late:
                store._files(KEY)
            only_file(folder).write_bytes(bad)
            assert found(store, [*tokens, 1]) == 0
            # Unless a flip hides it from this model, it is gone.
            assert not late or not any(folder.iterdir())
            shutil.rmtree(folder)
    assert set(log.events) == {"kv.disk.broken"}


def test_bytes_that_only_look_right_do_no_harm(tmp_path: Path, log: Heard) -> None:
    """A right checksum under a wrong content: another program's file, or an attack."""
    master = tmp_path / "master"
    tokens = [1, 2, 3]
    disk(master, log).save(KEY, "v", tokens, filled(3))
    blob = only_file(master).read_bytes()
    length = int.from_bytes(blob[:8], "little")
    header = orjson.loads(blob[8 : 8 + length])
    data = blob[8 + length :]

    def packed(header: Any) -> bytes:
        text = orjson.dumps(header)
        return len(text).to_bytes(8, "little") + text + data

    def with_cache(tree: Any) -> bytes:
        metadata = {**header["__metadata__"], "cache": orjson.dumps(tree).decode()}
        return packed({**header, "__metadata__": metadata})

    good = orjson.loads(header["__metadata__"]["cache"])
    assert packed(header)  # the frame itself is right:
    (tmp_path / "right").mkdir()
    file = tmp_path / "right" / "x"
    file.write_bytes(b"")
    renamed(file, packed(header))
    assert found(disk(tmp_path / "right", log), [*tokens, 1]) == 3
    without = {k: v for k, v in header["__metadata__"].items() if k != "tokens"}
    tensor = header["0"]
    bad = [
        packed({k: v for k, v in header.items() if k != "__metadata__"}),
        packed({**header, "__metadata__": without}),
        packed({**header, "__metadata__": {**header["__metadata__"], "tokens": "AAA"}}),
        packed({**header, "__metadata__": {**header["__metadata__"], "tokens": 7}}),
        packed({k: v for k, v in header.items() if k != "0"}),
        packed({**header, "0": {**tensor, "dtype": "F64"}}),
        packed({**header, "0": {**tensor, "shape": [1 << 40]}}),
        packed({**header, "0": {**tensor, "shape": [-1]}}),
        packed({**header, "0": {**tensor, "shape": [1 << 40], "data_offsets": [0, 0]}}),
        packed({**header, "0": {**tensor, "data_offsets": [0, 1 << 50]}}),
        packed({**header, "0": {**tensor, "data_offsets": [8, 0]}}),
        packed({**header, "0": {**tensor, "data_offsets": "no"}}),
        packed([header]),
        with_cache([{**good[0], "class": "system"}]),
        with_cache([{**good[0], "class": "mx"}]),
        with_cache([{**good[0], "class": "BatchKVCache"}]),
        with_cache([{**good[0], "class": "_BaseCache"}]),
        with_cache([{**good[0], "class": ["KVCache"]}]),
        with_cache([{"class": "CacheList", "parts": [{**good[0], "class": "TokenBuffer"}]}]),
        with_cache([{**good[0], "state": []}]),
        with_cache([{**good[0], "state": [{"array": 99}, None, 3]}]),
        with_cache([{**good[0], "state": [*good[0]["state"][:2], 2]}]),
        with_cache([7]),
        with_cache(None),
        (1 << 63).to_bytes(8, "little") + blob[8:],
        b"",
        b"GGUF" * 100,
    ]
    for at, content in enumerate(bad):
        folder = tmp_path / str(at)
        shutil.copytree(master, folder)
        renamed(only_file(folder), content)
        assert found(disk(folder, log), [*tokens, 1]) == 0, at
        assert not any(folder.iterdir()), at


def test_what_is_not_ours_is_left_alone(folder: Path, log: Heard) -> None:
    disk(folder, log).save(KEY, "v", [1, 2], filled(2))
    ours = only_file(folder)
    foreign = ["model.safetensors", "kv-notes.txt", f"kv-{KEY[:24]}-123.safetensors", ".kv-x.tmp"]
    for name in foreign:
        (folder / name).write_bytes(b"x" * 100_000)
        os.utime(folder / name, (1, 1))
    store = disk(folder, log, ours.stat().st_size + 10)
    assert found(store, [1, 2, 3]) == 2
    assert store.bytes == ours.stat().st_size
    assert store.save(KEY, "v", [5, 2], filled(2))
    assert {file.name for file in folder.iterdir()} > set(foreign)
    assert not ours.exists()
    # Our names on what is no file: neither waited for nor followed.
    os.mkfifo(folder / f"kv-{KEY[:24]}-00000001.safetensors")
    (folder / f"kv-{KEY[:24]}-00000002.safetensors").symlink_to("model.safetensors")
    (folder / f"kv-{KEY[:24]}-00000003.safetensors").mkdir()
    assert found(disk(folder, log), [5, 2, 3]) == 2
    assert (folder / "model.safetensors").stat().st_size == 100_000


def test_what_a_crash_has_left_behind_goes_after_an_hour(folder: Path, log: Heard) -> None:
    folder.mkdir(parents=True)
    old, young = folder / f".kv-{'0' * 16}.tmp", folder / f".kv-{'1' * 16}.tmp"
    for file in (old, young):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 3700,) * 2)
    assert found(disk(folder, log), [1, 2]) == 0
    assert only_file(folder) == young


def test_a_disk_that_fails_is_a_miss(
    folder: Path, log: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    for place in (blocked, blocked / "below", Path("/proc/nothing")):
        store = disk(place, log)
        assert not store.save(KEY, "v", [1, 2], filled(2))
        assert found(store, [1, 2, 3]) == 0
    assert "kv.disk.save_failed" in log.events

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert not disk(folder, log).save(KEY, "v", [1, 2], filled(2))
    assert not any(folder.iterdir())
    store = disk(folder, log)
    assert store.save(KEY, "v", [1, 2], filled(2))
    shutil.rmtree(folder)
    assert found(store, [1, 2, 3]) == 0
    assert store.save(KEY, "v", [1, 2], filled(2))


def test_a_process_that_is_killed_while_it_writes_leaves_no_file(folder: Path, log: Heard) -> None:
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from tests.test_kv_disk import *\n"
        "os.fsync = lambda _: os._exit(9)\n"
        "DiskPrefixes(Path(sys.argv[1]), 1 << 40, Log()).save(KEY, 'v', [1, 2], filled(2))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder)], check=False)
    assert done.returncode == 9
    assert only_file(folder).suffix == ".tmp"
    assert found(disk(folder, log), [1, 2, 3]) == 0


def test_engines_that_share_a_folder(folder: Path) -> None:
    """Writing, finding and displacing at once: what is found is always right."""
    logs = [Heard() for _ in range(3)]
    wrong: list[object] = []

    def engine(seed: int) -> None:
        random_ = random.Random(seed)
        store = disk(folder, logs[seed], 6 * 1_300)
        for _ in range(40):
            first = random_.randrange(12)
            tokens = [first, 1, 2, 3]
            if random_.random() < 0.5:
                store.save(KEY, "v", tokens, state(first))
            else:
                hit = disk(folder, logs[seed]).find(KEY, "v", [*tokens, 4], 4, 0)
                if hit is not None and hit[0][0][0][0, 0].item() != first:
                    wrong.append(hit)

    threads = [threading.Thread(target=engine, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert [log.events for log in logs] == [[], [], []]
    assert not [file for file in folder.iterdir() if file.suffix == ".tmp"]


def test_caches_of_a_models_own_are_not_written(folder: Path, log: Heard) -> None:
    class Own:
        offset = 2

        def is_trimmable(self) -> bool:
            return True

    assert not codec.storable([Own()])
    assert not disk(folder, log).save(KEY, "v", [1, 2], [Own()])
    assert not folder.exists()


def test_a_models_key_follows_its_content(tmp_path: Path) -> None:
    def card(folder: Path) -> Card:
        return Card("any", folder, "llama", None, None, frozenset(), 0)

    made = tmp_path / "a"
    made.mkdir()
    (made / "config.json").write_text("{}")
    shard = made / "model.safetensors"
    shard.write_bytes(bytes(300_000))
    key = model_key(card(made))
    assert len(key) == 64
    assert int(key, 16) >= 0
    assert model_key(card(shutil.copytree(made, tmp_path / "b"))) == key  # wherever it lies
    times = (shard.stat().st_atime_ns, shard.stat().st_mtime_ns)
    seen = {key}

    def changed() -> None:
        seen.add(model_key(card(made)))

    for at in (0, 299_999):
        content = bytearray(300_000)
        content[at] = 1
        shard.write_bytes(content)
        os.utime(shard, ns=times)
        changed()
    os.utime(shard, ns=(5, 5))
    changed()
    (made / "config.json").write_text("{ }")
    changed()
    shard.rename(made / "model-2.safetensors")
    changed()
    assert len(seen) == 6
