"""`mlx_lm` without `transformers`: what comes of it, and the fallback to it.

`test_lean_pins.py` has what `models/lean.py` relies on.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.host import Host, RpcError, run_python
from tests.residents import copy_model, row

HEAVY = ("transformers", "huggingface_hub", "torch", "requests", "httpx")
SHORT: dict[str, Any] = {"prompt": "ab", "maxTokens": 3, "ignoreEos": True}
TEXT = "the quick brown foxes"


ALL_MODELS = """
import importlib, json, pkgutil, resource, sys
before = resource.getrlimit(resource.RLIMIT_NOFILE)
from mlx_stdio.models.lean import install, load_model_function
install()
function = load_model_function()
import mlx_lm.models
failures, count = {}, 0
for module in pkgutil.iter_modules(mlx_lm.models.__path__):
    count += 1
    try:
        importlib.import_module("mlx_lm.models." + module.name)
    except BaseException as error:
        failures[module.name] = type(error).__name__
import mlx_lm.sample_utils
limits = [before, resource.getrlimit(resource.RLIMIT_NOFILE)]
print(json.dumps([count, failures, sorted({n.split(".")[0] for n in sys.modules}), limits]))
"""


def test_every_architecture_is_imported_without_transformers() -> None:
    count, failures, packages, (before, after) = run_python("-c", ALL_MODELS)
    assert count > 100
    # It needs a package of its own and calls `sys.exit` where that is missing.
    assert failures in ({"olmo": "SystemExit"}, {})
    assert not set(HEAVY) & set(packages)
    assert {"mlx", "mlx_lm"} <= set(packages)
    assert before == after


LATER = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (1000, 1000))
from mlx_stdio.models.lean import load_model_function
function = load_model_function()
facts = {"limit": resource.getrlimit(resource.RLIMIT_NOFILE)}
facts["stand_ins"] = [n for n in ("huggingface_hub", "mlx_lm.tokenizer_utils") if n in sys.modules]
import mlx_lm
facts["absent"] = hasattr(mlx_lm, "no_such_name")
facts["lazy"] = "transformers" not in sys.modules
# Where the hard limit is lower than what it asks for, the original cannot even be imported.
resource.setrlimit = lambda *_: None
facts["names"] = [callable(getattr(mlx_lm, n)) for n in ("load", "generate", "stream_generate")]
facts["version"] = mlx_lm.__version__
facts["real"] = "transformers" in sys.modules
import mlx_lm.utils, huggingface_hub
facts["utils"] = mlx_lm.utils.snapshot_download is huggingface_hub.snapshot_download
facts["private"] = function is not mlx_lm.utils.load_model
facts["same"] = function.__code__.co_code == mlx_lm.utils.load_model.__code__.co_code
model, tokenizer = mlx_lm.load(sys.argv[1])
facts["text"] = mlx_lm.generate(model, tokenizer, "ab", max_tokens=3)
print(json.dumps(facts))
"""


def test_the_real_package_works_afterwards(models: Path) -> None:
    facts = run_python("-c", LATER, str(models / "tiny"))
    text = facts.pop("text")
    assert re.fullmatch(r"\d+\.\d+.*", facts.pop("version"))
    assert facts == {
        "limit": [1000, 1000],
        "stand_ins": [],
        "absent": False,
        "lazy": True,
        "names": [True] * 3,
        "real": True,
        "utils": True,
        "private": True,
        "same": True,
    }
    with Host("--models-dir", str(models), "--model", "tiny") as host:
        assert host.call("generate", **SHORT)["text"] == text


def test_install_leaves_a_package_that_is_there_alone() -> None:
    code = (
        "import mlx_lm; from mlx_stdio.models.lean import install; install();"
        "import sys; print(int(sys.modules['mlx_lm'] is mlx_lm and callable(mlx_lm.load)))"
    )
    assert run_python("-c", code) == 1


def imported(host: Host) -> set[str]:
    """What an engine that runs with `-v` has imported; ends it."""
    host.close_stdin()
    assert host.wait() == 0
    host.close()
    return set(re.findall(r"import '([\w.]+)' #", host.stderr.decode()))


# Unlike `-X importtime` it also tells what `importlib.import_module` imports.
VERBOSE = [sys.executable, "-v", "-m", "mlx_stdio"]


def test_an_engine_that_serves_imports_none_of_it(models: Path) -> None:
    with Host("--models-dir", str(models), "--model", "tiny", command=VERBOSE) as host:
        host.call("generate", **SHORT)
        host.call("chat", messages=[{"role": "user", "content": "ab"}], maxTokens=2)
        host.call("models/list")
        names = imported(host)
    assert {"mlx.core", "mlx_lm.models.llama", "tokenizers", "jinja2"} <= names
    assert not set(HEAVY) & {name.split(".")[0] for name in names}
    assert not {"mlx_lm.utils", "mlx_lm.tokenizer_utils", "mlx_lm.generate"} & names


# Tokenizers that need `transformers`.


def word_pieces(folder: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "quick", "brown", "fox", "##es"]
    words += [f"word{number}" for number in range(290)]
    (folder / "vocab.txt").write_text("\n".join(words))
    config = {"tokenizer_class": "BertTokenizer", "cls_token": "[CLS]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def sentence_pieces(folder: Path) -> None:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox jumps over the lazy dog"] * 20),
        model_writer=model,
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


REFERENCE = """
import json, sys
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer.encode(sys.argv[2], add_special_tokens=False)
print(json.dumps([ids, tokenizer.encode(sys.argv[2]), tokenizer.decode(ids)]))
"""


@pytest.mark.parametrize("write", [word_pieces, sentence_pieces])
def test_a_folder_without_a_tokenizer_json_goes_through_transformers(
    write: Callable[[Path], None], models: Path, tmp_path: Path
) -> None:
    folder = copy_model(models / "tiny", tmp_path / "slow")
    (folder / "tokenizer.json").unlink()
    write(folder)
    plain, whole, text = run_python("-c", REFERENCE, str(folder), TEXT)
    assert len(plain) > 3
    with Host("--models-dir", str(tmp_path), "--model", "slow", command=VERBOSE) as host:
        assert host.call("tokenize", text=TEXT)["tokens"] == plain
        assert host.call("tokenize", text=TEXT, addSpecialTokens=True)["tokens"] == whole
        assert host.call("detokenize", tokens=plain)["text"] == text == TEXT
        by_text = host.call("generate", prompt=TEXT, maxTokens=9)
        assert by_text["text"] == host.call("generate", prompt=whole, maxTokens=9)["text"]
        assert row(host, "slow")["tokenizer"] == "transformers"
        assert "transformers" in imported(host)


# Code inside a model's folder.

MODEL_CODE = """
from pathlib import Path
from mlx_lm.models.llama import Model, ModelArgs
(Path(__file__).parent / "ran").touch()
"""
TOKENIZER_CODE = """
from pathlib import Path
from transformers import BertTokenizer
(Path(FOLDER) / "ran").touch()
class Mine(BertTokenizer):
    pass
"""


def with_model_code(folder: Path) -> None:
    (folder / "code.py").write_text(MODEL_CODE)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_file": "code.py"}))


def with_tokenizer_code(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    word_pieces(folder)
    # `transformers` runs a copy of it.
    (folder / "mine.py").write_text(TOKENIZER_CODE.replace("FOLDER", repr(str(folder))))
    config = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("change", [with_model_code, with_tokenizer_code])
def test_code_in_a_folder_runs_only_where_the_host_allows_it(
    change: Callable[[Path], None], models: Path, tmp_path: Path
) -> None:
    folder = copy_model(models / "tiny", tmp_path / "model")
    change(folder)
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    with Host(env=environment) as host, pytest.raises(RpcError) as caught:
        host.call("generate", model=str(folder), **SHORT)
    assert caught.value.kind == "modelLoadFailed"
    assert "trust_remote_code" in caught.value.message
    assert not (folder / "ran").exists()
    with Host("--trust-remote-code", env=environment) as host:
        assert host.call("generate", model=str(folder), **SHORT)["usage"]["completionTokens"] == 3
    assert (folder / "ran").exists()
