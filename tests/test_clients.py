"""Clients that nobody here wrote, unmodified, against the real engine.

`vscode-jsonrpc` is what editors use (Content-Length framing), `JSONRPCDispatcher` is the generic
part of the Python SDK for MCP (newline framing). `creachadair/jrpc2`, for Go, is tested in
`clients/go/thirdparty`.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from mlx_stdio import __version__
from tests.host import COMMAND, PATIENCE, ROOT, joined
from tests.node_tools import needs_node, run_node

PROMPT = "def add(a, b):"
LONG = {"prompt": PROMPT, "maxTokens": 800, "ignoreEos": True}

# vscode-jsonrpc.


@pytest.fixture(scope="module")
def editor() -> Any:
    """What happened between `vscode-jsonrpc` and the engine."""
    return run_node("editor.js", None, *COMMAND)


def replies(editor: Any) -> dict[str, dict[str, Any]]:
    return {event["reply"]: event for event in editor["events"] if "reply" in event}


def streams(editor: Any) -> dict[str, list[dict[str, Any]]]:
    """The deltas of each request, by its `streamToken`; none may come after the reply."""
    found: dict[str, list[dict[str, Any]]] = {}
    done: set[str] = set()
    for event in editor["events"]:
        if "reply" in event:
            done.add(event["reply"])
        else:
            token = event["delta"]["streamToken"]
            assert token not in done
            found.setdefault(token, []).append(event["delta"])
    return found


@needs_node
def test_an_editor_shakes_hands_and_leaves(editor: Any) -> None:
    told = replies(editor)
    assert told["initialize"]["result"]["serverInfo"] == {
        "name": "mlx-stdio",
        "version": __version__,
    }
    assert told["shutdown"]["result"] is None
    assert editor["exit"] == 0


@needs_node
def test_an_editor_gets_the_text_as_it_comes(editor: Any) -> None:
    told, deltas = replies(editor), streams(editor)
    assert len(deltas["short"]) > 2
    for name in ("short", "a", "b", "c"):
        assert joined(deltas[name]) == told[name]["result"]["text"]
    assert len({told[name]["result"]["text"] for name in "abc"}) == 1


@needs_node
def test_an_editors_cancellation_token_ends_a_request(editor: Any) -> None:
    error = replies(editor)["long"]["error"]
    assert (error["code"], error["data"]["kind"]) == (-32800, "cancelled")
    text = joined(streams(editor)["long"])
    assert error["data"]["partial"]["text"].startswith(text)
    assert error["data"]["partial"]["completionTokens"] < LONG["maxTokens"]


@needs_node
def test_an_editor_is_told_what_was_wrong(editor: Any) -> None:
    error = replies(editor)["wrong"]["error"]
    assert (error["code"], error["data"]) == (
        -32602,
        {"kind": "invalidParams", "path": "$.prompt"},
    )


# The Python SDK's dispatcher.

Notes = list[tuple[str, dict[str, Any]]]


def deltas_of(notes: Notes, request_id: Any) -> list[dict[str, Any]]:
    return [
        params
        for method, params in notes
        if method == "stream/delta" and params["requestId"] == request_id
    ]


def with_dispatcher(
    folder: Path, talk: Callable[[Any, Notes, Callable[..., Awaitable[Any]]], Awaitable[None]]
) -> None:
    """Let a coroutine talk to an engine that the SDK spawned.

    It is given the dispatcher, the notifications so far in the order of the wire, and a function
    that waits until they hold something.
    """
    from mcp.client.stdio import StdioServerParameters, stdio_client
    from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher

    async def refuse(context: Any, method: str, params: Mapping[str, Any] | None) -> Any:
        raise AssertionError(method)

    async def run() -> None:
        notes: Notes = []
        came = anyio.Event()

        def keep(method: str, params: Mapping[str, Any] | None) -> bool:
            nonlocal came
            notes.append((method, dict(params or {})))
            came.set()
            came = anyio.Event()
            return True

        async def until(holds: Callable[[], bool]) -> None:
            while not holds():
                await came.wait()

        command, *arguments = COMMAND
        engine = StdioServerParameters(
            command=command, args=arguments, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        with (folder / "stderr").open("w") as log, anyio.fail_after(PATIENCE):
            async with (
                stdio_client(engine, log) as streams,
                anyio.create_task_group() as tasks,
            ):
                dispatcher = JSONRPCDispatcher(*streams)
                await tasks.start(dispatcher.run, refuse, refuse, keep)
                await talk(dispatcher, notes, until)
                tasks.cancel_scope.cancel()

    anyio.run(run)


def test_the_sdks_dispatcher_generates(tmp_path: Path) -> None:
    async def talk(dispatcher: Any, notes: Notes, until: Any) -> None:
        hello = await dispatcher.send_raw_request("initialize", {"protocolVersion": 1})
        assert hello["protocolVersion"] == 1
        assert await dispatcher.send_raw_request("ping", None) == {}
        params = {"prompt": PROMPT, "maxTokens": 12}
        result = await dispatcher.send_raw_request("generate", params, {"request_id": "mine"})
        # The reply is there: so are, in the order of the wire, all deltas.
        deltas = deltas_of(notes, "mine")
        assert len(deltas) > 2
        assert joined(deltas) == result["text"]

    with_dispatcher(tmp_path, talk)


def test_the_sdks_dispatcher_runs_requests_side_by_side(tmp_path: Path) -> None:
    async def talk(dispatcher: Any, notes: Notes, until: Any) -> None:
        results: dict[str, Any] = {}

        async def ask(name: str, tokens: int) -> None:
            params = {"prompt": PROMPT, "maxTokens": tokens, "ignoreEos": True, "seed": 1}
            results[name] = await dispatcher.send_raw_request(
                "generate", params, {"request_id": name}
            )

        async with anyio.create_task_group() as tasks:
            for name, tokens in (("a", 60), ("b", 60), ("c", 60), ("d", 30)):
                tasks.start_soon(ask, name, tokens)
        assert next(iter(results)) == "d"
        for name, result in results.items():
            assert joined(deltas_of(notes, name)) == result["text"]
        # The first of one is before the last of another: they were not run one after the other.
        order = [params["requestId"] for method, params in notes if method == "stream/delta"]
        last_start = max(order.index(name) for name in "abc")
        assert all(name in order[last_start + 1 :] for name in "abc")

    with_dispatcher(tmp_path, talk)


def test_the_sdks_dispatcher_cancels(tmp_path: Path) -> None:
    from mcp.shared.exceptions import MCPError

    async def talk(dispatcher: Any, notes: Notes, until: Any) -> None:
        caught: list[Any] = []

        async def ask() -> None:
            with pytest.raises(MCPError) as error:
                await dispatcher.send_raw_request("generate", LONG, {"request_id": "long"})
            caught.append(error.value.error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await until(lambda: len(deltas_of(notes, "long")) > 2)
            await dispatcher.notify("$/cancelRequest", {"id": "long"})
        [error] = caught
        assert (error.code, error.data["kind"]) == (-32800, "cancelled")
        assert joined(deltas_of(notes, "long")) == error.data["partial"]["text"]
        count = len(notes)
        assert await dispatcher.send_raw_request("ping", None) == {}
        assert len(notes) == count

    with_dispatcher(tmp_path, talk)


def test_the_sdks_dispatcher_gets_errors_with_their_data(tmp_path: Path) -> None:
    from mcp.shared.exceptions import MCPError

    cases: list[tuple[str, dict[str, Any], int, dict[str, Any]]] = [
        ("nosuchmethod", {}, -32601, {"kind": "methodNotFound"}),
        ("generate", {"prompt": 5}, -32602, {"kind": "invalidParams", "path": "$.prompt"}),
        ("generate", {"prompt": "a", "model": "nosuchmodel"}, 1001, {"kind": "modelNotFound"}),
        ("embed", {"input": ["a"]}, 1006, {"kind": "unsupported"}),
    ]

    async def talk(dispatcher: Any, notes: Notes, until: Any) -> None:
        for method, params, code, data in cases:
            with pytest.raises(MCPError) as caught:
                await dispatcher.send_raw_request(method, params)
            error = caught.value.error
            assert error.code == code
            assert data.items() <= error.data.items()

    with_dispatcher(tmp_path, talk)
