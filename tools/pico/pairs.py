"""Makes chat pairs: a request in plain words and the function that answers it.

The words come from a function's docstring, or from its name where it has none; the answer is
the function's own source without the docstring, in a fenced block. `phrase` draws a different
wording each time it is asked, so that repeated passes over the pairs are not repeats.
"""

from __future__ import annotations

import ast
import hashlib
import random
import re
import textwrap
import warnings
from dataclasses import dataclass, replace

from tools.pico.verbs import third_person, to_imperative

MAX_ANSWER_CHARS = 1400
MAX_SUMMARY_CHARS = 180
USELESS = re.compile(r"deprecated|test for|see also|inherit|overrid|todo|^test", re.IGNORECASE)
STUB = (ast.Pass, ast.Raise)
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Pair:
    """One function: how it may be asked for, and its source."""

    name: str
    arguments: str
    summary: str
    is_method: bool
    code: str

    @property
    def answer(self) -> str:
        """What the assistant says."""
        return f"```python\n{self.code}\n```"


def _summary(docstring: str) -> str:
    """The docstring's first sentence on one line, or '' when it is no use as a request."""
    first = re.split(r"\n\s*\n|\n\s*[-:@>]", docstring.strip())[0]
    line = " ".join(first.split())
    line = re.split(r"(?<=[a-z)`'\"])\.(?: |$)", line)[0].strip().rstrip(".:")
    line = re.sub(r":\w+:`~?([^`]+)`", r"\1", line).replace("``", "`")
    plain = sum(c.isalpha() or c == " " for c in line)
    if not 12 <= len(line) <= MAX_SUMMARY_CHARS or plain < 0.75 * len(line):
        return ""
    return "" if USELESS.search(line) else line


def _also(docstring: str) -> list[str]:
    """The other wordings that the primer's docstrings give after ``Also:``."""
    _, mark, rest = docstring.partition("\nAlso: ")
    return [" ".join(words.split()) for words in rest.split("|")] if mark else []


def _without_docstring(source: list[str], node: FunctionNode) -> str:
    """The function's own lines, from ``def`` on, less the docstring, at indentation zero."""
    start, end = node.lineno - 1, node.end_lineno or node.lineno
    body = source[start:end]
    head = node.body[0]
    if isinstance(head, ast.Expr) and isinstance(head.value, ast.Constant):
        del body[head.lineno - 1 - start : (head.end_lineno or head.lineno) - start]
        while len(body) > 1 and not body[head.lineno - 1 - start : head.lineno - start][0].strip():
            del body[head.lineno - 1 - start]
    return textwrap.dedent("\n".join(body)).strip("\n")


def _make(source: list[str], node: FunctionNode, in_class: bool) -> Pair | None:
    """The pair of one function, when it is whole, short and more than a stub."""
    docstring = ast.get_docstring(node) or ""
    body = node.body[1:] if docstring else node.body
    names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
    summary = _summary(docstring)
    dunder = node.name.startswith("__") or node.name.startswith("test")
    if not body or isinstance(body[0], STUB) or dunder or not (summary or to_imperative(node.name)):
        return None
    try:
        code = _without_docstring(source, node)
        ast.parse(code)
    except (SyntaxError, IndexError, ValueError):
        return None
    is_method = in_class and names[:1] in (["self"], ["cls"])
    # A one-line body mostly forwards to something else, which teaches nothing.
    if len(code) > MAX_ANSWER_CHARS or len(code.split("\n")) < (4 if is_method else 2):
        return None
    if node.args.vararg:
        names.append(f"*{node.args.vararg.arg}")
    names += [a.arg for a in node.args.kwonlyargs]
    if node.args.kwarg:
        names.append(f"**{node.args.kwarg.arg}")
    return Pair(node.name, ", ".join(names), summary, is_method, code)


def extract(text: str, seen: set[bytes] | None = None) -> list[Pair]:
    """All pairs of a source file; functions whose code is in `seen` are left out (and added)."""
    found: list[Pair] = []
    source = text.split("\n")

    def visit(node: ast.AST, in_class: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, FunctionNode):
                if pair := _make(source, child, in_class):
                    mark = hashlib.blake2b("".join(pair.code.split()).encode()).digest()[:12]
                    if seen is None or mark not in seen:
                        found.append(pair)
                        others = _also(ast.get_docstring(child) or "")
                        found.extend(replace(pair, summary=words) for words in others)
                    if seen is not None:
                        seen.add(mark)
            elif isinstance(child, ast.ClassDef):
                visit(child, True)
            elif isinstance(child, ast.If | ast.Try):
                visit(child, in_class)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            visit(ast.parse(text), False)
        except (SyntaxError, ValueError, RecursionError):
            return []
    return found


def phrase(pair: Pair, rng: random.Random) -> str:
    """A request for the pair's function, in one of many wordings."""
    kind = "method" if pair.is_method else "function"
    python = rng.choice(("Python ", "Python ", "", "python "))
    signature = f"`{pair.name}({pair.arguments})`" if rng.random() < 0.7 else f"`{pair.name}`"
    words = pair.summary
    if not words or (to_imperative(pair.name) and "_" in pair.name and rng.random() < 0.15):
        words = to_imperative(pair.name)
        if not words or rng.random() < 0.3:
            return rng.choice((f"Implement {signature}.", f"Write {signature} in Python."))
    does = third_person(words)
    if does is None:  # a noun phrase: "The mean of a list."
        asks = [
            f"Implement {signature}: {words}.",
            f"Write a {python}{kind} {signature}. {words}.",
            f"I need a {kind} {signature}: {words}.",
            f"Write a {python}{kind} for this: {words}.",
        ]
        return rng.choice(asks)
    imperative = to_imperative(words) or words
    unnamed = [
        f"Write a {python}{kind} that {does}.",
        f"Write a {python}{kind} that {does}.",
        f"Write a {kind} that {does}",
        f"write a {kind} that {does}",
        f"Write a {python}{kind} which {does}.",
        f"Write a {python}{kind} to {imperative}.",
        f"Please write a {kind} that {does}.",
        f"Can you write a {python}{kind} that {does}?",
        f"I need a {python}{kind} which {does}.",
        f"Give me a {kind} to {imperative}.",
        f"How do I {imperative} in Python?",
        f"Create a {python}{kind} that {does}.",
    ]
    named = [
        f"Implement {signature}, which {does}.",
        f"Implement {signature}: {imperative}.",
        f"I need a {kind} {signature} which {does}.",
        f"Write a {python}{kind} {signature} that {does}.",
        f"Write a {python}{kind} called `{pair.name}` that {does}.",
        f"Define {signature} that {does}.",
        f"Please implement {signature} to {imperative}.",
    ]
    return rng.choice(unnamed if rng.random() < 0.6 else named)
