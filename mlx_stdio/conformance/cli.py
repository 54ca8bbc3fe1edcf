"""`mlx-stdio conformance -- COMMAND...`: replay the transcripts against any program.

A person's tool: it writes to the real stdout, and its exit code tells whether all went well.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from io import TextIOWrapper
from pathlib import Path
from queue import Empty, SimpleQueue

from mlx_stdio.conformance.replay import Replay
from mlx_stdio.conformance.report import Outcome, as_json, table
from mlx_stdio.conformance.transcript import (
    FOLDER,
    BadTranscript,
    Transcript,
    all_transcripts,
)

_SECONDS = 60.0


def run(arguments: list[str]) -> int:
    """The sub-command; its exit code: 0, 1 if a transcript failed, 2 for a wrong command line.

    Args:
        arguments: what comes after `conformance`.
    """
    parser = _parser()
    # Whatever comes after the first `--` is the command's.
    at = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:at])
    command = arguments[at + 1 :]
    try:
        transcripts = _chosen(options.transcript, Path(options.folder))
    except (BadTranscript, OSError) as error:
        parser.error(str(error))
    left_out = [t for t in transcripts if options.no_arguments and t.arguments]
    transcripts = [t for t in transcripts if t not in left_out]
    if options.list:
        for transcript in transcripts:
            sys.stdout.write(f"{transcript.name}  {' '.join(transcript.clauses)}\n")
        return 0
    if not transcripts:
        parser.error("no transcript is left to be tried")
    if not command:
        parser.error("give the program to be tested: conformance -- COMMAND...")
    try:
        outcomes = replay_all(transcripts, command, options.timeout, options.jobs)
    except OSError as error:
        parser.error(f"{command[0]}: {error}")
    if isinstance(sys.stdout, TextIOWrapper):  # what a program says need not be UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    if options.json:
        sys.stdout.write(
            json.dumps(as_json(outcomes, left_out), ensure_ascii=False, indent=2) + "\n"
        )
    else:
        sys.stdout.write(table(outcomes, left_out))
    return 0 if all(outcome.failure is None for outcome in outcomes) else 1


def replay_all(
    transcripts: list[Transcript], command: list[str], seconds: float, jobs: int = 1
) -> list[Outcome]:
    """Replay each against a fresh process, some of them side by side; in the transcripts' order.

    Raises:
        OSError: the command cannot be started.
    """
    todo: SimpleQueue[int] = SimpleQueue()
    for at in range(len(transcripts)):
        todo.put(at)
    done: dict[int, Outcome] = {}
    errors: list[Exception] = []

    def work() -> None:
        while not errors:
            try:
                at = todo.get_nowait()
            except Empty:
                return
            started = time.monotonic()
            try:
                replay = Replay(transcripts[at], command, seconds)
                failure = replay.run()
            except Exception as error:  # noqa: BLE001 - raised again below
                errors.append(error)
                return
            seconds_taken = time.monotonic() - started
            done[at] = Outcome(transcripts[at], failure, seconds_taken, replay.cut_short)

    threads = [threading.Thread(target=work) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [done[at] for at in sorted(done)]


def _chosen(names: list[str] | None, folder: Path) -> list[Transcript]:
    found = all_transcripts(folder)
    if not found:  # a run of none would pass
        raise BadTranscript(f"no transcripts are in {folder}")
    if names is None:
        return found
    by_name = {transcript.name: transcript for transcript in found}
    if unknown := [name for name in names if name not in by_name]:
        raise BadTranscript(f"no transcript is named {unknown[0]!r}")
    return [by_name[name] for name in names]


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ArgumentTypeError("1 or more")
    return value


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="mlx-stdio conformance",
        allow_abbrev=False,
        formatter_class=RawDescriptionHelpFormatter,
        description="Replay recorded sessions against a program, and tell which clauses of the\n"
        "protocol it keeps. Each transcript gets a process of its own.",
        usage="mlx-stdio conformance [options] -- COMMAND...",
        epilog="    mlx-stdio conformance -- mlx-stdio fake",
    )
    add = parser.add_argument
    add("--transcript", nargs="+", metavar="NAME", help="only these (default: all)")
    add("--folder", default=str(FOLDER), metavar="DIR", help="where the transcripts are")
    add(
        "--timeout",
        type=float,
        default=_SECONDS,
        metavar="SECONDS",
        help="what each transcript is given (60)",
    )
    add("--jobs", type=_positive, default=1, metavar="N", help="transcripts side by side (1)")
    add(
        "--no-arguments",
        action="store_true",
        help="leave out the transcripts that give the command options of the engine",
    )
    add("--json", action="store_true", help="one JSON object instead of a table")
    add("--list", action="store_true", help="print the transcripts and their clauses, and leave")
    return parser
