"""`initialize`, `ping`, `shutdown`, `exit`, `$/cancelRequest`, `rpc.discover`, `engine/status`."""

from __future__ import annotations

from typing import Annotated, Any

from mlx_stdio.protocol.base import Params, Result, doc
from mlx_stdio.protocol.models import ModelState


class InitializeParams(Params, kw_only=True, frozen=True):
    """The handshake; recommended, not required."""

    protocol_version: Annotated[int, doc("The highest version that the client speaks.", ge=1)]
    client_info: Annotated[dict[str, Any] | None, doc("Name and version, for the log.")] = None
    capabilities: Annotated[dict[str, Any] | None, doc("Reserved.")] = None


class ServerInfo(Result, kw_only=True, omit_defaults=False):
    """Who answers."""

    version: Annotated[str, doc("The engine's release, such as `0.1.0`; not the protocol's.")]
    name: Annotated[str, doc("The engine's name.")] = "mlx-stdio"


class Limits(Result, kw_only=True):
    """What a client must stay within."""

    max_message_bytes: Annotated[
        int, doc("Longest message that is read, in bytes, its frame not counted.")
    ]
    max_concurrent_requests: Annotated[
        int, doc("Most generations (`generate`, `chat`, `infill`) that run side by side.")
    ]
    max_queued_requests: Annotated[
        int, doc("Most generations that wait beside those; one more is answered `overloaded`.")
    ]


class Capabilities(Result, kw_only=True):
    """What this build can do; a method or feature that is absent answers `unsupported`."""

    methods: Annotated[list[str], doc("Methods that work.")]
    unsupported_methods: Annotated[list[str], doc("Methods defined, but not built.")]
    unsupported_params: Annotated[list[str], doc("Parameters defined, but not built.")]
    framings: Annotated[
        list[str], doc("Framings that the engine can speak: `newline`, `content-length`.")
    ]


class InitializeResult(Result, kw_only=True):
    """The engine's side of the handshake."""

    protocol_version: Annotated[
        int, doc("The version in force: the highest that both sides speak.")
    ]
    server_info: Annotated[ServerInfo, doc("Which engine this is.")]
    capabilities: Annotated[Capabilities, doc("What works, and what is only defined.")]
    limits: Annotated[Limits, doc("Those in force.")]
    default_model: Annotated[
        str,
        doc("For requests that name no model: as `--model` gave it, so not always canonical."),
    ]


class CancelParams(Params, kw_only=True, frozen=True):
    """Which request to cancel. Unknown and finished ids are passed over."""

    id: Annotated[
        str | int, doc('The request\'s own, of the same type: `7` and `"7"` are two ids.')
    ]


class Device(Result, kw_only=True):
    """What the models run on."""

    type: Annotated[str, doc("`cpu`, `gpu`, or `none` before MLX is loaded.")]
    name: Annotated[str, doc("The device's, as MLX gives it; for people to read.")]
    mlx_version: Annotated[str | None, doc("MLX's release; absent before it is loaded.")] = None
    blas: Annotated[str | None, doc("On a Linux CPU: the OpenBLAS in force, or `bundled`.")] = None


class Memory(Result, kw_only=True):
    """Bytes. Figures of MLX are 0 before it is loaded."""

    limit_bytes: Annotated[int, doc("What weights, KV caches and prefixes may take.")]
    weights_bytes: Annotated[int, doc("Weights of the resident models.")]
    kv_bytes: Annotated[int, doc("KV caches of running requests.")]
    prefix_cache_bytes: Annotated[int, doc("KV kept for later prompts.")]
    pool_bytes: Annotated[int, doc("Freed buffers that MLX keeps for reuse.")]
    active_bytes: Annotated[int, doc("What MLX has in use.")]
    peak_bytes: Annotated[int, doc("The most that MLX ever had in use, since the start.")]
    rss_bytes: Annotated[int, doc("Resident memory of the process; 0 if unknown.")]


class RequestCounts(Result, kw_only=True):
    """Generations in flight."""

    running: Annotated[int, doc("Those whose prompt is being read or whose text decoded.")]
    queued: Annotated[
        int, doc("All others: prepared, waiting for a place, a model or room, or set aside.")
    ]


class Counters(Result, kw_only=True):
    """Totals since the start."""

    requests: Annotated[
        int,
        doc(
            "Requests begun, those in flight included. Not counted: `initialize`, `ping`, "
            "`shutdown`, `rpc.discover`, `engine/status`, and what was refused before it began."
        ),
    ]
    completed: Annotated[int, doc("Of those: answered with a result.")]
    failed: Annotated[int, doc("Of those: answered with an error other than `cancelled`.")]
    cancelled: Annotated[int, doc("Of those: answered with `cancelled`.")]
    prompt_tokens: Annotated[int, doc("Sum of `usage.promptTokens` of all results.")]
    completion_tokens: Annotated[int, doc("Sum of `usage.completionTokens` of all results.")]
    model_loads: Annotated[int, doc("How many times a model has become resident.")]
    model_unloads: Annotated[int, doc("How many times one was let go, for whatever reason.")]


class StatusResult(Result, kw_only=True):
    """The engine at this moment; answered whatever it is doing."""

    device: Annotated[Device, doc("Of type `none` before MLX is loaded.")]
    memory: Annotated[Memory, doc("What is held now, and the limit.")]
    requests: Annotated[RequestCounts, doc("How many generations are in flight now.")]
    counters: Annotated[Counters, doc("What was done since the start.")]
    models: Annotated[list[ModelState], doc("The resident ones, the most recently used first.")]
    uptime_seconds: Annotated[float, doc("Since the engine's start.")]


class Empty(Result, kw_only=True):
    """An empty object."""
