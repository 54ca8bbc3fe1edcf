"""What is generated from the typed definitions: fresh, what the engine gives, and valid.

`@open-rpc/schema-utils-js` is the OpenRPC project's own validator.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from mlx_stdio.errors import CODES, EngineError
from mlx_stdio.protocol.methods import METHODS
from mlx_stdio.protocol.notifications import NOTIFICATIONS
from mlx_stdio.protocol.validate import read_params
from tests.host import ROOT, Host
from tests.node_tools import needs_node, run_node
from tests.test_openrpc_examples import of
from tools.reference import _note

TYPES = (ROOT / "clients" / "go" / "types.go").read_text(encoding="utf-8")
HELLO = [{"role": "user", "content": "hello"}]

GOOD: list[tuple[str, dict[str, Any]]] = [
    ("generate", {"prompt": "x", "maxTokens": 1, "logitBias": {"5": -1.5}, "stop": ["a"]}),
    ("generate", {"prompt": [1, 2], "temperature": 0, "streamToken": 3, "_meta": {"a": 1}}),
    ("generate", {"prompt": "x", "priority": "background", "topK": None}),
    ("chat", {"messages": HELLO}),
    ("chat", {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}),
    ("models/load", {"model": "pico", "pin": True}),
    ("$/cancelRequest", {"id": "a"}),
]
BAD: list[tuple[str, dict[str, Any]]] = [
    ("generate", {}),
    ("generate", {"prompt": 5}),
    ("generate", {"prompt": ""}),
    ("generate", {"prompt": "x", "maxTokens": 0}),
    ("generate", {"prompt": "x", "priority": "high"}),
    ("chat", {"messages": [{"content": "no role"}]}),
    ("chat", {"messages": [{"role": "user", "more": 1}]}),
    ("nosuchmethod", {}),
]


@pytest.fixture(scope="module")
def committed() -> Any:
    return json.loads((ROOT / "protocol" / "openrpc.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("tool", ["openrpc", "gotypes", "reference"])
def test_the_file_is_fresh(tool: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"tools.{tool}", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_stale_file_is_noticed(tmp_path: Path) -> None:
    for folder in ("tools", "mlx_stdio", "clients/go", "protocol"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "protocol.md", tmp_path)
    methods = tmp_path / "mlx_stdio" / "protocol" / "text.py"
    text = methods.read_text(encoding="utf-8")
    methods.write_text(text.replace("skip_special_tokens:", "leave_out:"), encoding="utf-8")
    generated = {
        "openrpc": "protocol/openrpc.json",
        "gotypes": "clients/go/types.go",
        "reference": "protocol.md",
    }
    for tool, file in generated.items():
        command = [sys.executable, "-m", f"tools.{tool}"]
        before = (tmp_path / file).read_text(encoding="utf-8")
        stale = subprocess.run(
            [*command, "--check"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (stale.returncode, "is stale" in stale.stderr) == (1, True), stale.stderr
        assert (tmp_path / file).read_text(encoding="utf-8") == before
        subprocess.run(command, cwd=tmp_path, check=True)
        after = (tmp_path / file).read_text(encoding="utf-8")
        assert "leaveout" in after.lower()
        assert "skipspecialtokens" not in after.lower()


def test_lint_checks_all_that_is_generated() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipes = dict(re.findall(r"^(docs|lint):.*\n((?:\t.*\n)+)", makefile, re.MULTILINE))
    tools = re.findall(r"-m (tools\.\w+)\n", recipes["docs"])
    assert len(tools) == 3
    for tool in tools:
        assert f"-m {tool} --check\n" in recipes["lint"]


def test_the_engine_gives_what_is_committed(shared_host: Host, committed: Any) -> None:
    assert shared_host.call("rpc.discover") == committed


@needs_node
def test_the_official_validator_agrees(shared_host: Host, committed: Any) -> None:
    broken = copy.deepcopy(committed)
    del broken["methods"][0]["params"][0]["schema"]
    documents = {"committed": committed, "engine": shared_host.call("rpc.discover")}
    told = run_node("validate.js", {"documents": {**documents, "broken": broken}, "calls": []})
    for name in documents:
        assert told[name]["valid"] is True, told[name]["valid"]
        assert told[name]["methods"] == list(METHODS)
        # The parser resolved every reference: there is none to a thing that is not there.
        assert told[name]["references"] == 0
    assert "schema" in told["broken"]["valid"]


@needs_node
def test_the_official_checker_of_calls_judges_like_the_engine(committed: Any) -> None:
    examples = [(row["name"], of(row["examples"][0])) for row in committed["methods"]]
    good = [*GOOD, *examples]
    calls = [*good, *BAD]
    told = run_node("validate.js", {"documents": {"it": committed}, "calls": calls})["it"]["calls"]
    for call, verdict in zip(calls, told, strict=True):
        assert (verdict is True) == (call in good), (call, verdict)
    for method, params in calls:
        if method in METHODS:
            with contextlib.nullcontext() if (method, params) in good else refused():
                read_params(METHODS[method], params)


def refused() -> AbstractContextManager[Any]:
    return pytest.raises(EngineError)


def test_the_page_gives_every_bound(committed: Any) -> None:
    """Beyond them is -32602, so a reader must find them."""
    page = (ROOT / "protocol.md").read_text(encoding="utf-8")
    says = {
        "minimum": "from {}",
        "maximum": "to {}",
        "exclusiveMinimum": "above {}",
        "minLength": "not empty",
        "minItems": "not empty",
        "maxItems": "at most {}",
    }
    seen = set()
    for structure in committed["components"]["schemas"].values():
        for name, schema in structure.get("properties", {}).items():
            note = _note(schema)
            assert f" | {note} |\n" in page or name == "_meta", name
            for word, value in bounds_of(schema):
                assert says[word].format(value) in note, (name, word)
                seen.add(word)
    assert seen == says.keys()


def bounds_of(schema: Any) -> Iterator[tuple[str, Any]]:
    """Each keyword that bounds a value or what is in it."""
    words = re.compile(
        r"(exclusive)?(min|max)(imum|Length|Items|Properties)|pattern|multipleOf", re.IGNORECASE
    )
    if isinstance(schema, dict):
        for word, value in schema.items():
            if words.fullmatch(word) and not isinstance(value, dict):
                yield word, value
            yield from bounds_of(value)
    elif isinstance(schema, list):
        for option in schema:
            yield from bounds_of(option)


# Go.


def test_the_go_types_name_everything() -> None:
    assert re.match(r"// Code generated .* DO NOT EDIT\.\n", TYPES)
    for name in METHODS:
        assert re.search(rf'\bMethod\w+ += "{re.escape(name)}"\n', TYPES), name
    for name, kind in NOTIFICATIONS.items():
        assert re.search(rf'\bNotification\w+ += "{re.escape(name)}"\n', TYPES), name
        assert f"\ntype {kind.__name__} struct {{" in TYPES
    for name, code in CODES.items():
        assert re.search(rf'\bKind\w+ +ErrorKind += "{name}"\n', TYPES), name
        assert re.search(rf"\bCode\w+ +(Code +)?= {code}\n", TYPES), name


@pytest.mark.skipif(shutil.which("gofmt") is None, reason="needs Go")
def test_the_go_types_are_laid_out_as_gofmt_does() -> None:
    done = subprocess.run(
        ["gofmt", "-l", "."],
        cwd=ROOT / "clients" / "go",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
