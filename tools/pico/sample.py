"""Greedy decoding of many prompts at once, for measuring.

No key-value cache: every step runs the whole batch again. That is wasteful but short, and a
padded batch needs no care because attention only looks back.
"""

from __future__ import annotations

import torch

from tools.pico.model import Llama


@torch.no_grad()
def greedy(
    model: Llama, prompts: list[list[int]], new_tokens: int, ends: set[int], batch: int = 256
) -> list[list[int]]:
    """What follows each prompt, up to an end token (left out) or `new_tokens` tokens."""
    results: list[list[int]] = []
    device = model.cos.device
    for first in range(0, len(prompts), batch):
        some = prompts[first : first + batch]
        lengths = torch.tensor([len(p) for p in some], device=device)
        longest = int(lengths.max()) + new_tokens
        rows = torch.zeros(len(some), longest, dtype=torch.long)
        for row, prompt in enumerate(some):
            rows[row, : len(prompt)] = torch.tensor(prompt)
        rows = rows.to(device)
        index = torch.arange(len(some), device=device)
        stop = torch.tensor(sorted(ends), device=device)
        done = torch.zeros(len(some), dtype=torch.bool, device=device)
        for step in range(new_tokens):
            states = model.hidden(rows[:, : longest - new_tokens + step])
            chosen = model.logits(states[index, lengths + step - 1]).argmax(-1)
            rows[index, lengths + step] = chosen
            done |= torch.isin(chosen, stop)
            if step % 8 == 7 and bool(done.all()):
                break
        for row, prompt in enumerate(some):
            text = rows[row, len(prompt) : len(prompt) + step + 1].tolist()
            end = next((i for i, token in enumerate(text) if token in ends), len(text))
            results.append(text[:end])
    return results
