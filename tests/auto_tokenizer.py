"""What `transformers.AutoTokenizer` makes of folders: a process of its own, asked once.

`python -m tests.auto_tokenizer` reads a JSON object of questions on stdin.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.host import run_python


def answers(folders: list[Path], **questions: Any) -> dict[str, Any]:
    """Ask about folders.

    Args:
        questions: `texts` to encode and decode again, `ids` to decode, `chats` to render
            (each an object of `messages` and `tools`).

    Returns:
        by the folders' names; what went wrong under `error`.
    """
    asked = {"folders": [str(folder) for folder in folders], **questions}
    found: dict[str, Any] = run_python("-m", "tests.auto_tokenizer", data=json.dumps(asked))
    return found


def _answer(folder: str, asked: dict[str, Any]) -> dict[str, Any]:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )

    def decode(ids: list[int]) -> list[str]:
        return [
            tokenizer.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            for skip in (False, True)
        ]

    texts = asked.get("texts", [])
    found: dict[str, Any] = {
        "class": type(tokenizer).__name__,
        "special": tokenizer.special_tokens_map,
        "plain": [tokenizer.encode(text, add_special_tokens=False) for text in texts],
        "whole": [tokenizer.encode(text) for text in texts],
        "rendered": [],
        "tokens": [],
    }
    size = len(tokenizer)
    found["ids"] = [[at for at in ids if at < size] for ids in asked.get("ids", [])]
    found["decoded"] = [decode(ids) for ids in (*found["whole"], *found["ids"])]
    for chat in asked.get("chats", []):
        arguments = {"add_generation_prompt": True, **chat}
        messages = arguments.pop("messages")
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, **arguments)
            ids = tokenizer.apply_chat_template(messages, return_dict=False, **arguments)
        except Exception as error:  # noqa: BLE001 - whatever a template raises
            text, ids = {"error": type(error).__name__}, []
        found["rendered"].append(text)
        found["tokens"].append(ids)
    return found


def _main() -> None:
    asked = json.loads(sys.stdin.read())
    found: dict[str, Any] = {}
    for folder in asked["folders"]:
        try:
            found[Path(folder).name] = _answer(folder, asked)
        except Exception as error:  # noqa: BLE001 - the test says whether that was expected
            found[Path(folder).name] = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(found))


if __name__ == "__main__":
    _main()
