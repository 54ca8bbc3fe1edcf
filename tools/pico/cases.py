"""Draws test cases from held-out files, and judges what was written for them."""

from __future__ import annotations

import ast
import random
import warnings

from tools.pico.fim import Gap
from tools.pico.pairs import Pair, extract

CONTEXT_CHARS, CHUNK_CHARS = 1500, 2500


def parse(text: str) -> ast.Module | None:
    """The syntax tree, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def parses(text: str) -> bool:
    """Whether a text is Python."""
    return parse(text) is not None


def defined_functions(code: str) -> set[str]:
    """The names of all functions a text defines."""
    tree = parse(code)
    nodes = ast.walk(tree) if tree else ()
    return {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}


def line_cuts(texts: list[str], count: int, rng: random.Random) -> list[tuple[str, str]]:
    """(up to CONTEXT_CHARS of text before a random line that is not blank, that line)."""
    found: list[tuple[str, str]] = []
    for _ in range(count):
        lines = rng.choice(texts).split("\n")
        choices = [i for i, line in enumerate(lines) if i > 2 and line.strip()]
        if choices:
            at = rng.choice(choices)
            before = "\n".join(lines[:at]) + "\n"
            found.append((_tail(before), lines[at]))
    return found


def _tail(text: str) -> str:
    """The last whole lines of a text, up to CONTEXT_CHARS of them."""
    if len(text) <= CONTEXT_CHARS:
        return text
    kept = text[-CONTEXT_CHARS:]
    return kept[kept.find("\n") + 1 :]


def function_heads(texts: list[str], count: int, rng: random.Random) -> list[tuple[str, str]]:
    """(the text before, signature and docstring) of documented top-level functions."""
    found: list[tuple[str, str]] = []
    for text in texts:
        tree = parse(text)
        lines = text.split("\n")
        for node in tree.body if tree else ():
            if not isinstance(node, ast.FunctionDef) or len(node.body) < 2:
                continue
            if ast.get_docstring(node) and node.body[1].lineno > (node.body[0].end_lineno or 0):
                head = "\n".join(lines[node.lineno - 1 : node.body[0].end_lineno]) + "\n"
                if len(head) < CONTEXT_CHARS:
                    found.append((_tail("\n".join(lines[: node.lineno - 1]) + "\n"), head))
    rng.shuffle(found)
    return found[:count]


def function_parses(head: str, written: str, cut_short: bool) -> bool:
    """Whether head and written text, up to the end of the function, make a whole function."""
    body: list[str] = []
    left = False
    for line in written.split("\n"):
        if line.strip() and not line.startswith((" ", ")", "]", "}")):
            left = True
            break
        body.append(line)
    for dropped in range(4 if cut_short and not left else 1):
        tree = parse(head + "\n".join(body[: len(body) - dropped]) + "\n")
        first = tree.body[0] if tree and len(tree.body) == 1 else None
        if isinstance(first, ast.FunctionDef) and len(first.body) > 1:
            return True
    return False


def _chunk(text: str, rng: random.Random) -> str | None:
    """A run of whole top-level statements of at most CHUNK_CHARS."""
    tree = parse(text)
    if tree is None or not tree.body:
        return None
    lines = text.split("\n")
    first = rng.randrange(len(tree.body))
    start = tree.body[first].lineno - 1
    end = start
    for node in tree.body[first:]:
        stop = node.end_lineno or node.lineno
        if sum(map(len, lines[start:stop])) > CHUNK_CHARS:
            break
        end = stop
    chunk = "\n".join(lines[start:end]) + "\n"
    return chunk if end - start >= 6 and parses(chunk) else None


def _gaps(
    texts: list[str], count: int, rng: random.Random, low: int, high: int, in_line: bool
) -> list[Gap]:
    found: list[Gap] = []
    for _ in range(20 * count):
        if len(found) == count:
            break
        chunk = _chunk(rng.choice(texts), rng)
        if chunk is None:
            continue
        lines = chunk.splitlines(keepends=True)
        size = rng.randint(low, high)
        first = rng.randrange(1, max(2, len(lines) - size))
        middle = "".join(lines[first : first + size])
        prefix, suffix = "".join(lines[:first]), "".join(lines[first + size :])
        if in_line:
            words = middle.rstrip("\n")
            blank = len(words) - len(words.lstrip())
            if not words.strip():
                continue
            at = rng.randrange(blank, len(words))
            found.append(Gap(prefix + words[:at], "\n" + suffix, words[at:]))
        elif middle.strip() and suffix.strip():
            found.append(Gap(prefix, suffix, middle))
    return found


def line_gaps(texts: list[str], count: int, rng: random.Random) -> list[Gap]:
    """Gaps from a cursor inside a line to the line's end."""
    return _gaps(texts, count, rng, 1, 1, in_line=True)


def block_gaps(texts: list[str], count: int, rng: random.Random) -> list[Gap]:
    """Gaps of 2 to 8 whole lines."""
    return _gaps(texts, count, rng, 2, 8, in_line=False)


def chat_pairs(texts: list[str], count: int, rng: random.Random) -> list[Pair]:
    """Documented functions (no methods) to ask for."""
    pairs = [p for t in texts for p in extract(t) if p.summary and not p.is_method]
    rng.shuffle(pairs)
    return pairs[:count]
