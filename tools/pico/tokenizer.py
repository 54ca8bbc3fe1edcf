"""Trains the byte-level BPE tokenizer and writes it in the Hugging Face layout.

The split pattern is made for prompts that stop anywhere: a newline, a run of indentation and a
word are always separate tokens, so a prompt that ends in ``:``, in a newline, or after the
indentation is cut just as training texts were.

    python -m tools.pico.tokenizer --corpus build/pico --out mlx_stdio/pico
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 6144
CONTEXT = 2048
SAMPLE_BYTES = 60_000_000
SEED = 20
SPLIT = r"\n+| {2,}| ?\p{L}+|_\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s"

END_OF_TEXT = "<|endoftext|>"
IM_END = "<|im_end|>"
SPECIAL = (
    END_OF_TEXT,
    "<|gap_prefix|>",
    "<|gap_suffix|>",
    "<|gap_middle|>",
    "<|fim_pad|>",
    "<|im_start|>",
    IM_END,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train(texts: list[str], size: int = VOCABULARY) -> Tokenizer:
    """Learn the merges from texts; special tokens take the first ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=32,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and the configuration that AutoTokenizer reads."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "bos_token": None,
        "eos_token": END_OF_TEXT,
        "pad_token": "<|fim_pad|>",
        "additional_special_tokens": [t for t in SPECIAL if t != END_OF_TEXT],
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("build/pico"))
    parser.add_argument("--out", type=Path, default=Path("mlx_stdio/pico"))
    args = parser.parse_args()
    with (args.corpus / "corpus.jsonl").open(encoding="utf-8") as lines:
        rows = (json.loads(line) for line in lines)
        texts = [row["text"] for row in rows if row["split"] == "train"]
    random.Random(SEED).shuffle(texts)
    sample, size = [], 0
    for text in texts:
        if size < SAMPLE_BYTES:
            sample.append(text)
            size += len(text)
    tokenizer = train(sample)
    save(tokenizer, args.out)
    tokens = sum(len(e.ids) for e in tokenizer.encode_batch(texts[:300]))
    characters = sum(map(len, texts[:300]))
    print(f"{tokenizer.get_vocab_size()} words, {characters / tokens:.2f} characters per token")


if __name__ == "__main__":
    main()
