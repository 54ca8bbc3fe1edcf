"""`mlx-stdio`, `python -m mlx_stdio`: raise the fence, then read the command line, then serve."""

from __future__ import annotations

import os
import sys

from mlx_stdio.marks import mark


def main() -> None:
    """The command's entry point."""
    parent = os.getppid()
    if _is_talk(sys.argv[1:]):
        # Help and versions are for a person's terminal: they need the real stdout.
        from mlx_stdio.cli import read_settings

        read_settings(sys.argv[1:])
        return
    if "--profile-start" in sys.argv[1:]:
        from mlx_stdio.start_profile import run

        sys.exit(run(sys.argv[1:]))
    # Before anything else is imported: an import may print.
    from mlx_stdio.wire.fence import raise_fence

    pipes = raise_fence()
    mark("main: Python is up, the fence stands")
    from mlx_stdio.cli import read_settings
    from mlx_stdio.server import serve

    mark("main: the wire is imported")
    serve(pipes, read_settings(sys.argv[1:]), parent)


def _is_talk(arguments: list[str]) -> bool:
    return any(argument in {"-h", "--help", "--version"} for argument in arguments)


if __name__ == "__main__":
    main()
