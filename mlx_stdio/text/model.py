"""Everything textual of one model: tokenizer, template, end tokens; and a small cache of them.

Text needs no weights, so it is loaded apart from them: `tokenize` works without, and a request's
prompt is tokenized while its weights are still read.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from mlx_stdio.errors import EngineError
from mlx_stdio.log import Log
from mlx_stdio.models.card import Card
from mlx_stdio.text.template import ChatTemplate, read_template
from mlx_stdio.text.tokenizer import Tokenizer, load_tokenizer


class TextModel:
    """The text side of one model folder."""

    def __init__(self, card: Card, tokenizer: Tokenizer, template: ChatTemplate) -> None:
        self.card = card
        self.tokenizer = tokenizer
        self._template = template
        self.bos = tokenizer.special_texts.get("bos_token")
        eos = tokenizer.special_texts.get("eos_token")
        eos_id = tokenizer.token_id(eos) if eos is not None else None
        # Both, as `mlx_lm` does: a chat's turn may end with another token than the config's text.
        self.eos_ids = card.eos_ids | frozenset(() if eos_id is None else (eos_id,))

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a raw prompt; a prompt that begins with the BOS text gets no second one."""
        special = not (self.bos and text.startswith(self.bos))
        return self.tokenizer.encode(text, special=special)

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        variables: dict[str, Any] | None = None,
    ) -> str:
        """The prompt text of a conversation (see `ChatTemplate.render`).

        Raises:
            EngineError: `unsupported` when the model has no chat template.
        """
        if not self._template.present:
            raise EngineError("unsupported", "the model has no chat template", model=self.card.id)
        return self._template.render(
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            variables=variables,
        )


class TextStore:
    """The text sides of the models used last; safe to call from several threads."""

    _MOST = 8

    def __init__(self, log: Log, *, trust_remote_code: bool) -> None:
        self._log = log
        self._trust_remote_code = trust_remote_code
        self._models: OrderedDict[str, TextModel] = OrderedDict()
        self._lock = threading.Lock()  # around the dictionary, never for long
        self._loading = threading.Lock()  # around a load: a vocabulary is read once

    def ready(self, model_id: str) -> TextModel | None:
        """A text side that is loaded already; never waits."""
        return self._models.get(model_id)

    def load(self, card: Card) -> TextModel:
        """The text side of a model, loaded if need be.

        Raises:
            EngineError: `modelLoadFailed`.
        """
        with self._loading:
            found = self._models.get(card.id)
            if found is None:
                tokenizer = load_tokenizer(
                    card.id, card.path, trust_remote_code=self._trust_remote_code
                )
                self._tell(card.id, tokenizer)
                template = read_template(card.path, tokenizer.special_texts)
                found = TextModel(card, tokenizer, template)
        with self._lock:
            self._models[card.id] = found
            self._models.move_to_end(card.id)
            if len(self._models) > self._MOST:
                self._models.popitem(last=False)
        return found

    def _tell(self, model_id: str, tokenizer: Tokenizer) -> None:
        """Log which path was taken, and why it was the slow one."""
        why = {} if tokenizer.reason is None else {"reason": tokenizer.reason}
        self._log.info("tokenizer.loaded", model=model_id, kind=tokenizer.kind, **why)

    def forget(self, model_id: str) -> None:
        """Its weights were given back, so its vocabulary goes too."""
        with self._lock:
            self._models.pop(model_id, None)
