"""One example of each method and each notification, in the typed structures that define them.

The reference in `protocol.md` shows them as they travel, and the OpenRPC document has them as its
example pairings. Made of the structures, an example cannot name a member that does not exist;
`tools/reference_examples.py` checks the values against the schemas too, and a test asks the real
engine. Only what makes the OpenRPC document imports this module: no start needs it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from mlx_stdio import __version__
from mlx_stdio.errors import EngineError
from mlx_stdio.protocol import PROTOCOL_VERSION, generation, inference, lifecycle, models, text
from mlx_stdio.protocol import notifications as notes
from mlx_stdio.protocol.base import NoParams, Params, Result
from mlx_stdio.protocol.methods import METHODS, UNSUPPORTED_PARAMS
from mlx_stdio.settings import MIB


class Example(NamedTuple):
    """What a host sends, and what it gets.

    Attributes:
        result: the reply's result, or the error that the method ends with; None for `null`, and for
            a notification, which gets no reply.
    """

    params: Params
    result: Result | EngineError | None = None


def _usage(prompt: int, completion: int) -> generation.Usage:
    return generation.Usage(prompt_tokens=prompt, completion_tokens=completion)


_TIMINGS = generation.Timings(
    queue_ms=0.4,
    load_ms=0.0,
    prefill_ms=6.1,
    first_token_ms=8.9,
    total_ms=41.7,
    tokens_per_second=213.4,
)
_CALLS = [method for method in METHODS.values() if not method.notification]
_ADD = [322, 1379, 14, 71, 18, 314, 318]
_QUESTION = [
    inference.ChatMessage(
        role="user",
        content="Write a Python function `add(a, b)` that returns the sum of two numbers.",
    )
]
_RESIDENT = models.ModelState(
    id="pico",
    state="ready",
    path="/opt/mlx-stdio/pico",
    model_type="llama",
    context_length=2048,
    vocabulary_size=6144,
    bytes=15736960,
    pinned=True,
    running=0,
    last_used_seconds_ago=0.0,
    keep_alive_seconds=600.0,
    tokenizer="tokenizers",
)

EXAMPLES: dict[str, Example] = {
    "initialize": Example(
        lifecycle.InitializeParams(protocol_version=1, client_info={"name": "editor"}),
        lifecycle.InitializeResult(
            protocol_version=PROTOCOL_VERSION,
            server_info=lifecycle.ServerInfo(version=__version__),
            capabilities=lifecycle.Capabilities(
                methods=[method.name for method in _CALLS if method.built],
                unsupported_methods=[method.name for method in _CALLS if not method.built],
                unsupported_params=list(UNSUPPORTED_PARAMS),
                framings=["newline", "content-length"],
            ),
            limits=lifecycle.Limits(
                max_message_bytes=32 * MIB, max_concurrent_requests=32, max_queued_requests=1024
            ),
            default_model="pico",
        ),
    ),
    "ping": Example(NoParams(), lifecycle.Empty()),
    "shutdown": Example(NoParams()),
    # The document itself would be longer than the page: each place shows its beginning.
    "rpc.discover": Example(NoParams()),
    "engine/status": Example(
        NoParams(),
        lifecycle.StatusResult(
            device=lifecycle.Device(type="gpu", name="Apple M3", mlx_version="0.31.2"),
            memory=lifecycle.Memory(
                limit_bytes=14495514624,
                weights_bytes=15736960,
                kv_bytes=0,
                prefix_cache_bytes=393216,
                pool_bytes=0,
                active_bytes=16130176,
                peak_bytes=31866880,
                rss_bytes=118489088,
            ),
            requests=lifecycle.RequestCounts(running=0, queued=0),
            counters=lifecycle.Counters(
                requests=3,
                completed=2,
                failed=0,
                cancelled=1,
                prompt_tokens=31,
                completion_tokens=52,
                model_loads=1,
                model_unloads=0,
            ),
            models=[_RESIDENT],
            uptime_seconds=61.25,
        ),
    ),
    "models/list": Example(NoParams(), models.ModelListResult(models=[_RESIDENT])),
    "models/load": Example(
        models.LoadParams(model="pico", pin=True, keep_alive_seconds=600),
        models.LoadResult(model=_RESIDENT, load_ms=38.2),
    ),
    "models/unload": Example(
        models.UnloadParams(model="pico"), models.UnloadResult(freed_bytes=15736960)
    ),
    "generate": Example(
        inference.GenerateParams(
            prompt="def add(a, b):", max_tokens=12, stop=["\n```"], stream=False, seed=7
        ),
        inference.GenerateResult(
            model="pico",
            finish_reason="stop",
            usage=_usage(7, 8),
            timings=_TIMINGS,
            seed=7,
            text="\n    return a + b",
        ),
    ),
    "chat": Example(
        inference.ChatParams(messages=_QUESTION, max_tokens=120, stream=False, seed=7),
        inference.ChatResult(
            model="pico",
            finish_reason="stop",
            usage=_usage(30, 19),
            timings=_TIMINGS,
            seed=7,
            message=inference.AssistantMessage(
                content="```python\ndef add(a, b):\n    return a + b\n```"
            ),
        ),
    ),
    "infill": Example(
        inference.InfillParams(
            prefix="def is_even(n):\n    return n % ",
            suffix="\n\n\nprint(is_even(3))\n",
            max_tokens=16,
            stop=["\n"],
            stream=False,
            seed=7,
        ),
        inference.InfillResult(
            model="pico",
            finish_reason="stop",
            usage=_usage(26, 5),
            timings=_TIMINGS,
            seed=7,
            text="3 == 0",
        ),
    ),
    "embed": Example(
        inference.EmbedParams(input=["a text"]),
        EngineError("unsupported", "`embed` is not built in this version"),
    ),
    "tokenize": Example(
        text.TokenizeParams(text="def add(a, b):"),
        text.TokenizeResult(model="pico", tokens=_ADD),
    ),
    "detokenize": Example(
        text.DetokenizeParams(tokens=_ADD),
        text.DetokenizeResult(model="pico", text="def add(a, b):"),
    ),
    "applyTemplate": Example(
        text.ApplyTemplateParams(messages=[inference.ChatMessage(role="user", content="add")]),
        text.ApplyTemplateResult(
            model="pico",
            prompt="<|im_start|>user\nadd<|im_end|>\n<|im_start|>assistant\n",
            tokens=[5, 1857, 205, 864, 6, 205, 5, 413, 79, 1392, 205],
        ),
    ),
    "$/cancelRequest": Example(lifecycle.CancelParams(id=1)),
    "exit": Example(NoParams()),
}

NOTIFICATION_EXAMPLES: dict[str, Result] = {
    "stream/delta": notes.StreamDelta(
        request_id=1, seq=0, text="\n    ", channel="content", tokens=[263]
    ),
    "$/progress": notes.Progress(
        request_id=1, phase="loading", completed=8388608, total=15736960, unit="bytes"
    ),
    "models/changed": notes.ModelChanged(model="pico", state="available", reason="idle"),
    "engine/fatal": notes.Fatal(
        kind="engineFault", message="ImportError: libmlx.so: cannot open shared object file"
    ),
}


def request_of(name: str) -> dict[str, Any]:
    """An example's request, or the notification that it is, as it travels."""
    params = msgspec.to_builtins(EXAMPLES[name].params)
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": name}
    if METHODS[name].notification:
        del message["id"]
    if params := _without_null(params):
        message["params"] = params
    return message


def _without_null(value: Any) -> Any:
    """Params as a host writes them: a member that is absent is not there."""
    if isinstance(value, dict):
        return {name: _without_null(member) for name, member in value.items() if member is not None}
    return [_without_null(item) for item in value] if isinstance(value, list) else value
