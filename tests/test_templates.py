"""Chat templates, rendered with `jinja2` alone, against `transformers`' `apply_chat_template`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlx_stdio.errors import EngineError
from mlx_stdio.text.template import read_template
from mlx_stdio.text.tokenizer import load_tokenizer
from tests.auto_tokenizer import answers
from tests.made_tokenizers import byte_level
from tests.random_models import TEMPLATE
from tests.tokenizer_kinds import PLAIN, Folder, named

WITH_TOOLS = """\
{{- bos_token -}}
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson(indent=2) }}
    {% endfor %}
{%- endif %}
{%- set ns = namespace(last=-1, seen=[]) %}
{%- for message in messages[::-1] %}
    {%- if message.role == 'user' and ns.last < 0 %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{% for message in messages %}
    {%- if message.role == 'system' and not loop.first %}
        {{- raise_exception('System first!') }}
    {%- elif message.role == 'assistant' %}
        {% generation %}
        <|im_start|>assistant {{ message.content | trim }}
        {%- for call in message.tool_calls or [] %}
            {{- call.function | tojson }}
        {%- endfor %}{{ eos_token }}
        {% endgeneration %}
    {%- else %}
        {{- '<|im_start|>' + message['role'] + '\\n' + message.content }}<|im_end|>
    {%- endif %}
{% endfor %}
{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}
{%- endif %}"""

SOURCES: dict[str, str] = {
    "chatml": TEMPLATE,
    "tools": WITH_TOOLS,
    "spaces": "  {% if true %}\n\n  a\n  {%- endif %}  \n{# note #}\n\tb\n"
    "{% for m in messages %}\n\n  {{ m.content }}  \n{% endfor %}\n\n",
    "names": "{{ bos_token }}|{{ eos_token }}|{{ unk_token }}|{{ pad_token }}|{{ mask_token }}|"
    "{{ image_token }}|{{ bos_token is defined }}|{{ sep_token is defined }}",
    "loops": "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}"
    "{{ loop.index }}{% if loop.last %}{% break %}{% endif %},{% endfor %}{% for i in range(9) %}"
    "{% if i > 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "json": "{{ messages | tojson }}{{ messages | tojson(indent=4) }}{{ tools | tojson }}"
    "{{ messages | tojson(ensure_ascii=True, sort_keys=True) }}"
    "{{ messages[0] | tojson(separators=(',', ':')) }}",
    "scopes": "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}"
    "{% for m in messages %}{% generation %}{{ loop.index }}{{ m.role }}{% endgeneration %}"
    "{% endfor %}",
    "macros": "{% macro turn(m, end='') %}[{{ m.role }}:{{ m.content }}]{{ end }}{% endmacro %}"
    "{% for m in messages %}{{ turn(m, end=eos_token) }}{% endfor %}",
    "globals": "{{ dict(a=1, b=2) }}{{ dict([(1, 2)]) }}{{ dict.fromkeys([1], 2) }}"
    "{% set n = namespace(a=1) %}"
    "{% set n.b = 3 %}{{ n.a }}{{ n.b }}{{ cycler is defined }}{{ lipsum is defined }}"
    "{{ joiner is defined }}{{ range(3) | list }}",
    "private": "{% set n = namespace(_a=1) %}{{ n._a }}",
    "members": "{% for m in messages %}{% for k, v in m.items() | sort %}{{ k }}={{ v }};"
    "{% endfor %}{{ m.content is none }}{{ m.content is defined }}{{ m.name }}{% endfor %}",
    "reasoning": "{% for m in messages %}{{ m.reasoning_content }}/{{ m.thinking }}/"
    "{{ m.reasoning }};{% endfor %}",
    "strings": "{{ messages[0].content.split(' ') }}"
    "{{ messages[0].content | upper | replace('A', '_') }}"
    "{{ messages[0].content.startswith('H') }}{{ messages[-1].content[:3] }}{{ '<&>' | e }}<&>",
    "refuses": "{{ raise_exception('roles must alternate') }}",
    "unsafe": "{{ messages.append(1) }}{{ ''.__class__ }}",
    "arguments": "{{ documents }}{{ custom | default('none') }}{{ add_generation_prompt }}",
}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in <a city> & its 'surroundings'.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
HELLO = {"role": "user", "content": "Hé <|im_end|> 你好 🎉 'quotes' \"& <tags>\n\n"}
CHATS: list[dict[str, Any]] = [
    {"messages": [HELLO]},
    {"messages": [{"role": "system", "content": "Be  brief."}, HELLO], "enable_thinking": False},
    {
        "messages": [
            HELLO,
            {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]},
            {"role": "tool", "content": "12 °C", "name": "weather"},
            {"role": "assistant", "content": " ok ", "reasoning_content": "hm"},
            {"role": "user", "content": "", "reasoning": "so", "extra": None},
        ],
        "tools": [TOOL],
    },
    {"messages": [HELLO, {"role": "system", "content": "late"}], "tools": []},
    {"messages": [{"role": "forbidden", "content": "x"}], "add_generation_prompt": False},
    {"messages": [HELLO], "custom": [1, {"a": None}], "bos_token": "mine"},
]

SPECIAL = {**PLAIN, "pad_token": "<pad>", "image_token": "<image>"}
BOTH = [
    {"name": "default", "template": "D{{ messages | length }}"},
    {"name": "tool_use", "template": "T{{ tools }}"},
    {"name": "rag", "template": "R"},
]
PLACES = {
    "in_file": Folder(byte_level, PLAIN, files={"chat_template.jinja": TEMPLATE}),
    "file_wins": Folder(
        byte_level, {**PLAIN, "chat_template": "config"}, files={"chat_template.jinja": "file"}
    ),
    "list": Folder(byte_level, {**PLAIN, "chat_template": BOTH}),
    "object": Folder(
        byte_level, {**PLAIN, "chat_template": {row["name"]: row["template"] for row in BOTH}}
    ),
    "file_over_list": Folder(
        byte_level, {**PLAIN, "chat_template": BOTH}, files={"chat_template.jinja": "file"}
    ),
    "further_files": Folder(
        byte_level,
        {**PLAIN, "chat_template": "config"},
        files={
            "chat_template.jinja": "file",
            "additional_chat_templates/tool_use.jinja": "tools {{ tools | tojson }}",
        },
    ),
    "processor": Folder(
        byte_level,
        {**PLAIN, "chat_template": "config"},
        files={"chat_template.json": {"chat_template": "processor"}},
    ),
    "class_names": Folder(
        byte_level,
        {"tokenizer_class": "Qwen2Tokenizer", "chat_template": SOURCES["names"]},
        "qwen3",
    ),
    "gemma_names": Folder(
        byte_level, named("CohereTokenizer", chat_template=SOURCES["names"]), "cohere"
    ),
    **{
        f"source_{name}": Folder(byte_level, {**SPECIAL, "chat_template": source})
        for name, source in SOURCES.items()
    },
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("templates")
    for name, folder in PLACES.items():
        folder.write(root / name)
    return root


@pytest.fixture(scope="module")
def expected(folders: Path) -> dict[str, Any]:
    return answers([folders / name for name in PLACES], chats=CHATS)


@pytest.mark.parametrize("name", PLACES)
def test_prompts_are_those_of_apply_chat_template(
    name: str, folders: Path, expected: dict[str, Any]
) -> None:
    tokenizer = load_tokenizer(name, folders / name, trust_remote_code=False)
    assert tokenizer.kind == "tokenizers"
    template = read_template(folders / name, tokenizer.special_texts)
    wanted = expected[name]
    for chat, text, tokens in zip(CHATS, wanted["rendered"], wanted["tokens"], strict=True):
        variables = {
            key: value
            for key, value in chat.items()
            if key not in ("messages", "tools", "add_generation_prompt")
        }
        arguments = {
            "tools": chat.get("tools"),
            "add_generation_prompt": chat.get("add_generation_prompt", True),
            "variables": variables,
        }
        if isinstance(text, dict):
            with pytest.raises(EngineError) as caught:
                template.render(chat["messages"], **arguments)
            assert text["error"] in caught.value.message
            continue
        assert template.render(chat["messages"], **arguments) == text
        assert tokenizer.encode(text, special=False) == tokens


def test_the_templates_do_what_they_are_for(expected: dict[str, Any]) -> None:
    """What `transformers` gives, so that two empty prompts are not taken for two equal ones."""
    rendered = {name: answer["rendered"] for name, answer in expected.items()}
    assert rendered["list"][2].startswith("T[{")
    assert rendered["list"][3] == "T[]"
    assert rendered["list"][0] == "D1"
    assert rendered["processor"][0] == "config"
    assert rendered["further_files"][2].startswith("tools [")
    assert rendered["class_names"][0].startswith("|<|endoftext|>|")
    failed = {name for name, texts in rendered.items() if isinstance(texts[0], dict)}
    assert failed == {"source_private", "source_refuses", "source_unsafe"}
    assert isinstance(rendered["in_file"][4], dict)
    assert isinstance(rendered["source_tools"][3], dict)
    assert expected["in_file"]["tokens"][0][0] == 4
