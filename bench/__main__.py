"""`make bench`: what people use today beside the engine, on one machine in one run.

    python -m bench                  the footprint suite, then the CPU suite
    python -m bench footprint        start, memory, latency, change of the model: under 5 minutes
    python -m bench cpu              serving many at once, under 15 minutes on 2 cores
    python -m bench gpu              the GPU suite, under 5 minutes
    python -m bench profile          where a decode step's time goes
    python -m bench budgets          whether the engine keeps to what it may cost
    python -m bench write A.json …   tables and `docs/performance.md` from results on disk

Results go to `build/bench/SUITE.json`, tables to stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from bench import budgets, document, install_sizes, step_profile
from bench.contenders import OURS
from bench.footprint import Footprint
from bench.models import Shape, make_model
from bench.processes import system_blas
from bench.report import Results, heading, table, targets, worse_rows
from bench.runner import Run, command
from bench.sizes import CPU_SHAPE, CPU_SIZES, GPU_SHAPE, GPU_SIZES, Sizes

BUILD = Path(__file__).resolve().parent.parent / "build" / "bench"
FOOTPRINT_LIMIT = 270.0
_LENGTHS = ("prompt", "new", "joining", "reading", "chat", "probes", "reading_probes")


def main() -> int:
    """Run what the command line says; 1 if the engine failed in a row."""
    options = _parser().parse_args()
    small = options.shape == "cpu" or (options.shape is None and options.suite != "gpu")
    shape = replace(CPU_SHAPE if small else GPU_SHAPE, bits=options.bits)
    if options.suite == "budgets":
        return _budgets(options.results)
    if options.suite == "write":
        runs = _read(options.results)
    elif options.suite == "profile":
        runs = [_profile(options, shape)]
    elif options.suite == "footprint":
        runs = [_footprint(options)]
    elif options.suite == "all":
        runs = [_footprint(options), _measure(options, shape)]
    else:
        runs = [_measure(options, shape)]
    if options.write:
        document.write(options.write, runs)
    for results in runs:
        _show(results)
    failed = [error for results in runs for error in results["errors"] if error.startswith(OURS)]
    return 1 if failed else 0


def _read(paths: list[Path]) -> list[Results]:
    """Runs on disk; other files of that folder are passed over."""
    found = [json.loads(path.read_text()) for path in paths]
    runs: list[Results] = [results for results in found if "suite" in results]
    for results in runs:
        if results["suite"] == "footprint":  # the installations may have been measured since
            install_sizes.attach(results, BUILD / "installs.json")
    return runs


def _budgets(paths: list[Path]) -> int:
    results = json.loads((paths[0] if paths else BUILD / "footprint.json").read_text())
    print(budgets.table(results))
    return 0 if all(budget.verdict == "kept" for budget in budgets.check(results)) else 1


def _footprint(options: argparse.Namespace) -> Results:
    return Footprint(
        rounds=options.lives,
        limit=FOOTPRINT_LIMIT if options.limit is None else options.limit,
        engine_root=options.engine_root,
        same_blas=options.peer_blas == "same",
        build=BUILD,
        output=_output(options, "footprint"),
        command=command(),
        only=frozenset(options.only),
    ).run()


def _output(options: argparse.Namespace, suite: str) -> Path:
    """One file for each suite: a path of the command line's is for a suite that was named."""
    given: Path | None = options.json
    return given if given and options.suite == suite else BUILD / f"{suite}.json"


def _measure(options: argparse.Namespace, shape: Shape) -> Results:
    gpu = options.suite == "gpu"
    sizes: Sizes = GPU_SIZES if gpu else CPU_SIZES
    given = {name: getattr(options, name) for name in (*_LENGTHS, "streams")}
    sizes = replace(sizes, **{name: value for name, value in given.items() if value is not None})
    run = Run(
        suite="gpu" if gpu else "cpu",
        shape=shape,
        sizes=sizes,
        repetitions=options.repetitions,
        limit=options.limit or (270 if gpu else 780),
        engine_root=options.engine_root,
        same_blas=options.peer_blas == "same",
        output=_output(options, "gpu" if gpu else "cpu"),
        only=frozenset(options.only),
    )
    return run.run(_folder(shape))


def _profile(options: argparse.Namespace, shape: Shape) -> Results:
    model = make_model(_folder(shape) / "first", shape)
    batches = options.streams or (1, 8, 32)
    env = system_blas() if options.peer_blas == "same" else {}
    context, repetitions = options.prompt or 512, options.repetitions
    results = step_profile.run(
        model,
        shape,
        batches,
        context,
        repetitions,
        env=env,
        line=command(),
        engine_root=options.engine_root,
    )
    if options.shape == "gpu":
        results["suite"] = "gpu profile"
    path = _output(options, "profile")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1))
    return results


def _folder(shape: Shape) -> Path:
    bits = f"-{shape.bits}bit" if shape.bits else ""
    return BUILD / "models" / f"llama-{shape.hidden}x{shape.layers}-{shape.dtype}{bits}"


def _show(results: Results) -> None:
    if "table" in results:
        print(results["table"])
        return
    print(f"{heading(results)}\n\n{table(results)}\n")
    if results["suite"] == "footprint":
        print(f"{budgets.table(results)}\n")
    if results["suite"] == "gpu":
        print(f"{targets(results)}\n")
    for key, line in worse_rows(results):
        print(f"worse: {key}: {line}")
    for error in results["errors"]:
        print(f"failed: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    suites = ["all", "footprint", "cpu", "gpu", "profile", "budgets", "write"]
    add(
        "suite",
        nargs="?",
        choices=suites,
        default="all",
        help="footprint and cpu, if none is named",
    )
    add("results", nargs="*", type=Path, help="for `write` and `budgets`: results of earlier runs")
    add("--repetitions", type=int, default=3, help="of every row about serving (%(default)s)")
    add(
        "--lives", type=int, default=7, help="of each, in the footprint suite (at most %(default)s)"
    )
    add("--limit", type=float, help="seconds (footprint 270, cpu 780, gpu 270)")
    add("--streams", type=_counts, metavar="N,N", help="numbers of streams, or of rows in a batch")
    for name in _LENGTHS:
        add(f"--{name.replace('_', '-')}", type=int, help="see bench/sizes.py")
    add("--shape", choices=["cpu", "gpu"], help="the model: small, or with 1 billion parameters")
    add("--bits", type=int, choices=[0, 4, 8], default=0, help="of a quantised model")
    add("--only", nargs="*", default=[], help="names of contenders and scenarios")
    add("--engine-root", metavar="DIR", help="a checkout whose engine is measured")
    add(
        "--peer-blas",
        choices=["same", "own"],
        default="same",
        help="on a CPU: mlx_lm's processes get the OpenBLAS that the engine takes by itself, or "
        "keep MLX's own (%(default)s)",
    )
    add("--json", type=Path, metavar="FILE", help="where the results go")
    add("--write", type=Path, metavar="FILE", help="document to bring up to date")
    return parser


def _counts(text: str) -> tuple[int, ...]:
    return tuple(int(count) for count in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
