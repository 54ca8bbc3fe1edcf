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

    version: str
    name: str = "mlx-stdio"


class Limits(Result, kw_only=True):
    """What a client must stay within."""

    max_message_bytes: int
    max_concurrent_requests: int
    max_queued_requests: int


class Capabilities(Result, kw_only=True):
    """What this build can do; a method or feature that is absent answers `unsupported`."""

    methods: Annotated[list[str], doc("Methods that work.")]
    unsupported_methods: Annotated[list[str], doc("Methods defined, but not built.")]
    unsupported_params: Annotated[list[str], doc("Parameters defined, but not built.")]
    framings: list[str]


class InitializeResult(Result, kw_only=True):
    """The engine's side of the handshake."""

    protocol_version: int
    server_info: ServerInfo
    capabilities: Capabilities
    limits: Limits
    default_model: str


class CancelParams(Params, kw_only=True, frozen=True):
    """Which request to cancel. Unknown and finished ids are passed over."""

    id: str | int


class Device(Result, kw_only=True):
    """What the models run on."""

    type: Annotated[str, doc("`cpu`, `gpu`, or `none` before MLX is loaded.")]
    name: str
    mlx_version: str | None = None
    blas: Annotated[str | None, doc("On a Linux CPU: the OpenBLAS in force, or `bundled`.")] = None


class Memory(Result, kw_only=True):
    """Bytes. Figures of MLX are 0 before it is loaded."""

    limit_bytes: Annotated[int, doc("What weights, KV caches and prefixes may take.")]
    weights_bytes: int
    kv_bytes: Annotated[int, doc("KV caches of running requests.")]
    prefix_cache_bytes: Annotated[int, doc("KV kept for later prompts.")]
    pool_bytes: Annotated[int, doc("Freed buffers that MLX keeps for reuse.")]
    active_bytes: Annotated[int, doc("What MLX has in use.")]
    peak_bytes: int
    rss_bytes: Annotated[int, doc("Resident memory of the process; 0 if unknown.")]


class RequestCounts(Result, kw_only=True):
    """Requests in flight."""

    running: int
    queued: int


class Counters(Result, kw_only=True):
    """Totals since the start."""

    requests: int
    completed: int
    failed: int
    cancelled: int
    prompt_tokens: int
    completion_tokens: int
    model_loads: int
    model_unloads: int


class StatusResult(Result, kw_only=True):
    """The engine at this moment; answered whatever it is doing."""

    device: Device
    memory: Memory
    requests: RequestCounts
    counters: Counters
    models: list[ModelState]
    uptime_seconds: float


class Empty(Result, kw_only=True):
    """An empty object."""
