"""Trains the model for a given time and exports it.

The learning rate follows the share of the time that has passed, so that a run always ends with
its schedule complete, however fast the machine is. Matrices inside the layers are trained with
Muon, the embedding and the norms with Adam.

    python -m tools.pico.train --corpus build/pico --out mlx_stdio/pico --seconds 440
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tools.pico.export import save_model
from tools.pico.model import Llama, Shape

SEED = 22
LENGTH = 2048
MATRIX_RATE, OTHER_RATE = 5e-3, 4e-3
WARM_UP, COOL_DOWN = 0.01, 0.6  # shares of the time
CHAT_SHARE_EARLY, CHAT_SHARE_LATE, CHAT_RISE = 0.15, 0.42, 0.6


@dataclass
class Windows:
    """Draws windows of LENGTH + 1 tokens, each once per epoch, from a stream on the device."""

    ids: Tensor
    mask: Tensor | None
    generator: torch.Generator
    order: Tensor | None = None
    at: int = 0
    epochs: int = -1

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of (count, LENGTH); unmasked targets are -100."""
        device = self.ids.device
        if self.order is None or self.at + count > len(self.order):
            total = (len(self.ids) - 1) // LENGTH - 1
            phase = int(torch.randint(LENGTH, (1,), generator=self.generator))
            order = torch.randperm(total, generator=self.generator)
            self.order = (order * LENGTH + phase).to(device)
            self.at, self.epochs = 0, self.epochs + 1
        starts = self.order[self.at : self.at + count]
        self.at += count
        index = starts[:, None] + torch.arange(LENGTH + 1, device=device)
        rows = self.ids[index].long()
        targets = rows[:, 1:]
        if self.mask is not None:
            targets = targets.masked_fill(~self.mask[index[:, 1:]], -100)
        return rows[:, :-1], targets


def rate(progress: float) -> float:
    """The factor on the learning rates: warm up, hold, then fall straight to zero."""
    if progress < WARM_UP:
        return progress / WARM_UP
    return min(1.0, (1.0 - progress) / COOL_DOWN)


def chat_share(progress: float) -> float:
    """The share of rows that are conversations: low at first, rising towards the end."""
    rise = max(0.0, (progress - CHAT_RISE) / (1.0 - CHAT_RISE))
    return CHAT_SHARE_EARLY + (CHAT_SHARE_LATE - CHAT_SHARE_EARLY) * min(1.0, rise)


def optimizers(model: Llama, fused: bool) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, Adam for everything else."""
    named = list(model.named_parameters())
    matrices = [p for n, p in named if p.dim() == 2 and "embed" not in n]
    others = [p for n, p in named if p.dim() != 2 or "embed" in n]
    return [
        torch.optim.Muon(
            matrices, lr=MATRIX_RATE, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=fused),
    ]


def load_windows(folder: Path, device: str) -> tuple[Windows, Windows]:
    """The document and the conversation streams."""
    generator = torch.Generator().manual_seed(SEED)

    def load(name: str) -> Tensor:
        return torch.from_numpy(np.load(folder / name)).to(device)

    documents = Windows(load("documents.npy"), None, generator)
    return documents, Windows(load("chat.npy"), load("chat_mask.npy"), generator)


def train(model: Llama, folder: Path, seconds: float, rows: int, device: str) -> dict[str, float]:
    """Train in place for about `seconds`, compilation included; returns what was done."""
    documents, chat = load_windows(folder, device)
    steps_of = optimizers(model, fused=device == "cuda")
    bases = [group["lr"] for o in steps_of for group in o.param_groups]
    forward = torch.compile(model) if device == "cuda" else model
    begun = time.monotonic()
    started = begun  # moved past the compilation below
    step, progress, tokens, chat_tokens = 0, 0.0, 0, 0
    while progress < 1.0:
        factor = rate(progress)
        for group, base in zip((g for o in steps_of for g in o.param_groups), bases, strict=True):
            group["lr"] = base * factor
        chat_rows = round(rows * chat_share(progress))
        parts = [documents.draw(rows - chat_rows), chat.draw(chat_rows)]
        inputs, targets = (torch.cat(p) for p in zip(*parts, strict=True))
        with torch.autocast(device, dtype=torch.bfloat16):
            losses = forward(inputs, targets)
        loss = losses.sum() / (targets >= 0).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in steps_of:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        tokens += rows * LENGTH
        chat_tokens += chat_rows * LENGTH
        if step == 3 or step % 10 == 0:
            loss_now = loss.item()  # also waits for the device, so that the clock is honest
            if step == 3:
                started = time.monotonic()
            if step % 100 == 0:
                flat = losses.detach().view(rows, LENGTH)
                kept = targets >= 0
                split = rows - chat_rows
                text = flat[:split].sum() / kept[:split].sum()
                talk = flat[split:].sum() / kept[split:].sum().clamp(min=1)
                spent = time.monotonic() - started
                print(
                    f"step {step} {progress:.3f} loss {loss_now:.4f} documents {text:.4f} "
                    f"chat {talk:.4f} {(step - 3) * rows * LENGTH / spent / 1e6:.2f} Mtok/s"
                )
        progress = (time.monotonic() - started) / max(1.0, seconds - (started - begun))
        if step < 3:
            progress = 0.0
    return {
        "seed": SEED,
        "steps": step,
        "tokens": tokens,
        "chat_token_share": round(chat_tokens / tokens, 3),
        "document_stream_epochs": round(documents.epochs + documents.at / len(documents.order), 2)
        if documents.order is not None
        else 0.0,
        "seconds": round(time.monotonic() - begun, 1),
        "last_loss": round(loss_now, 4),
    }


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("build/pico"))
    parser.add_argument("--out", type=Path, default=Path("mlx_stdio/pico"))
    parser.add_argument("--seconds", type=float, default=440.0)
    parser.add_argument("--rows", type=int, default=128, help="windows of 2,048 tokens in a step")
    args = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Llama(Shape()).to(device)
    print(sum(p.numel() for p in model.parameters()), "parameters")
    facts = train(model, args.corpus, args.seconds, args.rows, device)
    save_model(model, args.out)
    path = args.corpus / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8")) | {"training": facts}
    path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
