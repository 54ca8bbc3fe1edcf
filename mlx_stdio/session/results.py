"""The result of each generating method, from its text and the members that all of them share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlx_stdio.protocol.generation import Generation
from mlx_stdio.protocol.inference import (
    AssistantMessage,
    ChatParams,
    ChatResult,
    GenerateParams,
    GenerateResult,
    InfillParams,
    InfillResult,
)


def _chat_result(text: str, shared: dict[str, Any]) -> ChatResult:
    return ChatResult(message=AssistantMessage(content=text), **shared)


BUILDERS: dict[type[Generation], Callable[[str, dict[str, Any]], Any]] = {
    GenerateParams: lambda text, shared: GenerateResult(text=text, **shared),
    InfillParams: lambda text, shared: InfillResult(text=text, **shared),
    ChatParams: _chat_result,
}
