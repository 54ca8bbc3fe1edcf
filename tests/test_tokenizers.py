"""Every kind of tokenizer, loaded without `transformers`, against what that makes of it."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from mlx_stdio.text.classes import PLAIN
from mlx_stdio.text.detokenizer import WindowDetokenizer
from mlx_stdio.text.folder import read_object
from mlx_stdio.text.tokenizer import JsonTokenizer, Tokenizer, load_tokenizer
from tests.auto_tokenizer import answers
from tests.host import ROOT, Host, run_python
from tests.installations import hide
from tests.residents import copy_model, row
from tests.tokenizer_kinds import FOLDERS

LEAN = sorted(name for name, folder in FOLDERS.items() if folder.lean)
OTHERS = sorted(name for name, folder in FOLDERS.items() if not folder.lean)

_WORDS = (
    "the quick brown fox|fox|it's|WE'LL|don't|def add(a, b):|return|12345|2024.5|café|cafe\u0301|"
    "naïve|Straße|İstanbul|ﬁn|Ångström|\u212bngström|x²|½|ｆｕｌｌ|你好|世界。|こんにちは|안녕|"
    "\u1112\u1161\u11ab|नमस्ते|مرحبا|🎉|👩‍👩‍👧|🇫🇷|\u200b|\ufeff|\u00a0|\u2028|zzz|"
    "qwx~^|▁|▁the|##s|word|words|"
    "Ġ|\\n|<0x41>|…|a\u0300\u0301|.,;:!?|()[]{}|--"
)
WORDS = _WORDS.split("|")
SPACES = ["", " ", "  ", "   ", "\n", "\n\n", "\t", " \n ", "\r\n"]
_SPECIAL = (
    "<s>,</s>,<unk>,<pad>,<|im_start|>,<|im_end|>,<|endoftext|>,<left>,<right>,<both>,"
    "<late>,<later>,<x>,<y>,<a>,<b>,<m>,<n>,<plain>,<image>,<video>,<audio>,<new pad>,"
    "<|end|>,<other>,<BOS_TOKEN>,<bos>,[CLS],[SEP],[MASK]"
)
SPECIAL = _SPECIAL.split(",")


def texts() -> list[str]:
    """Each word alone and between spaces, and random mixtures with special tokens in the middle."""
    random_ = random.Random(11)
    made = ["", *SPACES, *WORDS, *SPECIAL]
    made += [f" {word}" for word in WORDS] + [f"{word} " for word in SPECIAL]
    made += [f"a {word} b{word}c" for word in SPECIAL]
    for _ in range(120):
        parts = [
            random_.choice(random_.choice((WORDS, WORDS, SPACES, SPECIAL)))
            + random_.choice(SPACES[:4])
            for _ in range(random_.randrange(1, 14))
        ]
        made.append("".join(parts))
    return made


def random_ids() -> list[list[int]]:
    random_ = random.Random(12)
    return [[random_.randrange(600) for _ in range(random_.randrange(12))] for _ in range(60)]


TEXTS = texts()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tokenizers")
    for name, folder in FOLDERS.items():
        folder.write(root / name)
    return root


@pytest.fixture(scope="module")
def expected(folders: Path) -> dict[str, Any]:
    return answers([folders / name for name in FOLDERS], texts=TEXTS, ids=random_ids())


def load(folder: Path) -> Tokenizer:
    return load_tokenizer(folder.name, folder, trust_remote_code=False)


@pytest.mark.parametrize("name", LEAN)
def test_ids_and_texts_are_auto_tokenizers(
    name: str, folders: Path, expected: dict[str, Any]
) -> None:
    wanted = expected[name]
    assert "error" not in wanted
    tokenizer = load(folders / name)
    assert isinstance(tokenizer, JsonTokenizer)
    assert tokenizer.special_texts == wanted["special"]
    for text, plain, whole in zip(TEXTS, wanted["plain"], wanted["whole"], strict=True):
        assert tokenizer.encode(text, special=False) == plain, repr(text)
        assert tokenizer.encode(text, special=True) == whole, repr(text)
    for ids, (kept, left_out) in zip(
        (*wanted["whole"], *wanted["ids"]), wanted["decoded"], strict=True
    ):
        assert tokenizer.decode(ids, skip_special=False) == kept, ids
        assert tokenizer.decode(ids, skip_special=True) == left_out, ids


@pytest.mark.parametrize("name", LEAN)
def test_pieces_joined_are_the_decoded_text(
    name: str, folders: Path, expected: dict[str, Any]
) -> None:
    tokenizer = load(folders / name)
    for ids, (_, whole) in zip(expected[name]["whole"], expected[name]["decoded"], strict=False):
        stream = WindowDetokenizer(tokenizer)
        assert "".join([*(stream.push(token) for token in ids), stream.finish()]) == whole, ids


# With and without `transformers`.

LOAD = """
import json, sys
from pathlib import Path
from mlx_stdio.errors import EngineError
from mlx_stdio.text.tokenizer import load_tokenizer
asked, found = json.loads(sys.stdin.read()), {}
for folder in asked["folders"]:
    try:
        tokenizer = load_tokenizer("it", Path(folder), trust_remote_code=False)
    except EngineError as error:
        found[Path(folder).name] = error.to_wire()
        continue
    found[Path(folder).name] = {
        "kind": tokenizer.kind,
        "reason": tokenizer.reason,
        "special": tokenizer.special_texts,
        "plain": [tokenizer.encode(text, special=False) for text in asked["texts"]],
        "whole": [tokenizer.encode(text, special=True) for text in asked["texts"]],
    }
heavy = {"transformers", "huggingface_hub", "torch", "requests", "httpx"}
print(json.dumps([found, sorted(heavy & set(sys.modules))]))
"""


def loaded(names: list[str], folders: Path, without: Path | None = None) -> Any:
    """What a fresh process makes of folders, and which heavy packages it has imported."""
    asked = {"folders": [str(folders / name) for name in names], "texts": TEXTS}
    code = LOAD if without is None else f"import sys; sys.path.insert(0, {str(without)!r})\n{LOAD}"
    return run_python("-c", code, data=json.dumps(asked))


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder for `sys.path` that hides what an installation may lack."""
    return hide(tmp_path / "bare", "transformers", "huggingface_hub")


def test_without_transformers_every_lean_folder_is_loaded(
    bare: Path, folders: Path, expected: dict[str, Any]
) -> None:
    found, heavy = loaded(LEAN, folders, bare)
    assert heavy == []
    for name in LEAN:
        wanted = {key: expected[name][key] for key in ("special", "plain", "whole")}
        assert found[name] == {"kind": "tokenizers", "reason": None, **wanted}


def test_without_transformers_the_others_are_taken_as_they_stand_or_say_what_they_need(
    bare: Path, folders: Path
) -> None:
    found, heavy = loaded(OTHERS, folders, bare)
    assert heavy == []
    assert len(found) == len(OTHERS) > 5
    for name, result in found.items():
        if (folders / name / "tokenizer.json").is_file():
            config = read_object(folders / name / "tokenizer_config.json")
            plain = JsonTokenizer.load(folders / name, config, PLAIN)
            assert plain is not None
            assert result["kind"] == "tokenizers"
            assert "is taken as it stands" in result["reason"]
            assert result["plain"] == [plain.encode(text, special=False) for text in TEXTS]
        else:
            assert result["data"] == {"kind": "modelLoadFailed", "model": "it"}
            assert "needs `transformers`" in result["message"]
            assert "pip install transformers" in result["message"]
    assert "`T5Tokenizer` builds its own" in found["t5"]["reason"]


def test_the_others_go_through_transformers(folders: Path, expected: dict[str, Any]) -> None:
    found, heavy = loaded(OTHERS, folders)
    assert "transformers" in heavy
    for name in OTHERS:
        assert found[name].pop("reason")
        wanted = {key: expected[name][key] for key in ("special", "plain", "whole")}
        assert found[name] == {"kind": "transformers", **wanted}


def test_the_engine_tells_which_path_was_taken(
    models: Path, folders: Path, bare: Path, tmp_path: Path
) -> None:
    shelf = tmp_path / "shelf"
    for name, kind in (("fast", "qwen3"), ("slow", "t5")):
        copy_model(models / "tiny", shelf / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(folders / kind / file, shelf / name / file)
    copy_model(models / "tiny", shelf / "plain")
    options = ("--models-dir", str(shelf), "--model", "plain")
    with Host(*options) as host:
        assert "tokenizer" not in row(host, "fast")
        for model in ("fast", "slow"):
            host.call("tokenize", model=model, text="the fox")
        # No weights are read for it.
        rows = [row(host, model) for model in ("fast", "slow")]
        assert [it["state"] for it in rows] == ["available"] * 2
        assert [it["tokenizer"] for it in rows] == ["tokenizers", "transformers"]
        host.call("models/load", model="slow")
        assert row(host, "slow")["tokenizer"] == "transformers"
        host.call("models/unload", model="slow")
        assert "tokenizer" not in row(host, "slow")
        host.close_stdin()
        host.wait()
    lines = [json.loads(line) for line in host.stderr.splitlines() if line.startswith(b"{")]
    told = [line for line in lines if line["event"] == "tokenizer.loaded"]
    assert [(line["model"], line["kind"]) for line in told][:2] == [
        ("fast", "tokenizers"),
        ("slow", "transformers"),
    ]
    assert "reason" not in told[0]
    assert "T5Tokenizer" in told[1]["reason"]
    with Host(*options, env={"PYTHONPATH": f"{bare}:{ROOT}"}) as host:
        assert host.call("generate", prompt="the fox", maxTokens=2)["usage"]["completionTokens"]
        assert host.call("tokenize", model="fast", text="the fox")["tokens"]
        assert host.call("applyTemplate", messages=[{"role": "user", "content": "a"}])["tokens"]
        assert host.call("tokenize", model="slow", text="the fox")["tokens"]
        assert row(host, "slow")["tokenizer"] == "tokenizers"
