"""`mlx_lm` without `transformers`: a second of start-up and 50 MiB that inference does not need.

`mlx_lm`'s own `__init__` imports its converter, and with it `transformers` and the hub client. Its
model modules, caches and the loader of weights need neither. So
- the package enters `sys.modules` unexecuted (its real init runs if one of its names is asked for),
  which lets its submodules be imported alone;
- `mlx_lm.utils` is run once more, privately, with stand-ins for the three modules that it imports
  and that loading weights does not use. A private copy, so that whoever imports the real one later
  gets the real one. One of the stand-ins is `resource`: the original lowers the process's limit of
  open files as it is imported, or raises where it may not. And its `glob` takes a folder's name as
  it stands: `model[4bit]` is no pattern.

`tests/test_lean.py` pins what this relies on.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

IMPORT_LOCK = threading.Lock()
"""Held while stand-ins are in `sys.modules`, and by whoever imports the real `transformers`."""

_LAZY_NAMES = {"__version__", "batch_generate", "convert", "generate", "load", "stream_generate"}
_PRIVATE = "mlx_lm._utils_without_transformers"


def install() -> None:
    """Put the unexecuted `mlx_lm` package in place; does nothing where it is imported already."""
    if "mlx_lm" in sys.modules:
        return
    spec = importlib.util.find_spec("mlx_lm")
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("mlx_lm is not installed")
    package = importlib.util.module_from_spec(spec)
    loader = spec.loader

    def resolve(name: str) -> Any:
        if name not in _LAZY_NAMES:
            raise AttributeError(f"module 'mlx_lm' has no attribute {name!r}")
        del package.__dict__["__getattr__"]
        loader.exec_module(package)
        return getattr(package, name)

    package.__dict__["__getattr__"] = resolve
    sys.modules["mlx_lm"] = package


def load_model_function() -> Callable[..., tuple[Any, dict[str, Any]]]:
    """`mlx_lm.utils.load_model`, imported without `transformers`.

    Returns:
        the function: `load_model(path, lazy=…, trust_remote_code=…) -> (model, config)`.
    """
    install()
    module = sys.modules.get(_PRIVATE) or _run_utils()
    function: Callable[..., tuple[Any, dict[str, Any]]] = module.load_model
    return function


def _run_utils() -> ModuleType:
    folder = Path(next(iter(sys.modules["mlx_lm"].__path__)))
    spec = importlib.util.spec_from_file_location(_PRIVATE, folder / "utils.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    stand_ins = {
        "huggingface_hub": _stand_in("huggingface_hub", snapshot_download=_no_network),
        "mlx_lm.tokenizer_utils": _stand_in("tokenizer_utils", TokenizerWrapper=Any, load=_unused),
        "resource": _stand_in("resource", RLIMIT_NOFILE=0, setrlimit=lambda *_: None),
    }
    with IMPORT_LOCK:
        saved = {name: sys.modules.get(name) for name in stand_ins}
        sys.modules.update(stand_ins)
        try:
            spec.loader.exec_module(module)
        finally:
            for name, original in saved.items():
                if original is None:
                    del sys.modules[name]
                else:
                    sys.modules[name] = original
    module.__dict__["glob"] = _stand_in("glob", glob=_glob)
    sys.modules[_PRIVATE] = module
    return module


def _stand_in(name: str, **names: Any) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(names)
    return module


def _glob(pattern: str) -> list[str]:
    """Files of one folder by a pattern of their names."""
    path = Path(pattern)
    return [str(file) for file in path.parent.glob(path.name)]


def _no_network(*_: Any, **__: Any) -> None:
    raise RuntimeError("the engine does not download models")


def _unused(*_: Any, **__: Any) -> None:
    raise RuntimeError("tokenizers are loaded by mlx_stdio.text")
