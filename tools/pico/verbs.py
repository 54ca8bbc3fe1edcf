"""A little English grammar: turns docstring summaries into requests.

"Return the sum." and "Returns the sum." both become "returns the sum" and "return the sum".
Only verbs that open docstrings often are known; anything else counts as a noun phrase.
"""

from __future__ import annotations

VERBS = frozenset(
    """
    accept accumulate add adjust align allocate allow append apply approximate ask assert assign
    attach average bin bind broadcast build cache calculate call cast change check choose clamp
    clean clear clip clone close collapse collect combine compare compile complete compose
    compress compute concatenate configure construct contract convert convolve copy count create
    crop cut decode decompose decorate decrease decrypt define delete derive describe detect
    determine diff discard display distribute divide do download draw drop dump duplicate emit
    enable encode encrypt ensure enumerate erase escape estimate evaluate exclude execute expand
    export expose extend extract factor fetch fill filter find finish fit fix flatten flip fold
    force format forward gather generate get give group guess handle hash identify ignore
    implement import increase increment indent infer initialize insert inspect install integrate
    interpolate intersect invert invoke iterate join keep launch lex limit list load locate log
    look lookup lower make map mark mask match measure merge minimize modify monitor move multiply
    normalize open optimize order pack pad parse partition pass patch perform permute pick place
    plot pop populate post predict prepare prepend pretty-print print process produce propagate
    provide prune push put query quote raise read rearrange rebuild receive recompute record
    reduce refresh register release reload remove rename render reorder repeat replace report
    represent request reset reshape resize resolve restore retrieve return reverse rewrite roll
    rotate round run sample save scale scan search select send separate serialize set shift show
    shuffle shut simplify skip slice smooth solve sort split squeeze stack start stop store
    stringify strip subtract sum summarize swap switch take tell test time tokenize toggle trace
    track train transform translate transpose traverse trim truncate try turn unescape unpack
    update upload use validate verify visit wait walk warn weigh wrap write yield zip
    """.split()
)


def _base(word: str) -> str | None:
    """The verb's base form when the word is a known verb ("Returns" -> "return")."""
    lower = word.lower()
    candidates = [lower]
    if lower.endswith("s"):
        candidates.append(lower[:-1])
    if lower.endswith("es"):
        candidates.append(lower[:-2])
    if lower.endswith("ies"):
        candidates.append(lower[:-3] + "y")
    return next((c for c in candidates if c in VERBS), None)


def _conjugate(verb: str) -> str:
    if verb.endswith(("s", "sh", "ch", "x", "z", "do")):
        return verb + "es"
    if verb.endswith("y") and verb[-2:-1] not in tuple("aeiou"):
        return verb[:-1] + "ies"
    return verb + "s"


def _split(words: str) -> tuple[str, str] | None:
    """(base verb, the rest), for a sentence or a snake_case name that opens with a verb."""
    if " " not in words:
        words = words.strip("_").replace("_", " ")
    first, _, rest = words.partition(" ")
    verb = _base(first)
    return (verb, rest) if verb and rest else None


def to_imperative(words: str) -> str | None:
    """ "Returns the sum" -> "return the sum"; None when the words do not open with a verb."""
    parts = _split(words)
    return f"{parts[0]} {parts[1]}" if parts else None


def third_person(words: str) -> str | None:
    """ "Return the sum" -> "returns the sum"; None when the words do not open with a verb."""
    parts = _split(words)
    return f"{_conjugate(parts[0])} {parts[1]}" if parts else None
