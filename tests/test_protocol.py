"""The one definition of the protocol: the table, `rpc.discover`, what is really sent, the page."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_stdio import __version__
from mlx_stdio.errors import CODES, EngineError
from mlx_stdio.protocol.methods import METHODS
from mlx_stdio.protocol.notifications import NOTIFICATIONS
from mlx_stdio.protocol.validate import read_params
from tests.host import ROOT, Host, RpcError
from tests.residents import messages
from tests.schema import check, fits, resolve

PAGE = (ROOT / "protocol.md").read_text(encoding="utf-8")
HELLO = [{"role": "user", "content": "hello"}]

# Version 1 of the wire contract: what hosts may rely on, whatever else is added.
CONTRACT: dict[str, tuple[str, str]] = {
    "initialize": (
        "protocolVersion clientInfo capabilities",
        "protocolVersion serverInfo capabilities limits defaultModel",
    ),
    "ping": ("", ""),
    "shutdown": ("", ""),
    "rpc.discover": ("", ""),
    "engine/status": ("", "device memory requests counters uptimeSeconds"),
    "models/list": ("", "models"),
    "models/load": ("model pin keepAliveSeconds adapter", "model loadMs"),
    "models/unload": ("model", "freedBytes"),
    "generate": ("prompt", "text"),
    "chat": ("messages tools toolChoice enableThinking templateArgs", "message"),
    "infill": ("prefix suffix", "text"),
    "embed": ("input pooling normalize", "embeddings usage"),
    "tokenize": ("text", "tokens"),
    "detokenize": ("tokens", "text"),
    "applyTemplate": ("messages", "prompt tokens"),
    "$/cancelRequest": ("id", ""),
    "exit": ("", ""),
}
GENERATION = (
    "model maxTokens temperature topP topK minP xtcProbability xtcThreshold repetitionPenalty "
    "repetitionContext presencePenalty frequencyPenalty logitBias seed stop stopTokens ignoreEos "
    "logprobs stream streamToken priority timeoutMs responseFormat adapter draftModel "
    "numDraftTokens kvBits maxKvSize cachePrompt"
)
OUTCOME = "model finishReason usage timings seed logprobs"
NOTES = {
    "stream/delta": "requestId streamToken seq text channel tokens logprobs",
    "$/progress": "requestId streamToken phase completed total unit",
    "models/changed": "model state reason",
    "engine/fatal": "kind message",
}
MEMORY = "limitBytes weightsBytes kvBytes prefixCacheBytes poolBytes activeBytes peakBytes rssBytes"


@pytest.fixture(scope="module")
def document(shared_host: Host) -> Any:
    return shared_host.call("rpc.discover")


def members(document: Any, schema: dict[str, Any]) -> set[str]:
    if "$ref" in schema:
        schema = resolve(document, schema["$ref"])
    return set(schema.get("properties", {}))


def test_the_table_has_the_contract(document: Any) -> None:
    assert METHODS.keys() == CONTRACT.keys()
    rows = {method["name"]: method for method in document["methods"]}
    assert rows.keys() == CONTRACT.keys()
    for name, (params, result) in CONTRACT.items():
        generating = name in ("generate", "chat", "infill")
        wanted = set(f"{params} {GENERATION if generating else ''}".split())
        assert wanted <= {param["name"] for param in rows[name]["params"]}, name
        wanted = set(f"{result} {OUTCOME if generating else ''}".split())
        assert wanted <= members(document, rows[name].get("result", {}).get("schema", {})), name
    schemas = document["components"]["schemas"]
    assert set(MEMORY.split()) <= members(document, schemas["Memory"])
    notes = {
        note["name"]: members(document, note["params"]) for note in document["x-notifications"]
    }
    assert notes == {name: set(text.split()) for name, text in NOTES.items()}
    assert NOTIFICATIONS.keys() == NOTES.keys()


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_the_document_is_whole(document: Any) -> None:
    assert document["openrpc"].startswith("1.3.")
    assert document["info"]["version"] == __version__
    found = set(references(document))
    assert len(found) > 30
    for reference in found:
        assert resolve(document, reference)
    for method in document["methods"]:
        assert method["summary"]
        required = [param["required"] for param in method["params"]]
        assert required == sorted(required, reverse=True)
        assert len({param["name"] for param in method["params"]}) == len(required)
        if METHODS[method["name"]].notification:
            assert not {"result", "errors"} & method.keys()
            continue
        assert method["result"]["schema"]
        errors = [resolve(document, error["$ref"]) for error in method["errors"]]
        assert all(CODES[error["data"]["kind"]] == error["code"] for error in errors)
        assert {"cancelled", "invalidParams"} <= {error["message"] for error in errors}
        assert method.get("x-built", True) == METHODS[method["name"]].built
    assert document["components"]["errors"].keys() == CODES.keys()


def test_what_a_result_always_has_is_required(document: Any) -> None:
    """Types made from the document then need no null for it."""
    schemas = document["components"]["schemas"]
    for name in ("AssistantMessage", "LoadResult", "ServerInfo", "Timings", "Usage"):
        assert set(schemas[name]["required"]) == schemas[name]["properties"].keys(), name
    assert "blas" not in schemas["Device"]["required"]
    assert "topK" not in schemas["GenerateParams"]["required"]


def converse(host: Host) -> dict[Any, str]:
    """A session in which every method and every kind of notification occurs; id to method."""
    score = {"logprobs": 3, "maxTokens": 3, "ignoreEos": True}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("initialize", {"protocolVersion": 1, "clientInfo": {"name": "test"}, "_meta": {"a": 1}}),
        ("ping", {}),
        ("engine/status", {}),
        ("models/list", {}),
        ("generate", {"prompt": [7] * 70, "streamToken": "mine", **score}),
        (
            "generate",
            {"prompt": [7], "maxTokens": 1, "stopTokens": list(range(300)), "stream": False},
        ),
        ("models/load", {"model": "other", "pin": True, "keepAliveSeconds": 9, "streamToken": 1}),
        ("chat", {"messages": HELLO, "seed": 1, "temperature": 0.5, "topK": 5, **score}),
        ("infill", {"prefix": "def", "suffix": "return", "maxTokens": 2, "stop": ["zz"]}),
        ("tokenize", {"text": "hello"}),
        ("detokenize", {"tokens": [70, 71]}),
        ("applyTemplate", {"messages": HELLO, "tools": [{"type": "function"}]}),
        ("engine/status", {}),
        ("models/list", {}),
        ("models/unload", {"model": "tiny"}),
        ("embed", {"input": ["a"]}),
        ("generate", {"prompt": "x", "timeoutMs": 1, "maxTokens": 2000, "ignoreEos": True}),
        ("generate", {"model": "nosuchmodel", "prompt": "x"}),
        ("generate", {"prompt": [7] * 3000}),
        ("generate", {"prompt": ""}),
        ("nosuchmethod", {}),
        ("rpc.discover", {}),
        ("shutdown", {}),
        ("tokenize", {"text": "x"}),
    ]
    # One place: one of these waits for it, and is told so.
    ask = {"prompt": [7] * 9, "maxTokens": 30, "ignoreEos": True}
    both = [host.start("generate", **ask) for _ in range(2)]
    methods: dict[Any, str] = dict.fromkeys(both, "generate")
    for request_id in both:
        host.reply(request_id)
    for method, params in calls:
        request_id = host.start(method, **params)
        methods[request_id] = method
        with contextlib.suppress(RpcError):
            host.reply(request_id)
    return methods


def test_what_is_sent_is_what_the_document_says(models: Path, document: Any) -> None:
    arguments = ["--models-dir", str(models), "--model", "tiny", "--prefill-step", "32"]
    with Host(*arguments, "--max-concurrent", "1") as host:
        methods = converse(host)
        seen = messages(host)
    rows = {method["name"]: method for method in document["methods"]}
    notes = {note["name"]: note["params"] for note in document["x-notifications"]}
    kinds: set[str] = set()
    answered: set[str] = set()
    for message in seen:
        assert message.pop("jsonrpc") == "2.0"
        if "method" in message:
            assert message.keys() == {"method", "params"}
            check(document, notes[message["method"]], message["params"])
            kinds.add(message["params"].get("phase", message["method"]))
        elif "result" in message:
            assert message.keys() == {"id", "result"}
            method = methods[message["id"]]
            check(document, rows[method]["result"]["schema"], message["result"], method)
            answered.add(method)
        else:
            assert message.keys() == {"id", "error"}
            error = message["error"]
            assert error.keys() == {"code", "message", "data"}
            assert CODES[error["data"]["kind"]] == error["code"]
            kinds.add(error["data"]["kind"])
            if methods[message["id"]] in rows:
                listed = [entry["$ref"] for entry in rows[methods[message["id"]]]["errors"]]
                assert f"#/components/errors/{error['data']['kind']}" in listed
    calls = {name for name, method in METHODS.items() if method.built and not method.notification}
    assert answered == calls
    assert kinds >= {"stream/delta", "models/changed", "queued", "loading", "prefill"}
    assert kinds >= {"unsupported", "deadlineExceeded", "modelNotFound", "contextLengthExceeded"}
    assert kinds >= {"invalidParams", "methodNotFound", "shuttingDown"}


def test_the_checker_can_fail(document: Any, shared_host: Host) -> None:
    schema = {"$ref": "#/components/schemas/GenerateResult"}
    good = shared_host.call("generate", prompt="a", maxTokens=2, logprobs=1)
    assert fits(document, schema, good)
    changes: list[dict[str, Any]] = [
        {"text": 1},
        {"seed": True},
        {"more": 1},
        {"finishReason": "other"},
        {"usage": {}},
        {"logprobs": [{"token": 1}]},
    ]
    for change in changes:
        assert not fits(document, schema, {**good, **change})
    assert not fits(document, schema, {name: good[name] for name in good if name != "model"})


@pytest.mark.parametrize(
    ("member", "step"),
    [
        ("foo", ".foo"),
        ("_x1", "._x1"),
        ("é", "['é']"),
        ("a.b", "['a.b']"),
        ("", "['']"),
        ("it's\\", r"['it\'s\\']"),
        ("0", "['0']"),
    ],
)
def test_a_path_is_in_jsonpaths_spelling(member: str, step: str) -> None:
    with pytest.raises(EngineError) as caught:
        read_params(METHODS["generate"], {"prompt": "a", member: 1})
    assert caught.value.data["path"] == f"${step}"
    messages = [{"role": "user", member: 1}]
    with pytest.raises(EngineError) as caught:
        read_params(METHODS["chat"], {"messages": messages})
    assert caught.value.data["path"] == f"$.messages[0]{step}"


# The page.


def test_the_page_has_everything() -> None:
    for name, method in METHODS.items():
        marks = " (not built)" * (not method.built) + " (notification)" * method.notification
        assert f"\n#### `{name}`{marks}\n" in PAGE
    for name in NOTIFICATIONS:
        assert f"\n#### `{name}`\n" in PAGE
    for kind, code in CODES.items():
        assert f"\n| {code} | `{kind}` | " in PAGE
    table = PAGE.split("## 12. Command line and exit codes")[1].split("## 13.")[0]
    exits = set(re.findall(r"\d+", " ".join(re.findall(r"\n\| ([\d, ]+) \|", table))))
    assert exits == {"0", "1", "2", "70", "130", "143"}


def test_the_reference_is_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.reference", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_pages_conversation_is_the_protocol(document: Any) -> None:
    """What is shortened there (`…`) is left out here; every other member must exist."""
    rows = {method["name"]: method for method in document["methods"]}
    notes = {note["name"]: note["params"] for note in document["x-notifications"]}
    asked: dict[Any, str] = {}
    lines = re.findall(r"^([<>]) (\{.*\})$", PAGE.split("## 2.")[0], re.MULTILINE)
    assert len(lines) > 10
    for direction, line in lines:
        message = json.loads(re.sub(r',?"\w+":(\{…\}|\[…\]|…)', "", line))
        if direction == ">":
            params = {p["name"]: p["schema"] for p in rows[message["method"]]["params"]}
            for name, value in message.get("params", {}).items():
                check(document, params[name], value, f"{message['method']}.{name}")
            if "id" in message:
                asked[message["id"]] = message["method"]
        elif "method" in message:
            check(document, notes[message["method"]], message["params"])
        elif "error" in message:
            assert CODES[message["error"]["data"]["kind"]] == message["error"]["code"]
        else:
            schema = rows[asked[message["id"]]]["result"]["schema"]
            known = members(document, schema)
            assert not isinstance(message["result"], dict) or message["result"].keys() <= known
