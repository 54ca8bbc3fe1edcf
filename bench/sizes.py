"""How large the rows of a suite are: the same for every contender of a run."""

from __future__ import annotations

from dataclasses import dataclass

from bench.models import Shape


@dataclass(frozen=True)
class Sizes:
    """Lengths in tokens.

    Attributes:
        streams: the numbers of streams whose throughput is measured.
        prompt: of each of those streams.
        new: tokens that each of them generates.
        short: the short prompt of the rows about a newcomer, and of a running stream.
        joining: the prompt that joins a running stream.
        reading: the prompt that is being read when a short request comes.
        read_seconds: how long it is read by then.
        chat: the first message of the chat.
        probes: short requests in each repetition, beside a stream that decodes.
        reading_probes: the same beside a prompt that is read; each reads a whole prompt.
        settle: steps of a running stream that are its undisturbed pace.
    """

    streams: tuple[int, ...] = (1, 4, 8, 32)
    prompt: int = 32
    new: int = 64
    short: int = 16
    joining: int = 4096
    reading: int = 4096
    read_seconds: float = 0.1
    chat: int = 2048
    probes: int = 3
    reading_probes: int = 1
    settle: int = 64

    @property
    def concurrency(self) -> int:
        """What each contender is told to run at once."""
        return max(32, *self.streams)

    @property
    def endless(self) -> int:
        """Tokens of a stream that is given up before it ends."""
        return 8000


CPU_SIZES = Sizes()
CPU_SHAPE = Shape()

GPU_SIZES = Sizes(
    streams=(1, 8, 32, 64),
    prompt=512,
    new=128,
    reading=12288,
    read_seconds=0.02,
    reading_probes=2,
)
GPU_SHAPE = Shape(
    hidden=2048,
    layers=16,
    heads=32,
    kv_heads=8,
    head_dim=64,
    intermediate=8192,
    vocabulary=32000,
    dtype="bfloat16",
)
