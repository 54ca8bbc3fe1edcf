"""Measures a model folder on source it was not trained on.

    python -m tools.pico.evaluate --corpus build/pico --model mlx_stdio/pico

Each figure is given for held-out files (of known packages) and for held-out packages. What is
measured exactly is said at each function; all decoding is greedy. The prompts are those that the
engine makes for `generate`, `infill` and `chat`; many are decoded together by
`mlx_lm.generate.BatchGenerator`, which takes minutes where one after the other takes an hour.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_stdio.engine.blas import use_system_openblas

use_system_openblas()

import mlx.core as mx  # noqa: E402 - the BLAS has to be there first
from mlx_lm.generate import BatchGenerator  # noqa: E402
from mlx_lm.utils import load_model  # noqa: E402

from mlx_stdio.models.card import read_card  # noqa: E402
from mlx_stdio.text.fim import infill_prompt  # noqa: E402
from mlx_stdio.text.model import TextModel  # noqa: E402
from mlx_stdio.text.template import read_template  # noqa: E402
from mlx_stdio.text.tokenizer import load_tokenizer  # noqa: E402
from tools.pico import cases  # noqa: E402
from tools.pico.fim import Gap  # noqa: E402
from tools.pico.pairs import phrase  # noqa: E402

SEED = 23
WINDOW = 2048
AT_ONCE = 64
PROMPT_CHARS = 3000
FENCE = re.compile(r"```python\n(.*?)```", re.DOTALL)
Figures = dict[str, float | int]


@dataclass(frozen=True)
class Answer:
    """A text, and whether the model ended it itself."""

    text: str
    stopped: bool


class Examiner:
    """A model and its text side."""

    def __init__(self, folder: Path) -> None:
        self._model, _ = load_model(folder)
        self._model.set_dtype(mx.float32)
        tokenizer = load_tokenizer("pico", folder, trust_remote_code=False)
        self._text = TextModel(read_card("pico", folder), tokenizer, read_template(folder))

    def continuations(self, prompts: list[str], new_tokens: int) -> list[Answer]:
        """What follows each prompt (its last PROMPT_CHARS characters)."""
        return self._decode(
            [self._text.encode_prompt(p[-PROMPT_CHARS:]) for p in prompts], new_tokens
        )

    def middles(self, gaps: list[Gap], new_tokens: int) -> list[Answer]:
        """What is written into each gap."""
        tokenizer = self._text.tokenizer
        prompts = [infill_prompt(tokenizer, gap.prefix, gap.suffix)[0] for gap in gaps]
        return self._decode(prompts, new_tokens)

    def replies(self, requests: list[str], new_tokens: int) -> list[Answer]:
        """What is answered to each request, asked alone."""
        rendered = [self._text.render([{"role": "user", "content": r}]) for r in requests]
        tokenizer = self._text.tokenizer
        return self._decode([tokenizer.encode(r, special=False) for r in rendered], new_tokens)

    def _decode(self, prompts: list[list[int]], new_tokens: int) -> list[Answer]:
        generator = BatchGenerator(
            self._model,
            stop_tokens=[[token] for token in self._text.eos_ids],
            completion_batch_size=AT_ONCE,
            prefill_batch_size=16,
        )
        ids = generator.insert(prompts, [new_tokens] * len(prompts))
        tokens: dict[int, list[int]] = {uid: [] for uid in ids}
        stopped: dict[int, bool] = {}
        while responses := generator.next_generated():
            for response in responses:
                if response.finish_reason != "stop":
                    tokens[response.uid].append(int(response.token))
                if response.finish_reason is not None:
                    stopped[response.uid] = response.finish_reason == "stop"
        decode = self._text.tokenizer.decode
        return [Answer(decode(tokens[uid], skip_special=True), stopped[uid]) for uid in ids]

    def bits_per_byte(self, texts: list[str]) -> float:
        """Bits needed per byte of text, each document in windows of 2,048 tokens of its own."""
        tokenizer = self._text.tokenizer
        start = tokenizer.token_id("<|endoftext|>")
        assert start is not None
        nats, size = 0.0, 0
        for text in texts:
            ids = [start, *tokenizer.encode(text, special=False), start]
            size += len(text.encode())
            for first in range(0, len(ids) - 1, WINDOW):
                part = mx.array([ids[first : first + WINDOW + 1]])
                logits = self._model(part[:, :-1])
                chosen = mx.take_along_axis(logits, part[:, 1:, None], axis=-1)[..., 0]
                total: Any = (mx.logsumexp(logits, axis=-1) - chosen).sum().item()
                nats += total
        return round(nats / math.log(2) / size, 4)


def completion(examiner: Examiner, texts: list[str], count: int, rng: random.Random) -> Figures:
    """Next lines and whole functions.

    ``next_line_exact``: a file is cut after a random line; the share of cuts where the line
    written next is exactly the file's. ``function_parses``: given up to 1,500 characters before
    a documented function, its signature and docstring, the share where signature, docstring and
    what is written until the text leaves the function (160 tokens at most) form a function that
    parses with a statement after the docstring; up to 3 last lines may be dropped, but only
    where the token limit ended the text.
    """
    cuts = cases.line_cuts(texts, count, rng)
    written = examiner.continuations([prefix for prefix, _ in cuts], 48)
    exact = sum(w.text.split("\n")[0] == line for w, (_, line) in zip(written, cuts, strict=True))
    heads = cases.function_heads(texts, count, rng)
    bodies = examiner.continuations([context + head for context, head in heads], 160)
    good = sum(
        cases.function_parses(head, body.text, cut_short=not body.stopped)
        for (_, head), body in zip(heads, bodies, strict=True)
    )
    return {
        "next_line_exact": round(exact / max(1, len(cuts)), 3),
        "next_line_cases": len(cuts),
        "function_parses": round(good / max(1, len(heads)), 3),
        "function_cases": len(heads),
    }


def infill(examiner: Examiner, texts: list[str], count: int, rng: random.Random) -> Figures:
    """Gaps in runs of whole top-level statements (up to 2,500 characters, which parse).

    ``line_exact``: the gap runs from a cursor inside a line to the line's end; the share filled
    exactly. ``line_parses``: the same gaps, the share where the whole text parses.
    ``block_parses``: the gap is 2 to 8 whole lines; the share where the whole text parses and
    the middle was ended by the model itself.
    """
    lines = cases.line_gaps(texts, count, rng)
    written = [row.text for row in examiner.middles(lines, 64)]
    exact = sum(w.rstrip() == g.middle.rstrip() for w, g in zip(written, lines, strict=True))
    whole = sum(cases.parses(g.prefix + w + g.suffix) for w, g in zip(written, lines, strict=True))
    blocks = cases.block_gaps(texts, count, rng)
    good = sum(
        bool(row.text.strip()) and row.stopped and cases.parses(gap.prefix + row.text + gap.suffix)
        for row, gap in zip(examiner.middles(blocks, 256), blocks, strict=True)
    )
    return {
        "line_exact": round(exact / max(1, len(lines)), 3),
        "line_parses": round(whole / max(1, len(lines)), 3),
        "line_cases": len(lines),
        "block_parses": round(good / max(1, len(blocks)), 3),
        "block_cases": len(blocks),
    }


def chat(examiner: Examiner, texts: list[str], count: int, rng: random.Random) -> Figures:
    """Requests made from held-out documented functions, answers of at most 320 tokens.

    ``fenced``: the answer has a closed ```python block; ``parses``: the block also parses;
    ``defines_function``: it also defines a function; ``right_name``: of the requests that name
    the function, the share whose block defines that name. Nothing is said of being correct.
    """
    pairs = cases.chat_pairs(texts, count, rng)
    requests = [phrase(pair, rng) for pair in pairs]
    fenced = parsed = defined = named = right = 0
    answers = examiner.replies(requests, 320)
    for pair, request, answer in zip(pairs, requests, answers, strict=True):
        block = FENCE.search(answer.text)
        code = block.group(1) if block else ""
        fenced += block is not None
        parsed += block is not None and cases.parses(code)
        names = cases.defined_functions(code)
        defined += bool(names)
        if f"`{pair.name}" in request:
            named += 1
            right += pair.name in names
    total = max(1, len(pairs))
    return {
        "fenced": round(fenced / total, 3),
        "parses": round(parsed / total, 3),
        "defines_function": round(defined / total, 3),
        "cases": len(pairs),
        "right_name": round(right / max(1, named), 3),
        "named_cases": named,
    }


PARTS: dict[str, Callable[[Examiner, list[str], int, random.Random], Figures]] = {
    "completion": completion,
    "infill": infill,
    "chat": chat,
}


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("build/pico"))
    parser.add_argument("--model", type=Path, default=Path("mlx_stdio/pico"))
    parser.add_argument("--out", type=Path, default=Path("tools/pico/figures.json"))
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--documents", type=int, default=16, help="of which bits are counted")
    args = parser.parse_args()
    examiner = Examiner(args.model)
    with (args.corpus / "corpus.jsonl").open(encoding="utf-8") as lines:
        rows = [row for line in lines if (row := json.loads(line))["split"] != "train"]
    figures: dict[str, dict[str, Any]] = {}
    for split in ("held_files", "held_packages"):
        texts = [row["text"] for row in rows if row["split"] == split]
        rng = random.Random(SEED)
        some = rng.sample(texts, min(args.documents, len(texts)))
        figures[split] = {"bits_per_byte": examiner.bits_per_byte(some), "documents": len(some)}
        print(split, json.dumps(figures[split]), flush=True)
        for name, measure in PARTS.items():
            figures[split][name] = measure(examiner, texts, args.cases, rng)
            args.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
            print(split, name, json.dumps(figures[split][name]), flush=True)


if __name__ == "__main__":
    main()
