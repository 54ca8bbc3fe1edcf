"""Checkpoints that are odd, broken, or bring code: what `mlx_lm` loads is loaded, the rest is said.

Each form that is loaded here in an odd folder has its reference in a plain one.
"""

from __future__ import annotations

import glob
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_stdio.errors import EngineError
from mlx_stdio.models import lean
from mlx_stdio.models.card import read_card
from mlx_stdio.models.loader import give_back
from tests.host import COMMAND, Host, RpcError, run_python, tokens_of
from tests.made_checkpoints import MAX_TOKENS, PROMPT, Made, load

INDEX = "model.safetensors.index.json"
ASK: dict[str, Any] = {"prompt": PROMPT, "maxTokens": MAX_TOKENS, "ignoreEos": True}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    forms = ("affine-4-64", "awq", "fp8-blocks", "method-fp8-mxfp8", "shards")
    return Made(tmp_path_factory.mktemp("made"), *forms)


@pytest.fixture
def copy(made: Made, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a form, to be changed."""
    return lambda name: Path(shutil.copytree(made.checkpoints / name, tmp_path / name))


def edit(file: Path, **members: Any) -> None:
    """Change members of a JSON object; None takes one out."""
    old = json.loads(file.read_text()) if file.exists() else {}
    new = {name: value for name, value in {**old, **members}.items() if value is not None}
    file.write_text(json.dumps(new))


def refusal(folder: Path, mx: Any, **options: Any) -> str:
    """Why a folder cannot be loaded; nothing of it stays in memory."""
    give_back()
    before = mx.get_active_memory()
    with pytest.raises(EngineError) as caught:
        load(folder, **options)
    assert caught.value.kind == "modelLoadFailed"
    assert caught.value.data == {"model": folder.name}
    assert caught.value.__context__ is None  # it would hold what was read so far
    assert mx.get_active_memory() <= before + 1024
    return caught.value.message


# Which files are read.


def test_an_index_of_other_files_is_passed_over(
    copy: Callable[[str], Path], made: Made, mx: Any
) -> None:
    """Converters copy every JSON file of what they convert, its index too."""
    folder = copy("affine-4-64")
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    edit(folder / INDEX, weight_map={"model.experts.0.w1": names[0], "lm_head.weight": names[1]})
    made.check("affine-4-64", folder, mx)


def test_files_that_mlx_lm_does_not_read_may_be_missing(
    copy: Callable[[str], Path], made: Made, mx: Any
) -> None:
    folder = copy("shards")
    listed = json.loads((folder / INDEX).read_text())["weight_map"]
    edit(folder / INDEX, weight_map={**listed, "mtp.0.weight": "mtp.safetensors"})
    made.check("shards", folder, mx)
    (folder / INDEX).unlink()
    made.check("shards", folder, mx)


def test_a_missing_shard_is_named(copy: Callable[[str], Path], mx: Any) -> None:
    folder = copy("shards")
    listed = json.loads((folder / INDEX).read_text())["weight_map"]
    lost = listed["model.norm.weight"]
    (folder / lost).unlink()
    assert refusal(folder, mx) == f"{lost} is listed in the index and missing"
    # Without an index only `mlx_lm` finds out.
    (folder / INDEX).unlink()
    assert "model.norm.weight" in refusal(folder, mx)
    # Where another file has its tensors, nothing is missing.
    shutil.copy(folder / listed["lm_head.weight"], folder / "model-twice.safetensors")
    edit(folder / INDEX, weight_map={**listed, "model.norm.weight": "model-norm.safetensors"})
    mx.save_safetensors(str(folder / "model-x.safetensors"), {"model.norm.weight": mx.ones(128)})
    load(folder)


def test_a_truncated_shard_is_named(copy: Callable[[str], Path], mx: Any) -> None:
    folder = copy("shards")
    file = sorted(folder.glob("*.safetensors"))[3]
    file.write_bytes(file.read_bytes()[:-1])
    assert refusal(folder, mx) == f"{file.name} is truncated at {file.stat().st_size} bytes"


def test_other_names_are_no_weights(copy: Callable[[str], Path], mx: Any) -> None:
    folder = copy("awq")
    (folder / "model.safetensors").rename(folder / "weights.00.safetensors")
    assert "no model*.safetensors" in refusal(folder, mx)


def test_files_are_read_in_mlx_lms_order(made: Made) -> None:
    """Of a tensor that is in two files, the one that is read last counts."""
    pattern = str(made.checkpoints / "shards" / "model*.safetensors")
    assert lean._glob(pattern) == glob.glob(pattern)  # noqa: PTH207 - it is what `mlx_lm` calls
    assert len(lean._glob(pattern)) > 16


def test_more_files_than_may_be_open(made: Made) -> None:
    shell = ["sh", "-c", 'ulimit -Sn 24; exec "$@"', "sh", *COMMAND]
    with Host("--models-dir", str(made.checkpoints), command=shell) as host:
        request_id = host.start("generate", model="shards", **ASK)
        host.reply(request_id)
        assert tokens_of(host.take_deltas(request_id)) == made.facts["shards"]["tokens"]


# What `mlx_lm` refuses.

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    # By name: a form, members of its config, and a part of what is said.
    "fp8 container": (
        "affine-4-64",
        {"quant_method": "compressed-tensors", "format": "float-quantized"},
        "unsupported compressed-tensors format 'float-quantized'",
    ),
    "modelopt": (
        "affine-4-64",
        {"quant_method": "modelopt", "quant_algo": "FP8"},
        "Unsupported modelopt quant_algo: FP8",
    ),
    "awq of 8 bits": ("awq", {"quant_method": "awq", "bits": 8}, "Only bits=8 is supported"),
    "unknown method": ("awq", {"quant_method": "bitsandbytes"}, "parameters not in model"),
    "no method": ("awq", {"bits": 4}, "quant_method"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_error_is_mlx_lms(name: str, copy: Callable[[str], Path], mx: Any) -> None:
    form, method, part = REFUSED[name]
    folder = copy(form)
    edit(folder / "config.json", quantization=None, quantization_config=method)
    assert part in refusal(folder, mx)


def test_groups_in_no_order_are_refused(copy: Callable[[str], Path], mx: Any) -> None:
    folder = copy("awq")
    name = "model.layers.0.self_attn.q_proj.g_idx"
    mx.save_safetensors(str(folder / "model-g.safetensors"), {name: mx.zeros(128, mx.int32)})
    assert f"Found {name} in weights" in refusal(folder, mx)


def test_an_error_that_lists_all_tensors_is_cut(copy: Callable[[str], Path], mx: Any) -> None:
    folder = copy("affine-4-64")
    extra = {f"unknown.layer.{number}.weight": mx.zeros(1) for number in range(2000)}
    mx.save_safetensors(str(folder / "model-extra.safetensors"), extra)
    message = refusal(folder, mx)
    assert "Received 2000 parameters not in model" in message
    assert len(message) < 3000


def test_end_tokens_are_mlx_lms(copy: Callable[[str], Path]) -> None:
    folder = copy("affine-4-64")
    code = (
        "import json, sys; from pathlib import Path; from mlx_lm.utils import load_config;"
        "print(json.dumps([load_config(Path(name))['eos_token_id'] for name in sys.argv[1:]]))"
    )
    folders = []
    for number, ids in enumerate(([], [5, 6], 7)):
        odd = Path(shutil.copytree(folder, folder.parent / str(number)))
        edit(odd / "config.json", eos_token_id=[1, 2])
        edit(odd / "generation_config.json", eos_token_id=ids)
        folders.append(odd)
    expected = run_python("-c", code, *map(str, folders))
    assert expected == [[1, 2], [5, 6], 7]
    assert [read_card("any", odd).eos_ids for odd in folders] == [{1, 2}, {5, 6}, {7}]


# What conversion adds counts before it is done.


def test_a_model_that_grows_beyond_the_limit_is_refused_before_it_is_read(made: Made) -> None:
    size = made.facts["fp8-blocks"]["bytes"]
    file = (made.checkpoints / "fp8-blocks" / "model.safetensors").stat().st_size
    assert file < size
    options = ("--models-dir", str(made.checkpoints), "--memory-limit")
    with Host(*options, str((file + size) // 2)) as host:
        with pytest.raises(RpcError) as caught:
            host.call("models/load", model="fp8-blocks")
        assert caught.value.kind == "outOfMemory"
        assert size <= caught.value.data["neededBytes"] < size + 2**14
        assert host.call("engine/status")["counters"]["modelLoads"] == 0
    with Host(*options, str(size + 2**14)) as host:
        assert host.call("models/load", model="fp8-blocks")["model"]["bytes"] == size


# Code in the folder.

CODE = """
from mlx_lm.models import llama

class ModelArgs(llama.ModelArgs):
    @classmethod
    def from_dict(cls, params):
        return super().from_dict({**params, "model_type": "llama"})

Model = llama.Model
"""


@pytest.mark.parametrize("model_type", ["llama", None])
@pytest.mark.parametrize("name", ["affine-4-64", "awq", "method-fp8-mxfp8"])
def test_code_in_the_folder(
    name: str, model_type: str | None, copy: Callable[[str], Path], made: Made, mx: Any
) -> None:
    folder = copy(name)
    (folder / "mine.py").write_text(CODE)
    edit(folder / "config.json", model_file="mine.py", model_type=model_type)
    message = refusal(folder, mx)
    assert "'mine.py'" in message
    assert "--trust-remote-code" in message
    made.check(name, folder, mx, trust_remote_code=True)


def test_code_in_the_folder_through_the_pipe(copy: Callable[[str], Path], made: Made) -> None:
    folder = copy("awq")
    (folder / "mine.py").write_text(CODE)
    edit(folder / "config.json", model_file="mine.py", model_type=None)
    with Host() as host:
        with pytest.raises(RpcError) as caught:
            host.call("generate", model=str(folder), **ASK)
        assert caught.value.kind == "modelLoadFailed"
        assert "--trust-remote-code" in caught.value.message
        assert host.call("generate", model=str(made.checkpoints / "awq"), **ASK)
    with Host("--trust-remote-code") as host:
        request_id = host.start("generate", model=str(folder), **ASK)
        host.reply(request_id)
        assert tokens_of(host.take_deltas(request_id)) == made.facts["awq"]["tokens"]
