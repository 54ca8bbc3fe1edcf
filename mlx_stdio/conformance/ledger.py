"""What holds of every conversation, whatever is asked in it; checked on each message that comes.

One message a frame; one reply a request; nothing with its id afterwards; deltas numbered without a
gap; progress that rises strictly. A transcript need not say these: breaking one fails it.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any, Final

from mlx_stdio.conformance.lacking import errors_before

_UNSUPPORTED: Final = 1006
_ANSWERS: Final = frozenset({"result", "error"})


class Broken(Exception):  # noqa: N818 - a rule is broken
    """A rule that holds of every conversation does not hold here."""


class Ledger:
    """Keeps account of the requests that were sent and of what came for each.

    Attributes:
        texts: the texts of each request's deltas, joined.
    """

    def __init__(self) -> None:
        self.texts: dict[Any, str] = {}
        self._before_lack: dict[Any, AbstractSet[int] | None] = {}
        self._open: list[Any] = []
        self._seq: dict[Any, int] = {}
        self._told: dict[tuple[Any, str], int] = {}

    def sent(self, message: Any) -> None:
        """The host has sent a message, or a batch."""
        for one in message if isinstance(message, list) else [message]:
            # Whatever has an id gets a reply, unless it is a reply itself.
            if isinstance(one, dict) and _is_id(one.get("id")) and not one.keys() & _ANSWERS:
                key = _key(one["id"])
                if key not in self._open:
                    self._forget(key)
                self._open.append(key)
                self._before_lack[key] = errors_before(one)

    def is_lack(self, message: Any, patterns: list[Any]) -> bool:
        """Whether a message is `unsupported`, for a request that not every engine can serve.

        Args:
            patterns: what is due; not an error that goes before it.
        """
        error = message.get("error") if isinstance(message, dict) else None
        if not isinstance(error, dict) or error.get("code") != _UNSUPPORTED:
            return False
        before = self._before_lack.get(_key(message.get("id")))
        return before is not None and not any(
            isinstance(pattern, dict)
            and pattern.get("id") == message["id"]
            and isinstance(pattern.get("error"), dict)
            and any(pattern["error"].get("code") == code for code in before)
            for pattern in patterns
        )

    def sent_raw(self) -> None:
        """Bytes were sent that may hold any number of requests: ids are not looked at any more."""
        self._open.append(None)

    def came(self, message: Any) -> None:
        """A message of the engine.

        Raises:
            Broken: a rule is.
        """
        if isinstance(message, list):
            if not message:
                raise Broken("an empty array")
            for one in message:
                if isinstance(one, dict) and "method" in one:
                    raise Broken("a notification inside a batch's reply")
                self._one(one)
        else:
            self._one(message)

    def _forget(self, key: Any) -> None:
        """An id is used again."""
        self.texts.pop(key, None)
        self._seq.pop(key, None)
        self._told = {told: at for told, at in self._told.items() if told[0] != key}

    def _one(self, message: Any) -> None:
        if not isinstance(message, dict):
            raise Broken("a message that is no object")
        if message.get("jsonrpc") != "2.0":
            raise Broken('`jsonrpc` is not "2.0"')
        if "method" in message:
            self._notification(message)
        else:
            self._response(message)

    def _notification(self, message: dict[str, Any]) -> None:
        if message.keys() - {"jsonrpc", "method", "params"}:
            raise Broken("a notification has a member that it must not have")
        params = message.get("params")
        if not isinstance(params, dict) or "requestId" not in params:
            return
        key = _key(params["requestId"])
        if key not in self._open and None not in self._open:
            raise Broken(f"about a request that is not in flight: {params['requestId']!r}")
        if message["method"] == "stream/delta":
            expected = self._seq.get(key, 0)
            if params.get("seq") != expected:
                raise Broken(f"`seq` is {params.get('seq')!r} where {expected} is due")
            if not isinstance(params.get("text"), str):
                raise Broken("a delta without a text")
            self._seq[key] = expected + 1
            self.texts[key] = self.texts.get(key, "") + params["text"]
        elif message["method"] == "$/progress":
            completed, phase = params.get("completed"), str(params.get("phase"))
            if not isinstance(completed, int) or completed <= self._told.get((key, phase), -1):
                raise Broken("`completed` does not rise")
            self._told[key, phase] = completed

    def _response(self, message: dict[str, Any]) -> None:
        if "id" not in message or ("result" in message) == ("error" in message):
            raise Broken("a response has an id, and a result or an error")
        if message.keys() - {"jsonrpc", "id", "result", "error"}:
            raise Broken("a response has a member that it must not have")
        if "error" in message:
            _check_error(message["error"])
        if message["id"] is None:
            return
        key = _key(message["id"])
        if key in self._open:
            self._open.remove(key)
        elif None not in self._open:
            raise Broken(f"a reply to a request that is not in flight: {message['id']!r}")


def _check_error(error: Any) -> None:
    if not isinstance(error, dict) or error.keys() - {"code", "message", "data"}:
        raise Broken("an error is an object of `code`, `message` and `data`")
    if not isinstance(error.get("code"), int) or not isinstance(error.get("message"), str):
        raise Broken("an error's `code` is an integer, its `message` a string")
    data = error.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("kind"), str):
        raise Broken("an error's `data` has a `kind`")


def _is_id(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool))


def _key(request_id: Any) -> Any:
    """An id that can be looked up: JSON's `true` is not 1, and what is no id is its own text."""
    return request_id if _is_id(request_id) else repr(request_id)
