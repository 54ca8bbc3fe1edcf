"""Collects the training corpus from the Python source that is already installed.

Sources are standard libraries and installed distributions under permissive licences, plus the
hand-written primer beside this file. The result is one JSON-lines file of documents, each
marked ``train``, ``held_files`` or ``held_packages``, and a manifest that says what went in.

    python -m tools.pico.collect --out build/pico [--shard extra.jsonl.xz ...]

``--export-shard`` writes the raw, licence-filtered files of this interpreter instead, so that
a machine without that installation can merge them with ``--shard``.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import lzma
import multiprocessing
import re
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from tools.pico.clean import SeenLines, clean
from tools.pico.licences import permissive_licence

HELD_PACKAGES = frozenset({"formulaic", "humanize", "seaborn", "tabulate", "toolz"})
HELD_FILE_SHARE = 0.015
TEST_FILE_SHARE = 0.25  # tests are plentiful and alike: a quarter of them is enough
MAX_SOURCE_BYTES = 20_000_000
SKIP_PARTS = re.compile(
    r"(^|/)(_?vendor(ed)?|_vendor\w*|extern|externals?|third_?party|site-packages|lib2to3"
    r"|dist-packages|idlelib|turtledemo|encodings|unicodedata)(/|$)"
)
TEST_PARTS = re.compile(r"(^|/)(tests?|testing|idle_test)(/|$)|(^|/)(test_\w+|\w+_test)\.py$")


@dataclass(frozen=True)
class RawFile:
    """One file as found, with where it came from."""

    source: str
    version: str
    licence: str
    path: str
    data: bytes


def _fraction(*parts: str) -> float:
    """A number in [0, 1) that depends on the names alone, the same on every machine."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def wanted(path: str) -> bool:
    """Whether a path inside a source is Python code that is that source's own."""
    if not path.endswith(".py") or path.endswith("_pb2.py") or SKIP_PARTS.search(path):
        return False
    return not TEST_PARTS.search(path) or _fraction("tests", path) < TEST_FILE_SHARE


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def standard_library(root: Path) -> Iterator[RawFile]:
    """The files of one interpreter's standard library (PSF licence)."""
    version = root.name.removeprefix("python")
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if wanted(name) and (data := _read(path)) is not None:
            yield RawFile("python-stdlib", version, "PSF-2.0", name, data)


def installed(site: Path | None) -> Iterator[RawFile]:
    """The files of every permissively licensed distribution (in one folder, or on the path)."""
    found = distributions(path=[str(site)]) if site else distributions()
    named = {str(d.metadata["Name"]).lower().replace("_", "-"): d for d in found}
    for name, distribution in sorted(named.items()):
        licence = permissive_licence(distribution)
        if licence is None:
            continue
        for file in sorted(distribution.files or [], key=str):
            inner = file.as_posix()
            if wanted(inner) and (data := _read(Path(str(file.locate())))) is not None:
                yield RawFile(name, distribution.version, licence, inner, data)


def write_shard(files: Iterable[RawFile], target: Path) -> None:
    """Save raw files that pass the cleaning as compressed JSON lines."""
    seen = SeenLines()
    with lzma.open(target, "wt", encoding="utf-8", preset=6) as out:
        for file in files:
            text = clean(file.data)
            if text is not None and seen.admit(text):
                row = [file.source, file.version, file.licence, file.path, text]
                out.write(json.dumps(row) + "\n")


def read_shard(source: Path) -> Iterator[RawFile]:
    """The files of a shard."""
    with lzma.open(source, "rt", encoding="utf-8") as lines:
        for line in lines:
            name, version, licence, path, text = json.loads(line)
            yield RawFile(name, version, licence, path, text.encode())


def _clean_file(file: RawFile) -> str | None:
    return clean(file.data)


def build(files: list[RawFile], out: Path) -> None:
    """Clean, deduplicate and split the files; write corpus.jsonl and manifest.json."""
    # Held-out packages come first, so that files which repeat them are dropped from training;
    # the rest is shuffled by name, so that a large source's limit takes from all its parts.
    files = sorted(
        files, key=lambda f: (f.source not in HELD_PACKAGES, _fraction("order", f.source, f.path))
    )
    with multiprocessing.Pool() as pool:
        texts = pool.map(_clean_file, files, chunksize=64)
    seen = SeenLines()
    sizes: collections.Counter[str] = collections.Counter()
    totals: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    sources: dict[tuple[str, str, str], collections.Counter[str]] = {}
    digest = hashlib.sha256()
    with (out / "corpus.jsonl").open("w", encoding="utf-8") as target:
        for file, text in zip(files, texts, strict=True):
            if text is None or sizes[file.source] > MAX_SOURCE_BYTES or not seen.admit(text):
                continue
            size = len(text.encode())
            sizes[file.source] += size
            split = "train"
            if file.source in HELD_PACKAGES:
                split = "held_packages"
            elif _fraction("held", file.source, file.path) < HELD_FILE_SHARE:
                split = "held_files"
            row = {"source": file.source, "path": file.path, "split": split, "text": text}
            target.write(json.dumps(row) + "\n")
            digest.update(f"{split}\0{text}\0".encode())
            key = (file.source, file.version, file.licence)
            for counter in (sources.setdefault(key, collections.Counter()), totals[split]):
                counter.update(files=1, bytes=size)
    manifest = {
        "corpus_sha256": digest.hexdigest(),
        "held_out_packages": sorted(HELD_PACKAGES),
        "held_out_file_share": HELD_FILE_SHARE,
        "test_file_share": TEST_FILE_SHARE,
        "totals": totals,
        "sources": [
            {"name": name, "version": version, "licence": licence, **counts}
            for (name, version, licence), counts in sorted(sources.items())
        ],
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(totals), "dropped", len(files) - sum(t["files"] for t in totals.values()))


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/pico"))
    parser.add_argument("--shard", type=Path, action="append", default=[])
    parser.add_argument("--export-shard", type=Path)
    parser.add_argument("--stdlib", type=Path, action="append")
    parser.add_argument("--site", type=Path, action="append")
    args = parser.parse_args()
    files: list[RawFile] = []
    for root in args.stdlib or [Path(sysconfig.get_paths()["stdlib"])]:
        files += standard_library(root)
    for site in args.site or [None]:
        files += installed(site)
    if args.export_shard:
        write_shard(files, args.export_shard)
        return
    for shard in args.shard:
        files += read_shard(shard)
    for path in sorted(Path(__file__).parent.glob("primer_*.py")):
        files.append(RawFile("pico-primer", "1", "MIT", path.name, path.read_bytes()))
    args.out.mkdir(parents=True, exist_ok=True)
    build(files, args.out)


if __name__ == "__main__":
    main()
