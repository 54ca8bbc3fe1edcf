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
from mlx_stdio.text.folder import read_object
from mlx_stdio.text.special import read_special

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.nodes import Node
    from jinja2.parser import Parser

# The names under which reasoning is known; the first that a message has is given under the others.
_REASONING = ("reasoning_content", "thinking", "reasoning")


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
        name = "tool_use" if tools is not None and "tool_use" in self._sources else "default"
        template = self._template(name)
        try:
            return template.render(
                **{
                    **self.special,
                    "messages": [_message(message) for message in messages],
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


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """As templates see it: no members without a value, and reasoning by each of its names."""
    known = {name: value for name, value in message.items() if value is not None}
    reasoning = next((known[name] for name in _REASONING if name in known), None)
    if reasoning is None:
        return known
    return {"thinking": reasoning, **known, "reasoning_content": reasoning}


def _compile(source: str) -> Template:
    from jinja2 import TemplateError
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import Scope
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """`{% generation %}`: for training, it marks what the assistant said; here, just that."""

        tags = {"generation"}  # noqa: RUF012 - as the base class declares it

        def parse(self, parser: Parser) -> list[Node]:
            next(parser.stream)
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return [Scope(body)]

    class Variables(Namespace):
        """`namespace(...)`: no names that could reach Python's own attributes."""

        # Without names of its own, so that `namespace(self=1)` works.
        def __init__(*arguments: Any, **values: Any) -> None:
            self, *rest = arguments
            given = dict(*rest, **values)
            for name in given:
                check(name)
            Namespace.__init__(self, given)

        def __setitem__(self, name: str, value: Any) -> None:
            check(name)
            super().__setitem__(name, value)

    class Dictionary:
        """`dict(...)`, but not the class itself."""

        def __call__(self, *arguments: Any, **values: Any) -> dict[Any, Any]:
            return dict(*arguments, **values)

        fromkeys = staticmethod(dict.fromkeys)

    def check(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a namespace has no member {name!r}")

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
    environment.globals["namespace"] = Variables
    environment.globals["dict"] = Dictionary()
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(source)
    except Exception as error:  # Python may refuse what Jinja made of it
        raise EngineError(
            "unsupported", f"the model's chat template does not compile: {error}"
        ) from error


def read_template(folder: Path, special: dict[str, str] | None = None) -> ChatTemplate:
    """The chat template of a model folder.

    It is `chat_template.jinja`, with what `additional_chat_templates` adds to it under other
    names, else the `chat_template` member of `tokenizer_config.json`, else `chat_template.json`,
    which `transformers` reads for processors only. Files that cannot be read count as absent,
    because a model without a template still generates.

    Args:
        special: the special tokens that it may name; what the folder says, if left out.
    """
    config = read_object(folder / "tokenizer_config.json")
    if special is None:
        special = read_special(folder, config, {}, {}).texts
    source: Any = config.get("chat_template")
    if isinstance(source, list):
        rows = [row for row in source if isinstance(row, dict)]
        source = {str(row.get("name")): row.get("template") for row in rows}
    if not source:
        source = read_object(folder / "chat_template.json").get("chat_template")
    source = _template_files(folder) or source
    if isinstance(source, dict):
        source = {name: text for name, text in source.items() if isinstance(text, str)}
    return ChatTemplate(source if isinstance(source, (str, dict)) else {}, special)


def _template_files(folder: Path) -> dict[str, str]:
    files = {"default": folder / "chat_template.jinja"}
    for file in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        files[file.stem] = file
    found: dict[str, str] = {}
    for name, file in files.items():
        with contextlib.suppress(OSError, ValueError):
            if file.is_file():
                found[name] = file.read_text(encoding="utf-8")
    return found
