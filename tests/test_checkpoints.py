"""Every form of checkpoint that `mlx_lm` loads gives the logits that `mlx_lm` gives, bit by bit.

`mlx_lm` itself runs in another process (`tests/made_checkpoints.py`); here is the engine's loader,
and for some forms the whole engine behind its pipe.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_stdio.errors import EngineError
from mlx_stdio.models.card import read_card
from mlx_stdio.models.loader import give_back
from mlx_stdio.models.residency import weight_estimate
from tests import foreign_checkpoints, made_checkpoints
from tests.host import Host, RpcError, tokens_of
from tests.made_checkpoints import MAX_TOKENS, PROMPT, Made, load
from tests.residents import memory, progress, row

FORMS = [*made_checkpoints.forms(), *foreign_checkpoints.forms()]

NOT_ON_A_CPU = {
    "activations": "[QQMatmul] NYI for the general case",
    "bitnet": "[metal_kernel] No Metal back-end.",
    "experts-bfloat16": "[GatherMM::eval] Currently only supports float32.",
    "nvfp4-global-scales": "[gather_qmm] Global scale is only supported on the GPU.",
}
"""What MLX says of the forms that its CPU backend has no kernel for."""

THROUGH_THE_PIPE = [
    "plain-float32",
    "affine-3-32",
    "affine-8-128",
    "affine-tied",
    "mxfp4-experts",
    "mxfp8",
    "nvfp4-tied",
    "mixed-bits",
    "shards-mixed",
    "awq-shards",
    "fp8-shards",
    "gpt-oss",
    "nested",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def engine(made: Made) -> Iterator[Host]:
    with Host("--models-dir", str(made.checkpoints), "--max-models", "2") as host:
        yield host


@pytest.mark.parametrize("name", FORMS)
def test_logits_are_mlx_lms(name: str, made: Made, mx: Any) -> None:
    error = made.facts[name]["error"]
    if error is None:
        made.check(name, made.checkpoints / name, mx)
        return
    # `mlx_lm` itself cannot run it on this device, and says so after it was loaded.
    if mx.default_device() != mx.cpu:
        pytest.skip(error)
    assert error == NOT_ON_A_CPU[name]
    with pytest.raises(EngineError) as caught:
        load(made.checkpoints / name)
    assert caught.value.kind == "modelLoadFailed"
    assert caught.value.__context__ is None
    assert "this device" in caught.value.message
    assert error in caught.value.message


def test_the_references_differ(made: Made, mx: Any) -> None:
    """A form that was not made would pass as another one."""
    logits = mx.load(str(made.logits))
    twins = {"affine-4-64": "affine-4-bfloat16", "awq": "awq-shards", "fp8-blocks": "fp8-shards"}
    for name, twin in twins.items():
        assert mx.array_equal(logits[name], logits.pop(twin)).item()
    quantised = [name for name in logits if name.startswith(("affine", "mx", "nv", "mixed", "in"))]
    values = {name: tuple(logits[name].astype(mx.float32)[0, -1].tolist()) for name in quantised}
    assert len(quantised) > 30
    assert len(set(values.values())) == len(quantised)


@pytest.mark.parametrize("name", FORMS)
def test_what_a_model_will_take_is_known_before(name: str, made: Made) -> None:
    folder = made.checkpoints / name
    estimate = weight_estimate(read_card(name, folder))
    headers = 0
    for file in folder.glob("*.safetensors"):
        headers += 8 + int.from_bytes(file.read_bytes()[:8], "little")
    dropped = 64 * 64 * 4 if name == "nested" else 0  # the weights of a tower that is not built
    assert estimate == made.facts[name]["bytes"] + headers + dropped


@pytest.mark.parametrize("name", THROUGH_THE_PIPE)
def test_the_engine_says_what_mlx_lm_says(name: str, made: Made, engine: Host) -> None:
    fact = made.facts[name]
    request_id = engine.start(
        "generate", model=name, prompt=PROMPT, maxTokens=MAX_TOKENS, ignoreEos=True
    )
    engine.reply(request_id)
    assert tokens_of(engine.take_deltas(request_id)) == fact["tokens"]
    shown = row(engine, name)
    assert (shown["bytes"], shown["vocabularySize"]) == (fact["bytes"], fact["rows"])
    notes = progress(engine, request_id)
    done = [note["completed"] for note in notes]
    assert done == sorted(set(done))
    assert done[0] == 0
    assert done[-1] == notes[-1]["total"] == fact["bytes"]


def test_what_a_cpu_cannot_do_is_said_by_every_load(made: Made, engine: Host) -> None:
    if engine.call("engine/status")["device"]["type"] != "cpu":
        pytest.skip("the engine has a GPU")
    errors = {name: fact["error"] for name, fact in made.facts.items() if fact["error"]}
    before = memory(engine)["weightsBytes"]
    for name, error in [*errors.items()] * 2:
        with pytest.raises(RpcError) as caught:
            engine.call("generate", model=name, prompt=PROMPT, maxTokens=2)
        assert (caught.value.code, caught.value.kind) == (1002, "modelLoadFailed")
        assert error in caught.value.message
    assert memory(engine)["weightsBytes"] <= before
    assert engine.call("generate", model="mxfp8", prompt=PROMPT, maxTokens=2)["text"]


def test_experts_in_16_bits_are_refused_only_if_they_compute_in_16_bits(
    made: Made, tmp_path: Path, mx: Any
) -> None:
    """The product is in 32 bits where what reaches the experts is."""
    source = made.checkpoints / "experts-bfloat16"
    folder = tmp_path / "wider"
    folder.mkdir()
    for file in source.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = mx.load(str(source / "model.safetensors"))
    for name, value in tensors.items():
        if ".mlp.switch_mlp." not in name:
            tensors[name] = value.astype(mx.float32)
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    logits = load(folder).model(mx.array([PROMPT]))
    mx.eval(logits)
    assert logits.dtype == mx.float32


def test_a_load_that_is_refused_holds_no_memory(made: Made, mx: Any) -> None:
    give_back()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    if mx.default_device() != mx.cpu:
        pytest.skip("nothing is refused")
    for name in NOT_ON_A_CPU:
        with pytest.raises(EngineError):
            load(made.checkpoints / name)
    give_back()
    assert mx.get_active_memory() <= before + 1024
    # Nothing was read either.
    assert mx.get_peak_memory() < before + made.facts["bitnet"]["bytes"] // 2


def test_the_mixed_forms_are_mixed(made: Made) -> None:
    config = json.loads((made.checkpoints / "mixed-modes" / "config.json").read_text())
    layers = [v for v in config["quantization"].values() if isinstance(v, dict)]
    assert {layer["mode"] for layer in layers} == {"affine", "mxfp8", "nvfp4"}
    config = json.loads((made.checkpoints / "mixed-bits" / "config.json").read_text())
    layers = [v for v in config["quantization"].values() if isinstance(v, dict)]
    assert {layer["bits"] for layer in layers} == {3, 6}
