"""What `models/lean.py` relies on in `mlx_lm`, so that a version that breaks it is noticed here."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from pathlib import Path

from tests.host import ROOT, run_python
from tests.installations import hide

HEAVY = {"transformers", "huggingface_hub", "torch", "requests", "httpx"}

SHARED = """
import dis, inspect, json, sys, types
from mlx_stdio.models.lean import _LAZY_NAMES, load_model_function
function = load_model_function()
module = sys.modules[function.__module__]
stand_ins = {"snapshot_download", "TokenizerWrapper", "_load_tokenizer", "resource"}
seen, used, waiting = set(), set(), [function]
while waiting:
    each = waiting.pop()
    if each.__name__ in seen:
        continue
    seen.add(each.__name__)
    codes = [each.__code__]
    while codes:
        code = codes.pop()
        codes += [inner for inner in code.co_consts if isinstance(inner, types.CodeType)]
        names = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
        used |= stand_ins & names
        for name in names:
            value = module.__dict__.get(name)
            if isinstance(value, types.FunctionType) and value.__module__ == module.__name__:
                waiting.append(value)
    for default in (each.__defaults__ or ()):
        if isinstance(default, types.FunctionType):
            waiting.append(default)
heavy = {"transformers", "huggingface_hub", "torch", "requests", "httpx"} & set(sys.modules)
parameters = list(inspect.signature(function).parameters)
print(json.dumps([sorted(seen), sorted(used), sorted(heavy), parameters, sorted(_LAZY_NAMES)]))
"""


def source_of(name: str) -> ast.Module:
    """A file of `mlx_lm`, which is not imported for it."""
    spec = importlib.util.find_spec("mlx_lm")
    assert spec is not None
    assert spec.submodule_search_locations
    return ast.parse(Path(spec.submodule_search_locations[0], name).read_text())


def imports_of(tree: ast.AST, *, everywhere: bool) -> dict[str, set[str]]:
    """Modules that are imported and what is taken from each; those inside functions if wanted."""
    found: dict[str, set[str]] = {}
    waiting: list[ast.AST] = [tree]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    found.setdefault(alias.name, set())
            elif isinstance(node, ast.ImportFrom):
                name = "." * node.level + (node.module or "")
                found.setdefault(name, set()).update(alias.name for alias in node.names)
            elif everywhere or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                waiting.append(node)
    return found


def attributes_of(tree: ast.Module, name: str) -> set[str]:
    """What is used of a module that is imported under this name."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == name
    }


def test_the_loader_of_weights_needs_no_more_than_is_stood_in_for() -> None:
    tree = source_of("utils.py")
    taken = imports_of(tree, everywhere=False)
    foreign = {name: names for name, names in taken.items() if name not in sys.stdlib_module_names}
    assert set(foreign) <= {
        "mlx.core",
        "mlx.nn",
        "mlx.utils",
        "modelscope",  # only if the environment asks for it
        "huggingface_hub",
        ".tokenizer_utils",
    }
    assert foreign["huggingface_hub"] == {"snapshot_download"}
    assert foreign[".tokenizer_utils"] == {"TokenizerWrapper", "load"}
    assert attributes_of(tree, "resource") == {"RLIMIT_NOFILE", "setrlimit"}
    assert attributes_of(tree, "glob") == {"glob"}


def test_loading_weights_never_meets_a_stand_in() -> None:
    functions, used, heavy, parameters, lazy = run_python("-c", SHARED)
    assert {"load_model", "load_config", "_get_classes"} <= set(functions)
    assert used == []
    assert heavy == []
    assert parameters[0] == "model_path"
    assert {"lazy", "trust_remote_code"} <= set(parameters)
    package = source_of("__init__.py")
    [names] = [
        ast.literal_eval(node.value)
        for node in package.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    assert sorted(names) == lazy


NAMES = """
import importlib, json, sys
from mlx_stdio.models.lean import install
install()
missing = []
for module, names in json.loads(sys.stdin.read()).items():
    found = importlib.import_module(module)
    for name in names:
        if not hasattr(found, name):
            try:
                importlib.import_module(f"{module}.{name}")
            except ImportError:
                missing.append(f"{module}.{name}")
print(json.dumps([missing, sorted({n.split(".")[0] for n in sys.modules})]))
"""


def test_every_name_that_the_engine_takes_is_there_without_transformers(tmp_path: Path) -> None:
    taken: dict[str, set[str]] = {}
    for file in (ROOT / "mlx_stdio").rglob("*.py"):
        for name, names in imports_of(ast.parse(file.read_text()), everywhere=True).items():
            if name.split(".")[0] == "mlx_lm":
                taken.setdefault(name, set()).update(names)
    assert "make_prompt_cache" in taken["mlx_lm.models.cache"]
    # The caches' classes that are known by their names.
    kinds = {"KVCache", "BatchKVCache", "RotatingKVCache", "QuantizedKVCache", "CacheList"}
    taken["mlx_lm.models.cache"] |= kinds
    hidden = hide(tmp_path / "hidden", "transformers", "huggingface_hub")
    code = f"import sys; sys.path.insert(0, {str(hidden)!r})\n{NAMES}"
    asked = {name: sorted(names) for name, names in taken.items()}
    missing, packages = run_python("-c", code, data=json.dumps(asked))
    assert missing == []
    assert not HEAVY & set(packages)
