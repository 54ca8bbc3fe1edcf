"""The one error type that crosses the rooms, and the table of its kinds.

An error is made where it is known (a folder without a config, a prompt that is too long) and
travels as an `EngineError` to the session, which turns it into the reply of exactly one request.
The table is the whole list: JSON-RPC's own codes, the cancellation code of the language server
protocol, and positive application codes. Nothing else in -32768…-32000 is ever used.
"""

from __future__ import annotations

from typing import Any, Final

CODES: Final[dict[str, int]] = {
    "parseError": -32700,
    "invalidRequest": -32600,
    "methodNotFound": -32601,
    "invalidParams": -32602,
    "internalError": -32603,
    "cancelled": -32800,
    "modelNotFound": 1001,
    "modelLoadFailed": 1002,
    "contextLengthExceeded": 1003,
    "overloaded": 1004,
    "outOfMemory": 1005,
    "unsupported": 1006,
    "deadlineExceeded": 1007,
    "engineFault": 1008,
    "shuttingDown": 1009,
}


class EngineError(Exception):
    """A failure that belongs to one request.

    Args:
        kind: a key of `CODES`; it is stable and travels as `error.data.kind`.
        message: one sentence for a person.
        data: further members of `error.data`, already in wire form (camelCase, JSON types).
    """

    def __init__(self, kind: str, message: str, **data: Any) -> None:
        # A file's name may hold bytes that are no UTF-8; JSON cannot carry them.
        message = message.encode(errors="replace").decode()
        super().__init__(message)
        self.kind = kind
        self.code = CODES[kind]
        self.message = message
        self.data = data

    def to_wire(self) -> dict[str, Any]:
        """The `error` member of a JSON-RPC response."""
        return {
            "code": self.code,
            "message": self.message,
            "data": {"kind": self.kind, **self.data},
        }


def invalid_params(path: str, message: str) -> EngineError:
    """A parameter that has the right shape but a value that cannot be served (-32602).

    Args:
        path: where the offence is, as in `$.logitBias`.
        message: what is wrong with it.
    """
    return EngineError("invalidParams", f"{message} - at `{path}`", path=path)
