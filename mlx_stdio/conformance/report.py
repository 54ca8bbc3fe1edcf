"""What came out of a run: a table by clauses for a person, one JSON object for a program."""

from __future__ import annotations

from typing import Any, NamedTuple

from mlx_stdio.conformance.replay import Failure
from mlx_stdio.conformance.transcript import Transcript


class Outcome(NamedTuple):
    """One transcript's.

    Attributes:
        cut_short: it ended well, but early: the program has answered that it cannot do the rest.
    """

    transcript: Transcript
    failure: Failure | None
    seconds: float
    cut_short: bool = False


def by_clause(outcomes: list[Outcome]) -> dict[str, list[Outcome]]:
    """The outcomes that speak of each clause, in the clauses' order."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        for clause in outcome.transcript.clauses:
            found.setdefault(clause, []).append(outcome)
    return dict(sorted(found.items(), key=lambda item: _order(item[0])))


def not_tried(outcomes: list[Outcome], left_out: list[Transcript]) -> dict[str, list[str]]:
    """The clauses that only transcripts speak of which were left out, and those."""
    tried = by_clause(outcomes)
    found: dict[str, list[str]] = {}
    for transcript in left_out:
        for clause in transcript.clauses:
            if clause not in tried:
                found.setdefault(clause, []).append(transcript.name)
    return dict(sorted(found.items(), key=lambda item: _order(item[0])))


def table(outcomes: list[Outcome], left_out: list[Transcript]) -> str:
    """Clauses passed and failed, then what is known of each failure."""
    clauses = by_clause(outcomes)
    rows = {clause: _row(found) for clause, found in clauses.items()}
    untried = not_tried(outcomes, left_out)
    rows |= {clause: ("not tried", names) for clause, names in untried.items()}
    lines = ["clause  result     transcripts", "------  ---------  -----------"]
    for clause in sorted(rows, key=_order):
        result, names = rows[clause]
        lines.append(f"{clause:6}  {result:9}  {', '.join(names)}")
    for outcome in outcomes:
        if outcome.failure is not None:
            lines += ["", *_told(outcome.transcript.name, outcome.failure)]
    good = sum(result == "passed" for result, _ in rows.values())
    passed = sum(outcome.failure is None for outcome in outcomes)
    summary = f"{good} of {len(clauses)} clauses, {passed} of {len(outcomes)} transcripts"
    for result in ("not shown", "not tried"):
        count = sum(found == result for found, _ in rows.values())
        summary += f"; {count} clauses were {result}" if count else ""
    lines += ["", summary]
    return "\n".join(lines) + "\n"


def _row(outcomes: list[Outcome]) -> tuple[str, list[str]]:
    """The result of a clause, and the transcripts that tell it."""
    failed = [outcome.transcript.name for outcome in outcomes if outcome.failure]
    names = failed or [outcome.transcript.name for outcome in outcomes]
    return "FAILED" if failed else "passed" if _is_shown(outcomes) else "not shown", names


def _is_shown(outcomes: list[Outcome]) -> bool:
    """Whether some transcript that speaks of a clause went to its end."""
    return any(not outcome.cut_short for outcome in outcomes)


def _told(name: str, failure: Failure) -> list[str]:
    where = f"{name}.jsonl:{failure.line}" if failure.line else f"{name}.jsonl, at its end"
    lines = [f"{where}: {failure.reason}"]
    lines += [f"  expected  {failure.expected}", f"  came      {failure.came}"]
    if failure.log.strip():
        lines += ["  stderr:", *(f"    {line}" for line in failure.log.splitlines()[-8:])]
    return lines


def as_json(outcomes: list[Outcome], left_out: list[Transcript]) -> dict[str, Any]:
    """The same for a program."""
    return {
        "passed": all(outcome.failure is None for outcome in outcomes),
        "clauses": {
            clause: {
                "passed": all(row.failure is None for row in rows),
                "shown": _is_shown(rows),
                "transcripts": [row.transcript.name for row in rows],
            }
            for clause, rows in by_clause(outcomes).items()
        },
        "notTried": not_tried(outcomes, left_out),
        "transcripts": [
            {
                "name": outcome.transcript.name,
                "clauses": list(outcome.transcript.clauses),
                "passed": outcome.failure is None,
                "cutShort": outcome.cut_short,
                "seconds": round(outcome.seconds, 3),
                "failure": None if outcome.failure is None else outcome.failure._asdict(),
            }
            for outcome in outcomes
        ],
    }


def _order(clause: str) -> tuple[tuple[int, str], ...]:
    """2.10 comes after 2.9."""
    parts = clause.split(".")
    return tuple((int(part) if part.isdigit() else 1 << 30, part) for part in parts)
