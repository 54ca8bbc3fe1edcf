"""`docs/performance.md`: generated blocks between markers, and what people wrote around them.

A reason is a list item of the hand-written part, `- `key`: why` or `- `suite key`: why`; the
generated list of rows that are worse than a peer's takes it from there, and says where it is
missing.
"""

from __future__ import annotations

import re
from pathlib import Path

from bench import budgets, charts, expectations, install_sizes
from bench.report import Results, heading, table, targets, worse_rows

_NEW = """# Performance

Measured beside what people use today, all in one run: every contender has the same model and the
same environment, they take turns, and the tables give medians, the least and the most, and ratios.

"In process" is a Python script with `mlx_lm`: `stream_generate` for one stream, `BatchGenerator`
for several. `mlx-stdio` is spoken to through its pipes and the servers through HTTP, from another
process. A ratio is ours divided by theirs.

## Reasons

Why a row is worse than a peer's: one item for each key, as it is named in the lists below.

"""
_EXPECTED = "What the proposal expected"
_REASON = re.compile(r"^- `([^`]+)`: (.+(?:\n  .+)*)", re.MULTILINE)


def write(path: Path, runs: list[Results]) -> None:
    """Put the blocks of these runs into the document, and draw their plots beside it.

    The document is made if it is not there.
    """
    text = path.read_text() if path.exists() else _NEW
    for results in runs:
        suite = results["suite"]
        plots = charts.write(results, path.parent / charts.FOLDER)
        block = _block(results, _reasons(text), plots)
        text = _put(text, suite, f"The {suite} suite", block)
        if suite == "footprint":
            text = _put(text, "expectations", _EXPECTED, expectations.table(results))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _put(text: str, name: str, title: str, block: str) -> str:
    """The text with the block in its place, or at the end under a title."""
    begin = f"<!-- begin of the generated figures: {name} -->"
    end = f"<!-- end of the generated figures: {name} -->"
    block = f"{begin}\n\n{block}\n\n{end}"
    if begin not in text:
        return f"{text.rstrip()}\n\n## {title}\n\n{block}\n"
    before, _, rest = text.partition(begin)
    return before + block + rest.partition(end)[2]


def _reasons(text: str) -> dict[str, str]:
    return {key: re.sub(r"\n +", " ", reason) for key, reason in _REASON.findall(text)}


def _block(results: Results, reasons: dict[str, str], plots: list[str]) -> str:
    if "table" in results:  # a profile has its own
        return str(results["table"])
    parts = [heading(results), *plots, table(results)]
    if results["suite"] == "footprint":
        parts += [budgets.table(results), install_sizes.table(results)]
    if results["suite"] == "gpu":
        parts.append(targets(results))
    if worse := worse_rows(results):
        lines = ["Worse than a peer:", ""]
        for key, line in worse:
            reason = reasons.get(f"{results['suite']} {key}", reasons.get(key))
            lines.append(f"* `{key}`, {line}. {reason or '**No reason is given yet.**'}")
        parts.append("\n".join(lines))
    else:
        parts.append("No row is worse than a peer's.")
    if results["errors"]:
        parts.append("Failures:\n\n" + "\n".join(f"* {error}" for error in results["errors"]))
    return "\n\n".join(parts)
