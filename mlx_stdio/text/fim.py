"""Fill-in-the-middle prompts: which special tokens a model has for it, and in which order.

Sources: the model cards of Qwen2.5-Coder, StarCoder2, CodeGemma, DeepSeek-Coder, Code Llama,
Granite and Codestral.
"""

from __future__ import annotations

from msgspec import Struct

from mlx_stdio.errors import EngineError
from mlx_stdio.text.tokenizer import Tokenizer


class _Family(Struct, frozen=True):
    """Attributes:
    suffix_first: the suffix stands before the prefix.
    line_last: what is on the cursor's line already stands after the middle token, as if it
        belonged to the middle.
    """

    prefix: str
    suffix: str
    middle: str | None
    suffix_first: bool = False
    line_last: bool = False


_FAMILIES = (
    _Family("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    _Family("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    _Family("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    _Family("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    _Family("▁<PRE>", "▁<SUF>", "▁<MID>"),
    _Family("[PREFIX]", "[SUFFIX]", None, suffix_first=True),
    # `pico`: too small to look back over a suffix for the beginning of a word.
    _Family("<|gap_prefix|>", "<|gap_suffix|>", "<|gap_middle|>", line_last=True),
)

_ENDS = ("<|file_separator|>", "<|file_sep|>", "<|endoftext|>", "<|fim_pad|>", "▁<EOT>", "<EOT>")


def infill_prompt(
    tokenizer: Tokenizer, prefix: str, suffix: str
) -> tuple[list[int], frozenset[int]]:
    """The prompt that asks a model for the text between two texts.

    Returns:
        its token ids, and tokens that end an infill beside the model's own end tokens.

    Raises:
        EngineError: `unsupported` when the vocabulary has no such tokens.
    """
    for family in _FAMILIES:
        before = tokenizer.token_id(family.prefix)
        after = tokenizer.token_id(family.suffix)
        middle = tokenizer.token_id(family.middle) if family.middle else None
        if before is None or after is None or (family.middle and middle is None):
            continue
        cut = prefix.rfind("\n") + 1 if family.line_last else len(prefix)
        head = [before, *tokenizer.encode(prefix[:cut], special=False)]
        tail = [after, *tokenizer.encode(suffix, special=False)]
        prompt = [*tail, *head] if family.suffix_first else [*head, *tail]
        if middle is not None:
            prompt += [middle, *tokenizer.encode(prefix[cut:], special=False)]
        special = {before, after, middle} | {tokenizer.token_id(word) for word in _ENDS}
        return prompt, frozenset(token for token in special if token is not None)
    raise EngineError("unsupported", "the model has no fill-in-the-middle tokens")
