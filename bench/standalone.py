"""The standalone build beside the interpreted engine: start, memory, size.

    make standalone
    python -m bench.standalone --write docs/standalone.md

The interpreted engine is that of a new lean environment (`requirements/lean.txt` and the wheel of
this checkout), which has the packages that the build was made of. The two live in turns, the first
life of each is not counted, and the table has medians. `build/bench/standalone.json` has all
figures.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

from bench import usage
from bench.engine import Engine
from bench.installed import INSTALLS, ROOT, build_wheel, install, plans, put
from bench.machine import describe

BINARY = ROOT / "build" / "standalone" / "mlx-stdio"
OUTPUT = ROOT / "build" / "bench" / "standalone.json"
_PROMPT = "def add(a, b):"
_SETTLE = 1.5  # seconds after the request until the process counts as idle

_VERSIONS = ("python", "mlx", "mlx-cpu", "mlx-lm", "tokenizers")

Rows = dict[str, list[float]]

TITLES = {
    "initialize_ms": ("spawn to `initialize` reply, ms", "0.5 to 0.7"),
    "start_ms": ("spawn to first token, ms", "0.5 to 0.7"),
    "rss_mib": ("memory after a request, MiB (RSS)", "-"),
    "uss_mib": ("of it private, MiB (USS)", "-"),
    "packages_mb": ("size, MB; interpreted: `site-packages` without numpy", "0.8"),
    "whole_mb": ("size, MB; interpreted: that and the interpreter", "0.8"),
}
"""Keys, titles and what the proposal expects of the ratio."""


def live(command: list[str]) -> dict[str, float]:
    """One life of an engine, on `pico`."""
    engine = Engine("--model", "pico", command=command)
    engine.call("initialize", protocolVersion=1)
    hello = time.perf_counter()
    request = engine.send("generate", prompt=_PROMPT, maxTokens=4, temperature=0)
    first = engine.first_delta(request)
    engine.reply(request)
    time.sleep(_SETTLE)
    row = {
        "initialize_ms": (hello - engine.spawned) * 1000,
        "start_ms": (first - engine.spawned) * 1000,
        "rss_mib": usage.rss(engine.process.pid) / 2**20,
    }
    private = usage.uss(engine.process.pid)
    if private is not None:
        row["uss_mib"] = private / 2**20
    engine.close()
    return row


def compare(commands: dict[str, list[str]], lives: int) -> dict[str, Rows]:
    """Lives in turns; all values by contender and key."""
    found: dict[str, Rows] = {name: {} for name in commands}
    for number in range(lives + 1):
        for name, command in commands.items():
            row = live(command)
            if number:
                for key, value in row.items():
                    found[name].setdefault(key, []).append(value)
        print(f"life {number} of {lives}", file=sys.stderr)
    return found


def interpreter_bytes() -> int:
    """This Python's program, library and standard library, without its tests and build files."""
    library = Path(sysconfig.get_path("stdlib"))
    left_out = {"site-packages", "test"}
    total = Path(sys.executable).resolve().stat().st_size
    shared = Path(str(sysconfig.get_config_var("LIBDIR"))) / str(
        sysconfig.get_config_var("INSTSONAME")
    )
    if sysconfig.get_config_var("Py_ENABLE_SHARED") and shared.exists():
        total += shared.stat().st_size
    for entry in library.iterdir():
        if entry.name not in left_out and not entry.name.startswith("config-"):
            total += _size(entry)
    return total


def table(results: dict[str, Any]) -> str:
    """Where and how it was measured, and the figures beside the proposal's."""
    machine, figures = results["machine"], results["figures"]
    found = machine["versions"]
    versions = ", ".join(f"{name} {found[name]}" for name in _VERSIONS if name in found)
    lines = [
        f"- Machine: {machine['cpu']}, {machine['cores']} cores, {machine['system']}",
        f"- Versions: {versions}",
        (
            f"- {results['lives']} lives of each in turns, medians, {results['date']}:"
            f" `{results['command']}`"
        ),
        "",
        "| figure | interpreted | standalone | ratio | the proposal expects |",
        "|---|---|---|---|---|",
    ]
    for key, (title, expected) in TITLES.items():
        if key not in figures["interpreted"]:
            continue
        ours = statistics.median(figures["interpreted"][key])
        built = statistics.median(figures["standalone"][key])
        mark = " (worse)" if built > ours * 1.02 else ""
        lines.append(
            f"| {title} | {ours:.0f} | {built:.0f} | {built / ours:.2f}{mark} | {expected} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, keep, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.standalone")
    parser.add_argument("--lives", type=int, default=20, help="of each (%(default)s)")
    parser.add_argument("--binary", type=Path, default=BINARY, help="(%(default)s)")
    parser.add_argument("--json", type=Path, default=OUTPUT, help="(%(default)s)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into a document")
    options = parser.parse_args()
    binary = options.binary.resolve()
    if not binary.exists():
        parser.error(f"{binary} is not there; `make standalone` makes it")
    try:
        lean = INSTALLS / "standalone-lean"
        shutil.rmtree(INSTALLS, ignore_errors=True)
        wheel = build_wheel(INSTALLS / "wheels")
        installed = install(lean, plans(wheel)["mlx-stdio lean"])
        numpy = sum(size for name, size in installed["largest"] if name == "numpy")
        figures = compare(
            {
                "interpreted": [str(lean / "bin" / "python"), "-m", "mlx_stdio"],
                "standalone": [str(binary)],
            },
            options.lives,
        )
    finally:
        shutil.rmtree(INSTALLS, ignore_errors=True)
    built = _size(binary.parent) / 1e6
    packages = installed["megabytes"] - numpy
    figures["interpreted"] |= {
        "packages_mb": [packages],
        "whole_mb": [packages + interpreter_bytes() / 1e6],
    }
    figures["standalone"] |= {"packages_mb": [built], "whole_mb": [built]}
    results: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python -m bench.standalone", *sys.argv[1:]]),
        "machine": describe(),
        "lives": options.lives,
        "figures": figures,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=1) + "\n")
    block = table(results)
    if options.write:
        put(options.write, "standalone", block)
    print(block)


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


if __name__ == "__main__":
    main()
