"""The text side alone: stop strings, characters that tokens cut, tokenizers, chat templates."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from mlx_stdio.errors import EngineError
from mlx_stdio.models.card import read_card
from mlx_stdio.models.catalog import EMBEDDED, EMBEDDED_FOLDER
from mlx_stdio.text.detokenizer import WindowDetokenizer
from mlx_stdio.text.model import TextModel
from mlx_stdio.text.stream import TextStream
from mlx_stdio.text.template import ChatTemplate, read_template
from mlx_stdio.text.tokenizer import JsonTokenizer, load_tokenizer

CORPUS = ["def add(a, b):\n    return a + b\n" * 9, "it's the quick fox. " * 9, "你好 🎉 é" * 9]


class Pieces:
    """A detokenizer whose token n is the n-th of given pieces."""

    def __init__(self, pieces: list[str], held: str = "") -> None:
        self._pieces = pieces
        self._held = held

    def push(self, token: int) -> str:
        return self._pieces[token]

    def finish(self) -> str:
        return self._held


def first_stop(text: str, stops: list[str]) -> int | None:
    """Where the stop string that is complete first begins."""
    for end in range(len(text) + 1):
        for begin in range(end):
            if text[begin:end] in stops:
                return begin
    return None


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.text("ab", max_size=4), max_size=8),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.text("ab", max_size=2),
)
def test_pushes_joined_are_the_text_up_to_the_first_stop(
    pieces: list[str], stops: list[str], held: str
) -> None:
    stream = TextStream(Pieces(pieces, held), stops)
    out = ""
    for token in range(len(pieces)):
        out += stream.push(token)
        if stream.stopped:
            break
    else:
        out += stream.finish()
    text = "".join(pieces) + held
    at = first_stop(text, stops)
    assert stream.stopped == (at is not None)
    assert out == text[:at]


def test_only_what_may_become_a_stop_is_held_back() -> None:
    stream = TextStream(Pieces(["ab", "c", "<", "/e", "nd", ">"]), ["</end>"])
    assert [stream.push(token) for token in range(6)] == ["ab", "c", "", "", "", ""]
    assert stream.stopped
    stream = TextStream(Pieces(["ab</", "en", "t>", "</"]), ["</end>"])
    assert [stream.push(token) for token in range(4)] == ["ab", "", "</ent>", ""]
    assert stream.finish() == "</"
    assert not stream.stopped


def byte_level() -> Any:
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def sentence_piece() -> Any:
    """As Llama 2's: `▁` for spaces, bytes for what has no word, one leading space stripped."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += ["▁", "▁the", "▁a", "b", "▁▁", "c", "é", "▁你", ".", "▁."]
    model: Any = models.BPE(
        vocab={word: at for at, word in enumerate(words)},
        merges=[],
        byte_fallback=True,
        unk_token="<unk>",
        fuse_unk=True,
    )
    tokenizer: Any = Tokenizer(model)
    steps: list[Any] = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


def word_piece() -> Any:
    tokenizer: Any = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    trainer: Any = trainers.WordPieceTrainer(
        vocab_size=100, special_tokens=["[UNK]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def decoded_in_steps(tokenizer: JsonTokenizer, ids: list[int]) -> list[str]:
    stream = WindowDetokenizer(tokenizer)
    return [*(stream.push(token) for token in ids), stream.finish()]


@pytest.mark.parametrize("make", [byte_level, sentence_piece, word_piece])
def test_steps_give_the_text_of_the_whole(make: Any) -> None:
    tokenizer = JsonTokenizer(make())
    special = tokenizer.token_id("</s>") or tokenizer.token_id("[SEP]")
    assert special is not None
    random_ = random.Random(4)
    for _ in range(300):
        text = "".join(
            random_.choice(["a", "é", "你", "🎉", " b", ".", " the", "  "]) for _ in range(12)
        )
        ids = tokenizer.encode(text, special=False)
        # A special token has no text and must not change what stands after it.
        ids.insert(random_.randrange(len(ids) + 1), special)
        pieces = decoded_in_steps(tokenizer, ids)
        assert "".join(pieces) == tokenizer.decode(ids, skip_special=True)
        assert "\ufffd" not in "".join(pieces)


def test_invalid_bytes_are_let_go_and_cut_no_character() -> None:
    tokenizer = JsonTokenizer(byte_level())
    random_ = random.Random(5)
    for _ in range(300):
        ids = [random_.randrange(2, 258) for _ in range(random_.randrange(1, 40))]
        assert "".join(decoded_in_steps(tokenizer, ids)) == tokenizer.decode(ids, skip_special=True)
    # A byte that never ends: nothing is held for long, and the emoji after it is whole.
    alone = tokenizer.token_id("ÿ")
    assert alone is not None
    emoji = [tokenizer.token_id(letter) for letter in "ðŁİī"]
    ids = [alone] * 13 + [token for token in emoji if token is not None]
    pieces = decoded_in_steps(tokenizer, ids)
    assert "".join(pieces) == "\ufffd" * 13 + "🎉"
    assert any(pieces[:10])
    assert sum("🎉" in piece for piece in pieces) == 1


def test_an_unfinished_character_comes_out_at_the_end() -> None:
    tokenizer = JsonTokenizer(byte_level())
    half = [tokenizer.token_id(letter) for letter in "ðŁ"]
    pieces = decoded_in_steps(tokenizer, [token for token in half if token is not None])
    assert pieces == ["", "", "\ufffd"]


def test_long_texts_have_the_same_ids() -> None:
    """They take another way through the library, which lets other threads run."""
    inner = byte_level()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer = JsonTokenizer(inner)
    long = "the quick brown fox 🎉 " * 500
    for special in (False, True):
        ids = list(inner.encode(long, add_special_tokens=special).ids)
        assert tokenizer.encode(long, special=special) == ids
    assert len(ids) > 2048


HELLO = [{"role": "user", "content": "<hé>"}]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ messages | tojson }}", json.dumps(HELLO, ensure_ascii=False)),
        ("{{ messages | tojson(indent=1) }}", json.dumps(HELLO, ensure_ascii=False, indent=1)),
        ("{% for i in [1,2,3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "1"),
        ("{% for i in [1,2,3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "13"),
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),
        ("{{ bos_token }}{{ messages[0]['content'] }}", "<s><hé>"),
        ("{% generation %}a{{ 1 }}{% endgeneration %}b", "a1b"),
        ("{{ add_generation_prompt }}{{ tools is none }}{{ flag }}", "TrueTrue7"),
        ("{{ strftime_now('%%') }}", "%"),
    ],
)
def test_template_features(source: str, expected: str) -> None:
    template = ChatTemplate(source, {"bos_token": "<s>"})
    assert template.render(HELLO, variables={"flag": 7}) == expected


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("{{ raise_exception('roles must alternate') }}", "invalidParams"),
        ("{{ messages[9].content.x.y }}", "invalidParams"),
        ("{{ ''.__class__.__mro__ }}{{ messages.append(1) }}", "invalidParams"),
        ("{% for %}", "unsupported"),
        ("{{ x | nosuchfilter }}", "unsupported"),
    ],
)
def test_template_errors(source: str, kind: str) -> None:
    with pytest.raises(EngineError) as caught:
        ChatTemplate(source, {}).render(HELLO)
    assert caught.value.kind == kind
    if "alternate" in source:
        assert "roles must alternate" in caught.value.message


def test_where_a_template_is_found(tmp_path: Path) -> None:
    assert not read_template(tmp_path).present
    config = tmp_path / "tokenizer_config.json"
    named = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}, "junk"]
    config.write_text(json.dumps({"chat_template": named, "eos_token": {"content": "</s>"}}))
    template = read_template(tmp_path)
    assert template.special == {"eos_token": "</s>"}
    assert template.render(HELLO) == "D"
    assert template.render(HELLO, tools=[{"type": "function"}]) == "T"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "J"}))
    assert read_template(tmp_path).render(HELLO) == "D"
    (tmp_path / "chat_template.jinja").write_text("{{ 'F' }}")
    assert read_template(tmp_path).render(HELLO) == "F"
    assert read_template(tmp_path, {"eos_token": "<e>"}).special == {"eos_token": "<e>"}
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    assert read_template(tmp_path).render(HELLO) == "D"
    config.write_text("{")
    assert read_template(tmp_path).render(HELLO) == "J"


def test_a_text_ends_with_the_configs_tokens_and_the_tokenizers() -> None:
    card = read_card(EMBEDDED, EMBEDDED_FOLDER)
    tokenizer = load_tokenizer(EMBEDDED, EMBEDDED_FOLDER, trust_remote_code=False)
    own = {tokenizer.token_id(tokenizer.special_texts["eos_token"])}
    for ids in (frozenset({3, 5}), frozenset()):
        text = TextModel(replace(card, eos_ids=ids), tokenizer, ChatTemplate("", {}))
        assert text.eos_ids == ids | own
