"""Measures a model folder on source it was not trained on.

    python -m tools.pico.evaluate --corpus build/pico --model mlx_stdio/pico --out figures.json

Each figure is given for held-out files (of known packages) and for held-out packages. What is
measured exactly is said at each function; all decoding is greedy.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy

from tools.pico import cases
from tools.pico.export import load_model
from tools.pico.fim import render
from tools.pico.model import Llama
from tools.pico.pairs import phrase
from tools.pico.sample import greedy
from tools.pico.tokenizer import END_OF_TEXT, IM_END

SEED = 23
WINDOW = 2048
MAX_PROMPT = 1000  # tokens kept of a prompt
FENCE = re.compile(r"```python\n(.*?)```", re.DOTALL)
Figures = dict[str, float | int]


class Examiner:
    """A model and its tokenizer, ready to be asked."""

    def __init__(self, model: Llama, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.ends = {tokenizer.token_to_id(END_OF_TEXT), tokenizer.token_to_id(IM_END)}

    def ids(self, text: str) -> list[int]:
        """The tokens of a text."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def answers(self, prompts: list[str], new_tokens: int) -> list[str]:
        """The greedy continuations of prompts."""
        encoded = [self.ids(p)[-MAX_PROMPT:] for p in prompts]
        written = greedy(self.model, encoded, new_tokens, self.ends)
        return [self.tokenizer.decode(ids) for ids in written]

    @torch.no_grad()
    def bits_per_byte(self, texts: list[str]) -> float:
        """Bits needed per byte of text, each document in windows of 2,048 tokens of its own."""
        bits, size = 0.0, 0
        start = self.tokenizer.token_to_id(END_OF_TEXT)
        for text in texts:
            ids = [start, *self.ids(text), start]
            size += len(text.encode())
            for first in range(0, len(ids) - 1, WINDOW):
                part = torch.tensor(ids[first : first + WINDOW + 1], device=self.model.cos.device)
                scores = self.model.logits(self.model.hidden(part[None, :-1]))[0].float()
                bits += cross_entropy(scores, part[1:], reduction="sum").item() / 0.6931472
        return round(bits / size, 4)


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
    written = examiner.answers([prefix for prefix, _ in cuts], 48)
    exact = sum(w.split("\n")[0] == line for w, (_, line) in zip(written, cuts, strict=True))
    heads = cases.function_heads(texts, count, rng)
    bodies = examiner.answers([context + head for context, head in heads], 160)
    good = sum(
        cases.function_parses(head, body, cut_short=len(examiner.ids(body)) >= 155)
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
    written = examiner.answers([render(g, with_middle=False) for g in lines], 64)
    exact = sum(w.rstrip() == g.middle.rstrip() for w, g in zip(written, lines, strict=True))
    whole = sum(cases.parses(g.prefix + w + g.suffix) for w, g in zip(written, lines, strict=True))
    blocks = cases.block_gaps(texts, count, rng)
    filled = examiner.answers([render(g, with_middle=False) for g in blocks], 256)
    good = sum(
        bool(w.strip()) and len(examiner.ids(w)) < 250 and cases.parses(g.prefix + w + g.suffix)
        for w, g in zip(filled, blocks, strict=True)
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
    prompts = [f"<|im_start|>user\n{r}<|im_end|>\n<|im_start|>assistant\n" for r in requests]
    fenced = parsed = defined = named = right = 0
    answers = examiner.answers(prompts, 320)
    for pair, request, answer in zip(pairs, requests, answers, strict=True):
        block = FENCE.search(answer)
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


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("build/pico"))
    parser.add_argument("--model", type=Path, default=Path("mlx_stdio/pico"))
    parser.add_argument("--out", type=Path, default=Path("build/pico/figures.json"))
    parser.add_argument("--cases", type=int, default=400)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(args.model).to(device)
    if device == "cuda":
        model = model.half()
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    examiner = Examiner(model, tokenizer)
    rows = [json.loads(line) for line in (args.corpus / "corpus.jsonl").open(encoding="utf-8")]
    figures: dict[str, dict[str, float | Figures]] = {}
    for split in ("held_files", "held_packages"):
        texts = [row["text"] for row in rows if row["split"] == split]
        if not texts:
            continue
        rng = random.Random(SEED)
        figures[split] = {"bits_per_byte": examiner.bits_per_byte(texts)}
        for name, measure in (("completion", completion), ("infill", infill), ("chat", chat)):
            figures[split][name] = measure(examiner, texts, args.cases, rng)
            args.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
            print(split, name, json.dumps(figures[split][name]))
        print(split, "bits per byte", figures[split]["bits_per_byte"])


if __name__ == "__main__":
    main()
