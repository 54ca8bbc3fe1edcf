"""Encodes the corpus into the token streams that training reads.

Two streams: documents (some of them cut for filling in the middle) and conversations (with a
mask of the tokens the assistant says). Several passes are made with fresh cuts and wordings.

    python -m tools.pico.dataset --corpus build/pico --tokenizer mlx_stdio/pico
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tools.pico import fim
from tools.pico.pairs import Pair, extract, phrase

SEED = 21
DOCUMENT_PASSES, CHAT_PASSES = 3, 8
FIM_SHARE = 0.4
PRIMER = "pico-primer"
PRIMER_REPEATS = 10
METHOD_SHARE, NAMELESS_SHARE = 0.35, 0.5  # of the methods / undescribed functions, per pass
SYSTEM = (
    "You are a helpful assistant.",
    "You are a coding assistant.",
    "You are pico, a small model that writes Python.",
    "You write Python code.",
)

Item = TypeVar("Item")
_tokenizer: Tokenizer


@dataclass(frozen=True)
class Stream:
    """Token ids on end, and for each whether it counts in the loss."""

    ids: NDArray[np.int16]
    mask: NDArray[np.bool_]


def _start_worker(path: str) -> None:
    global _tokenizer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _tokenizer = Tokenizer.from_file(path)


def conversation(pairs: list[Pair], rng: random.Random) -> Iterator[tuple[str, bool]]:
    """The parts of a conversation in the chat template; True marks what the assistant says."""
    text = ""
    if rng.random() < 0.25:
        text = f"<|im_start|>system\n{rng.choice(SYSTEM)}<|im_end|>\n"
    for pair in pairs:
        yield (
            f"{text}<|im_start|>user\n{phrase(pair, rng)}<|im_end|>\n<|im_start|>assistant\n",
            False,
        )
        yield f"{pair.answer}<|im_end|>", True
        text = "\n"
    yield "\n<|endoftext|>", False


def _encode(parts: Iterator[tuple[str, bool]]) -> tuple[list[int], list[bool]]:
    ids: list[int] = []
    mask: list[bool] = []
    for text, counts in parts:
        new = _tokenizer.encode(text, add_special_tokens=False).ids
        ids += new
        mask += [counts] * len(new)
    return ids, mask


def _encode_documents(job: tuple[int, list[str]]) -> Stream:
    """One pass over a batch of documents: whole, or in pieces with a gap each."""
    seed, texts = job
    rng = random.Random(seed)
    out: list[int] = []
    for text in texts:
        if rng.random() < FIM_SHARE:
            pieces = [fim.render(fim.cut(piece, rng)) for piece in fim.chunks(text, rng)]
        else:
            pieces = [f"{text}<|endoftext|>"]
        for encoding in _tokenizer.encode_batch(pieces, add_special_tokens=False):
            out += encoding.ids
    return Stream(np.array(out, np.int16), np.ones(len(out), np.bool_))


def _encode_chat(job: tuple[int, list[Pair]]) -> Stream:
    """A batch of pairs as conversations of one to three turns."""
    seed, pairs = job
    rng = random.Random(seed)
    ids: list[int] = []
    mask: list[bool] = []
    while pairs:
        count = rng.choices((1, 2, 3), (0.85, 0.1, 0.05))[0]
        some, pairs = pairs[:count], pairs[count:]
        new_ids, new_mask = _encode(conversation(some, rng))
        ids += new_ids
        mask += new_mask
    return Stream(np.array(ids, np.int16), np.array(mask, np.bool_))


def _join(streams: list[Stream]) -> Stream:
    return Stream(
        np.concatenate([s.ids for s in streams]), np.concatenate([s.mask for s in streams])
    )


def chat_pass(pairs: list[Pair], primer: list[Pair], rng: random.Random) -> list[Pair]:
    """One shuffled pass over the pairs, thinned and with the primer repeated."""
    chosen = [
        p
        for p in pairs
        if (not p.is_method or rng.random() < METHOD_SHARE)
        and (p.summary or rng.random() < NAMELESS_SHARE)
    ]
    chosen += primer * PRIMER_REPEATS
    rng.shuffle(chosen)
    return chosen


def _batches(items: list[Item], size: int) -> list[list[Item]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("build/pico"))
    parser.add_argument("--tokenizer", type=Path, default=Path("mlx_stdio/pico"))
    args = parser.parse_args()
    rng = random.Random(SEED)
    rows = [json.loads(line) for line in (args.corpus / "corpus.jsonl").open(encoding="utf-8")]
    rows = [row for row in rows if row["split"] == "train"]
    primer = [p for row in rows if row["source"] == PRIMER for p in extract(row["text"])]
    texts = [row["text"] for row in rows]
    seen: set[bytes] = set()
    tokenizer = str(args.tokenizer / "tokenizer.json")
    with multiprocessing.Pool(initializer=_start_worker, initargs=(tokenizer,)) as pool:
        found = pool.map(extract, [r["text"] for r in rows if r["source"] != PRIMER], chunksize=32)
        pairs: list[Pair] = []
        for pair in itertools.chain.from_iterable(found):
            mark = "".join(pair.code.split()).encode()
            if mark not in seen:
                seen.add(mark)
                pairs.append(pair)
        document_jobs: list[tuple[int, list[str]]] = []
        for _ in range(DOCUMENT_PASSES):
            rng.shuffle(texts)
            document_jobs += [(rng.getrandbits(32), b) for b in _batches(texts, 64)]
        documents = _join(pool.map(_encode_documents, document_jobs, chunksize=1))
        chat_jobs: list[tuple[int, list[Pair]]] = []
        for _ in range(CHAT_PASSES):
            chosen = chat_pass(pairs, primer, rng)
            chat_jobs += [(rng.getrandbits(32), b) for b in _batches(chosen, 512)]
        chat = _join(pool.map(_encode_chat, chat_jobs, chunksize=1))
    np.save(args.corpus / "documents.npy", documents.ids)
    np.save(args.corpus / "chat.npy", chat.ids)
    np.save(args.corpus / "chat_mask.npy", chat.mask)
    facts = {
        "document_passes": DOCUMENT_PASSES,
        "document_tokens_per_pass": len(documents.ids) // DOCUMENT_PASSES,
        "chat_passes": CHAT_PASSES,
        "chat_tokens_per_pass": len(chat.ids) // CHAT_PASSES,
        "chat_answer_share": round(float(chat.mask.mean()), 3),
        "pairs": len(pairs),
        "pairs_from_methods": sum(p.is_method for p in pairs),
        "pairs_with_docstring": sum(bool(p.summary) for p in pairs),
        "primer_pairs": len(primer),
        "seed": SEED,
    }
    path = args.corpus / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8")) | {"streams": facts}
    path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
