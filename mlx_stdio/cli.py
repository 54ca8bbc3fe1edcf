"""The command line. `argparse` is imported only if there is something to parse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_stdio import __version__
from mlx_stdio.log import LEVELS
from mlx_stdio.settings import MAX_SECONDS, Settings

if TYPE_CHECKING:
    from argparse import ArgumentParser

_COMMANDS = """\
commands, which come first on the line:
  serve                       serve the program that spawned this one (the default)
  fake [--script FILE]        the same without MLX or weights: scripted replies, delays, errors and
                              crashes, for tests of hosts; see docs/fake.md
  conformance -- COMMAND...   replay recorded sessions against any program, and tell which clauses
                              of the protocol it keeps; see docs/conformance.md
"""
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def read_settings(arguments: list[str]) -> Settings:
    """Settings from the command line.

    Exits with code 2 and a message on stderr for a wrong one.
    """
    if arguments in ([], ["serve"]):
        return Settings()
    values = vars(_parser().parse_args(arguments))
    del values["command"], values["profile_start"]
    return Settings(**values)


def read_fake_settings(arguments: list[str]) -> tuple[Settings, str | None]:
    """The same for `mlx-stdio fake`: it takes the engine's options too, and the path of a script.

    Args:
        arguments: what comes after `fake`.
    """
    if not arguments:
        return Settings(model="fake"), None
    parser = _parser(Settings(model="fake"))
    parser.prog = "mlx-stdio fake"
    parser.add_argument("--script", metavar="FILE", help="what it does, as docs/fake.md says")
    values = vars(parser.parse_args(arguments))
    script = values.pop("script")
    del values["command"], values["profile_start"]
    return Settings(**values), script


def _parser(defaults: Settings | None = None) -> ArgumentParser:
    from argparse import ArgumentParser, RawDescriptionHelpFormatter

    defaults = defaults or Settings()
    parser = ArgumentParser(
        prog="mlx-stdio",
        allow_abbrev=False,  # an abbreviation would change its meaning with the next option
        description="An LLM engine for MLX models: JSON-RPC 2.0, one message a line, on stdin and\n"
        "stdout. A program spawns it; see protocol.md.",
        epilog=_COMMANDS,
        formatter_class=RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("command", nargs="?", choices=["serve"], default="serve", help="serve (the default)")
    add("--version", action="version", version=f"mlx-stdio {__version__}")
    add(
        "--model",
        type=_utf8,
        default=defaults.model,
        help="model of requests that name none (%(default)s)",
    )
    add("--preload", action="store_true", help="load that model at start")
    add("--models-dir", metavar="DIR", help="folders inside it can be named without their path")
    add(
        "--max-models",
        type=_at_least_one,
        default=defaults.max_models,
        metavar="N",
        help="resident models (%(default)s)",
    )
    add(
        "--memory-limit",
        type=_size,
        metavar="BYTES",
        help="bytes of weights, KV caches and prefixes, as in 8G (default: 90%% of the working set "
        "that a GPU recommends, 70%% of the memory on a CPU)",
    )
    add(
        "--prefix-cache-limit",
        type=_size_or_none,
        metavar="BYTES",
        help="KV kept in memory for later prompts; 0 keeps none (default: a quarter of the memory "
        "limit)",
    )
    add("--prompt-cache-dir", metavar="DIR", help="keep KV of prompts on disk, for later starts")
    add(
        "--prompt-cache-limit",
        type=_size,
        default=defaults.prompt_cache_limit,
        metavar="BYTES",
        help="bytes of files in that folder (4G)",
    )
    add(
        "--keep-alive",
        type=_seconds,
        metavar="SECONDS",
        help="unload a model after so long without a request (default: never)",
    )
    add(
        "--max-message-bytes",
        type=_size,
        default=defaults.max_message_bytes,
        metavar="BYTES",
        help="longest message accepted (32M)",
    )
    add(
        "--framing",
        choices=["auto", "newline", "content-length"],
        default=defaults.framing,
        help="how messages are told apart; auto looks at the first bytes (%(default)s)",
    )
    add(
        "--max-concurrent",
        type=_at_least_one,
        default=defaults.max_concurrent,
        metavar="N",
        help="generations that run at once (%(default)s)",
    )
    add(
        "--max-queued",
        type=_at_least_one,
        default=defaults.max_queued,
        metavar="N",
        help="generations that may wait (%(default)s)",
    )
    add(
        "--prefill-step",
        type=_at_least_one,
        default=defaults.prefill_step,
        metavar="TOKENS",
        help="prompt tokens read at once at most (%(default)s)",
    )
    add(
        "--blas",
        choices=["auto", "bundled"],
        default=defaults.blas,
        help="on a Linux CPU: a system OpenBLAS when there is one, or MLX's own (%(default)s)",
    )
    add("--trust-remote-code", action="store_true", help="run code that a model folder brings")
    add(
        "--profile-start",
        action="store_true",
        help="start once, generate one token, print where the time went, and leave",
    )
    add("--log-level", choices=list(LEVELS), default=defaults.log_level, help="(%(default)s)")
    return parser


def _utf8(text: str) -> str:
    text.encode()  # raises a ValueError for bytes that are no UTF-8: JSON cannot carry them
    return text


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= MAX_SECONDS:
        raise ValueError(text)
    return value


def _size_or_none(text: str) -> int:
    return 0 if text.strip() == "0" else _size(text)


def _size(text: str) -> int:
    number = text.upper().removesuffix("B").removesuffix("I")
    unit = number[-1:] if number[-1:].isalpha() else ""
    value = float(number.removesuffix(unit)) * _UNITS[unit] if unit in _UNITS else -1.0
    if not 1 <= value < 2**63:
        raise ValueError(text)
    return int(value)
