"""The example pairings of the OpenRPC document: by the methods' own schemas, and never at a start.

What the real engine answers to them is in `tests/test_clauses_examples.py`; the official checker of
calls judges their params in `tests/test_generated.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from mlx_stdio.errors import CODES
from mlx_stdio.protocol.methods import METHODS
from mlx_stdio.protocol.validate import read_params
from tests.host import COMMAND, ROOT
from tests.schema import check, resolve


@pytest.fixture(scope="module")
def committed() -> Any:
    return json.loads((ROOT / "protocol" / "openrpc.json").read_text(encoding="utf-8"))


def of(pairing: Any) -> dict[str, Any]:
    """The params of an example pairing object."""
    return {param["name"]: param["value"] for param in pairing["params"]}


def test_every_example_is_what_its_methods_schemas_allow(committed: Any) -> None:
    ended = 0
    for row in committed["methods"]:
        name, pairings = row["name"], row["examples"]
        assert pairings, name
        schemas = {param["name"]: param["schema"] for param in row["params"]}
        required = {param["name"] for param in row["params"] if param["required"]}
        for pairing in pairings:
            given = of(pairing)
            assert len(given) == len(pairing["params"])
            assert required <= given.keys() <= schemas.keys(), name
            for member, value in given.items():
                check(committed, schemas[member], value, f"{name}.{member}")
            read_params(METHODS[name], given)
            assert ("result" in pairing) + ("x-error" in pairing) == ("result" in row), name
            if "result" in pairing:
                check(committed, row["result"]["schema"], pairing["result"]["value"], name)
            elif error := pairing.get("x-error"):
                kinds = [resolve(committed, entry["$ref"])["message"] for entry in row["errors"]]
                assert error["data"]["kind"] in kinds
                assert CODES[error["data"]["kind"]] == error["code"]
                ended += 1
    assert ended < len(METHODS) / 2
    for note in committed["x-notifications"]:
        assert note["examples"], note["name"]
        for pairing in note["examples"]:
            check(committed, note["params"], of(pairing), note["name"])


def test_the_example_of_the_document_is_one(committed: Any) -> None:
    [pairing] = next(row for row in committed["methods"] if row["name"] == "rpc.discover")[
        "examples"
    ]
    shown = pairing["result"]["value"]
    assert shown["methods"] == []
    assert {**committed, "methods": []}.items() >= shown.items()


def test_a_start_does_not_import_the_examples() -> None:
    """They are for `rpc.discover`; the handshake must not pay for them."""

    def imported(method: str, **params: Any) -> bool:
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        done = subprocess.run(
            [sys.executable, "-X", "importtime", *COMMAND[1:]],
            input=json.dumps(call),
            capture_output=True,
            text=True,
            timeout=100,
            check=True,
        )
        assert "result" in json.loads(done.stdout)
        assert "mlx_stdio.protocol.methods" in done.stderr
        return "mlx_stdio.protocol.examples" in done.stderr

    assert not imported("initialize", protocolVersion=1)
    assert imported("rpc.discover")
