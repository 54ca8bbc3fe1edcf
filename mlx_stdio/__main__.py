"""`mlx-stdio`, `python -m mlx_stdio`: raise the fence, then read the command line, then serve."""

from __future__ import annotations

import os
import sys

from mlx_stdio.marks import mark


def main() -> None:
    """The command's entry point."""
    parent = os.getppid()
    arguments = sys.argv[1:]
    command = arguments[0] if arguments else "serve"
    if command == "conformance":
        # For a person's terminal, and it spawns the engine: it needs the real stdout.
        from mlx_stdio.conformance.cli import run

        sys.exit(run(arguments[1:]))
    if _is_talk(arguments):
        # Help and versions are for a terminal too.
        from mlx_stdio.cli import read_fake_settings, read_settings

        if command == "fake":
            read_fake_settings(arguments[1:])
        read_settings(arguments)
        return
    if "--profile-start" in arguments and command != "fake":
        from mlx_stdio.start_profile import run

        sys.exit(run(arguments))
    # Before anything else is imported: an import may print.
    from mlx_stdio.wire.fence import raise_fence

    pipes = raise_fence()
    mark("main: Python is up, the fence stands")
    if command == "fake":
        from mlx_stdio.fake.server import serve_fake

        serve_fake(pipes, arguments[1:], parent)
    from mlx_stdio.cli import read_settings
    from mlx_stdio.server import serve

    mark("main: the wire is imported")
    serve(pipes, read_settings(arguments), parent)


def _is_talk(arguments: list[str]) -> bool:
    return any(argument in {"-h", "--help", "--version"} for argument in arguments)


if __name__ == "__main__":
    main()
