"""What holds of every conversation, checked over all the lines that an engine wrote."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.host import joined, tokens_of


@dataclass
class Account:
    """All that was said of one request."""

    deltas: list[dict[str, Any]] = field(default_factory=list)
    places: dict[str, list[int]] = field(default_factory=dict)
    reply: dict[str, Any] | None = None

    @property
    def text(self) -> str:
        """The streamed text."""
        return joined(self.deltas)

    @property
    def tokens(self) -> list[int]:
        """The streamed tokens."""
        return tokens_of(self.deltas)

    @property
    def code(self) -> int | None:
        """The code of an error reply; None for a result."""
        assert self.reply is not None, "no reply"
        code: int | None = self.reply.get("error", {}).get("code")
        return code

    @property
    def result(self) -> dict[str, Any]:
        """The result; there must be one."""
        assert self.reply is not None, "no reply"
        result: dict[str, Any] = self.reply["result"]
        return result

    @property
    def partial(self) -> dict[str, Any]:
        """What an interrupted generation had so far."""
        assert self.reply is not None, "no reply"
        partial: dict[str, Any] = self.reply["error"]["data"]["partial"]
        return partial


class Ledger:
    """Reads the lines, and fails where a rule of `protocol.md` is broken.

    Every id is used once in such a conversation. The rules: each line is one message; a request
    has at most one reply; nothing with its id comes after that; its deltas are numbered without a
    gap, and joined they are the text of its reply; progress rises strictly within a phase.

    Attributes:
        nameless: error replies whose id is null.
    """

    def __init__(self, lines: Iterable[bytes]) -> None:
        self.accounts: dict[Any, Account] = {}
        self.nameless: list[dict[str, Any]] = []
        for line in lines:
            assert line.endswith(b"\n"), line
            message = json.loads(line)
            for one in message if isinstance(message, list) else [message]:
                self._read(one)
        for request_id, account in self.accounts.items():
            _check_text(request_id, account)

    def __getitem__(self, request_id: Any) -> Account:
        return self.accounts[request_id]

    @property
    def answered(self) -> set[Any]:
        """The ids that have a reply."""
        return {one for one, account in self.accounts.items() if account.reply is not None}

    def _read(self, message: dict[str, Any]) -> None:
        assert message["jsonrpc"] == "2.0"
        if "method" not in message:
            if message["id"] is None:
                self.nameless.append(message)
                return
            account = self.accounts.setdefault(message["id"], Account())
            assert account.reply is None, f"a second reply: {message}"
            assert ("result" in message) != ("error" in message)
            account.reply = message
            return
        params = message["params"]
        if "requestId" not in params:
            return
        account = self.accounts.setdefault(params["requestId"], Account())
        assert account.reply is None, f"after the reply: {message}"
        if message["method"] == "stream/delta":
            assert params["seq"] == len(account.deltas), message
            account.deltas.append(params)
        else:
            told = account.places.setdefault(params["phase"], [])
            assert not told or params["completed"] > told[-1], message
            told.append(params["completed"])


def _check_text(request_id: Any, account: Account) -> None:
    reply = account.reply
    if reply is None or not account.deltas:
        return
    if "result" in reply:
        result = reply["result"]
        text = result["text"] if "text" in result else result["message"]["content"]
    else:
        partial = reply["error"]["data"]["partial"]
        text = partial["text"]
        assert partial["completionTokens"] == len(account.tokens), request_id
    assert account.text == text, request_id
