"""Chat templates, rendered as `transformers` renders them, with `jinja2` alone.

Source of the environment (sandbox, block trimming, loop controls, `tojson`, `raise_exception`,
`strftime_now`): the chat template section of the `transformers` documentation.
"""

from __future__ import annotations

import contextlib
import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_stdio.errors import EngineError, invalid_params

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.nodes import Node
    from jinja2.parser import Parser

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")


class ChatTemplate:
    """The template of one model and the special tokens that it may name."""

    def __init__(self, source: str | dict[str, str], special: dict[str, str]) -> None:
        """Args:
        source: the template, or named ones (`default`, `tool_use`); empty for none.
        special: `bos_token` and so on to their text.
        """
        self._sources = {"default": source} if isinstance(source, str) else source
        self.special = special
        self._compiled: dict[str, Template] = {}

    @property
    def present(self) -> bool:
        """Whether the model has a template at all."""
        return any(self._sources.values())

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        variables: dict[str, Any] | None = None,
    ) -> str:
        """The prompt for a conversation.

        Raises:
            EngineError: `invalidParams` when the template refuses the messages, `unsupported`
                when it does not compile.
        """
        name = "tool_use" if tools and "tool_use" in self._sources else "default"
        template = self._template(name)
        try:
            return template.render(
                **{
                    **self.special,
                    "messages": messages,
                    "tools": tools,
                    "documents": None,
                    "add_generation_prompt": add_generation_prompt,
                    **(variables or {}),
                }
            )
        except Exception as error:
            raise invalid_params(
                "$.messages", f"the chat template: {type(error).__name__}: {error}"
            ) from error

    def _template(self, name: str) -> Template:
        if name not in self._compiled:
            source = self._sources.get(name) or next(iter(self._sources.values()), "")
            self._compiled[name] = _compile(source)
        return self._compiled[name]


def _compile(source: str) -> Template:
    from jinja2 import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import Scope
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}`: for training, it marks what the assistant said; here, just that."""

        tags = {"generation"}  # noqa: RUF012 - as the base class declares it

        def parse(self, parser: Parser) -> list[Node]:
            next(parser.stream)
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return [Scope(body)]

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        # Jinja's own filter escapes HTML, which a model must not see.
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(source)
    except Exception as error:  # Python may refuse what Jinja made of it
        raise EngineError(
            "unsupported", f"the model's chat template does not compile: {error}"
        ) from error


def read_template(folder: Path) -> ChatTemplate:
    """The chat template of a model folder, with its special tokens.

    It is `chat_template.jinja`, else `chat_template.json`, else the `chat_template` member of
    `tokenizer_config.json`; files that cannot be read count as absent, because a model without a
    template still generates.
    """
    config = _object(folder / "tokenizer_config.json")
    special_map = {**_object(folder / "special_tokens_map.json"), **config}
    special = {
        name: text for name in _SPECIAL if (text := _token_text(special_map.get(name))) is not None
    }
    source: Any = config.get("chat_template")
    if isinstance(source, list):
        rows = [row for row in source if isinstance(row, dict)]
        source = {str(row.get("name")): row.get("template") for row in rows}
    source = _object(folder / "chat_template.json").get("chat_template", source)
    jinja_file = folder / "chat_template.jinja"
    if jinja_file.is_file():
        with contextlib.suppress(OSError, ValueError):
            source = jinja_file.read_text(encoding="utf-8")
    if isinstance(source, dict):
        source = {name: text for name, text in source.items() if isinstance(text, str)}
    return ChatTemplate(source if isinstance(source, (str, dict)) else {}, special)


def _object(file: Path) -> dict[str, Any]:
    try:
        if not file.is_file():  # a pipe or a device may never come to an end
            return {}
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _token_text(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
