"""What an installation pulls: packages and megabytes of the engine and of what it stands beside.

    python -m bench.installed             all four, in environments that are removed afterwards
    python -m bench.installed --keep      leaves them under build/installs/
    python -m bench.installed --write docs/standalone.md      puts the table there

Each environment is new and gets what a user would type, from the index that pip is set to. A
*package* is a distribution with metadata; pip itself is not in it. *Megabytes* (10^6 bytes) are the
apparent sizes of all files in `site-packages`, compiled bytecode included, the interpreter not.
`build/bench/installs.json` has the figures.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
INSTALLS = ROOT / "build" / "installs"
OUTPUT = ROOT / "build" / "bench" / "installs.json"
_LARGEST = 6
_PATIENCE = 600  # seconds for one pip
_OURS, _LEAN, _SERVER, _FASTAPI = "mlx-stdio[cpu]", "mlx-stdio lean", "mlx-lm server", "FastAPI"

# Run inside an environment. A file belongs to the distribution whose metadata lists it; pip lists
# the bytecode that it compiles too.
_COUNT = """
import json, sysconfig
from importlib.metadata import distributions
from pathlib import Path

site = Path(sysconfig.get_path("purelib"))
sizes = {}
for distribution in distributions(path=[str(site)]):
    files = {site / file for file in distribution.files or []}
    sizes[distribution.name] = sum(f.stat().st_size for f in files if f.is_file())
total = sum(file.stat().st_size for file in site.rglob("*") if file.is_file())
print(json.dumps([total, sizes]))
"""

Install = dict[str, Any]
"""`packages`, `megabytes`, and `largest`: name and megabytes of the largest ones."""


def plans(wheel: Path) -> dict[str, list[list[str]]]:
    """What pip is told for each environment, one list a call."""
    lean = ["--no-deps", "--require-hashes", "-r", str(ROOT / "requirements" / "lean.txt")]
    server = ["mlx-lm", "mlx[cpu]"]  # what `mlx_lm.server` needs on this platform
    return {
        _OURS: [[f"{wheel}[cpu]"]],
        _LEAN: [lean, ["--no-deps", str(wheel)]],
        _SERVER: [server],
        _FASTAPI: [[*server, "fastapi", "uvicorn", "uvloop"]],
    }


def build_wheel(folder: Path) -> Path:
    """The wheel of this checkout."""
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder))
    return next(folder.glob("*.whl"))


def install(folder: Path, calls: list[list[str]]) -> Install:
    """Make an environment and count what is in it."""
    _run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    python = str(folder / "bin" / "python")
    for arguments in calls:
        pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
        _run(*pip, "install", "--quiet", "--compile", *arguments)
    total, sizes = json.loads(_run(python, "-I", "-c", _COUNT))
    ranked = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:_LARGEST]
    return {
        "packages": len(sizes),
        "megabytes": round(total / 1e6, 1),
        "largest": [[name, round(size / 1e6, 1)] for name, size in ranked],
    }


def table(installs: dict[str, Install]) -> str:
    """The figures in Markdown."""
    lines = ["| installed | packages | MB | largest, MB |", "|---|---|---|---|"]
    for name, row in installs.items():
        largest = ", ".join(f"{package} {size:g}" for package, size in row["largest"])
        lines.append(f"| {name} | {row['packages']} | {row['megabytes']:.0f} | {largest} |")
    numpy = dict(installs[_LEAN]["largest"]).get("numpy", 0)
    rest = installs[_LEAN]["megabytes"] - numpy
    return "\n".join(lines) + f"\n\nThe lean one without numpy: {rest:.0f} MB."


def put(path: Path, name: str, block: str) -> None:
    """Put a block between a document's two markers of this name."""
    begin = f"<!-- begin of the generated figures: {name} -->"
    end = f"<!-- end of the generated figures: {name} -->"
    before, found, rest = path.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"{path} has no markers for the figures: {name}")
    path.write_text(f"{before}{begin}\n\n{block}\n\n{end}{after}")


def main() -> None:
    """Install all, one after the other; at most one environment is on disk unless asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--keep", action="store_true", help="leave the environments on disk")
    parser.add_argument("--json", type=Path, default=OUTPUT, help="(%(default)s)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into a document")
    options = parser.parse_args()
    shutil.rmtree(INSTALLS, ignore_errors=True)
    installs = {}
    try:
        wheel = build_wheel(INSTALLS / "wheels")
        for name, calls in plans(wheel).items():
            began = time.monotonic()
            folder = INSTALLS / name.replace("[", "-").replace("]", "").replace(" ", "-")
            installs[name] = install(folder, calls)
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
            if not options.keep:
                shutil.rmtree(folder)
    finally:
        if not options.keep:
            shutil.rmtree(INSTALLS, ignore_errors=True)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(installs, indent=1) + "\n")
    block = table(installs)
    if options.write:
        put(options.write, "installs", block)
    print(block)


def _run(*command: str) -> str:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True, timeout=_PATIENCE
    )
    return done.stdout


if __name__ == "__main__":
    main()
