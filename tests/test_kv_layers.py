"""What `mlx_stdio.kv.layers` promises of caches, shown with forward passes of small random models.

The oracle is a forward pass over the whole text with a fresh cache, in float32: whatever was done
to a cache on the way (copied, trimmed, joined, left alone again), the tokens are those.
"""

from __future__ import annotations

import functools
import importlib
import random
import time
from typing import Any

import pytest

from mlx_stdio.errors import EngineError
from mlx_stdio.kv import layers
from mlx_stdio.kv.geometry import Geometry
from mlx_stdio.models import lean
from tests.random_models import _COMMON, ARCHITECTURES

lean.install()

WIDE: dict[str, Any] = {"hidden_size": 128}  # heads of 32 values: they can be quantised

FALCON: dict[str, Any] = {
    "head_dim": 16,
    "mamba_d_ssm": 64,
    "mamba_d_head": 16,
    "mamba_n_heads": 4,
    "mamba_d_state": 16,
    "attention_out_multiplier": 1.0,
    "embedding_multiplier": 1.0,
    "key_multiplier": 1.0,
    "lm_head_multiplier": 1.0,
    "mlp_multipliers": [1.0, 1.0],
    "ssm_in_multiplier": 1.0,
    "ssm_multipliers": [1.0] * 5,
    "ssm_out_multiplier": 1.0,
}

LLAMA4: dict[str, Any] = {
    "text_config": {
        **_COMMON,
        "model_type": "llama4",
        "vocab_size": 320,
        "num_hidden_layers": 4,
        "head_dim": 16,
        "attention_chunk_size": 16,
        "attention_bias": False,
        "intermediate_size_mlp": 128,
        "interleave_moe_layer_step": 2,
        "num_experts_per_tok": 1,
        "num_local_experts": 2,
        "rope_scaling": None,
        "use_qk_norm": False,
    }
}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {}),
    "wide": ("llama", WIDE),
    "sliding": ("gemma3_text", {"num_hidden_layers": 3}),
    "sliding-far": ("gemma3_text", {"num_hidden_layers": 3, "sliding_window": 300}),
    "recurrent": ("mamba2", {}),
    "hybrid": ("qwen3_next", {"num_hidden_layers": 2}),
    "hybrid-wide": ("qwen3_next", {"num_hidden_layers": 2, "head_dim": 32}),
    "latent": ("deepseek_v2", {}),
    "latent-wide": (
        "deepseek_v2",
        {"qk_rope_head_dim": 32, "qk_nope_head_dim": 32, "v_head_dim": 32},
    ),
    "absorbed": (
        "deepseek_v3",
        {
            **ARCHITECTURES["deepseek_v2"],
            "qk_rope_head_dim": 32,
            "qk_nope_head_dim": 32,
            "v_head_dim": 32,
            "kv_lora_rank": 32,
            "n_group": 1,
            "topk_group": 1,
        },
    ),
    "list": ("falcon_h1", FALCON),
    "chunked": ("llama4", LLAMA4),
}
BATCHED = ["plain", "sliding", "sliding-far", "recurrent", "hybrid", "latent", "absorbed", "list"]


@functools.cache
def model(name: str) -> Any:
    import mlx.core as mx
    from mlx.utils import tree_map

    architecture, config = MODELS[name]
    module = importlib.import_module(f"mlx_lm.models.{architecture}")
    known = ARCHITECTURES.get(architecture, {})
    merged = {"model_type": architecture, "vocab_size": 320, **_COMMON, **known, **config}
    mx.random.seed(1)
    made = module.Model(module.ModelArgs.from_dict(merged))
    made.update(tree_map(lambda v: v * 2 if v.ndim == 2 else v, made.parameters()))
    mx.eval(made.parameters())
    return made


def read(made: Any, cache: list[Any], tokens: list[int]) -> None:
    import mlx.core as mx

    if tokens:
        made(mx.array([tokens], dtype=mx.uint32), cache=cache)
        mx.eval(layers.arrays(cache))


def decode(made: Any, cache: list[Any], last: int, count: int) -> list[int]:
    """Greedy tokens after `last`, whose predecessors are in the cache."""
    out: list[int] = []
    for _ in range(count):
        (last,) = step(made, cache, [last])
        out.append(last)
    return out


def step(made: Any, cache: list[Any], tokens: list[int]) -> list[int]:
    """One token of each row."""
    import mlx.core as mx

    logits = made(mx.array(tokens, dtype=mx.uint32)[:, None], cache=cache)[:, -1]
    found: list[int] = mx.argmax(logits, axis=-1).tolist()  # type: ignore[assignment]
    return found


def oracle(made: Any, tokens: list[int], start: int, cache: list[Any] | None = None) -> list[int]:
    """The greedy successors of tokens `start - 1`, `start` … of a text, in one forward pass."""
    import mlx.core as mx

    logits = made(mx.array([tokens[:-1]], dtype=mx.uint32), cache=cache or layers.make(made))[0]
    found: list[int] = mx.argmax(logits, axis=-1).tolist()  # type: ignore[assignment]
    return found[start - 1 :]


def some_tokens(random_: random.Random, count: int) -> list[int]:
    return [random_.randrange(1, 320) for _ in range(count)]


class Rows:
    """A batch as the engine runs it; each row knows its text and where its prompt ends."""

    def __init__(self, name: str, seed: int) -> None:
        self.model = model(name)
        self.random = random.Random(seed)
        self.cache: list[Any] | None = None
        self.rows: list[tuple[list[int], int]] = []
        self.parked: list[tuple[tuple[list[int], int], list[Any]]] = []
        self.ended: list[tuple[list[int], int]] = []

    def join(self, longest: int) -> None:
        """New texts, read in chunks, some of them decoded alone first; or one that left earlier."""
        new: list[tuple[tuple[list[int], int], list[Any]]] = []
        for _ in range(self.random.randint(1, 2)):
            tokens = some_tokens(self.random, self.random.randint(2, longest))
            start = len(tokens)
            cache = layers.make(self.model)
            at = 0
            while at < start - 1:
                end = min(start - 1, at + self.random.choice([7, 20, longest]))
                read(self.model, cache, tokens[at:end])
                at = end
            tokens += decode(self.model, cache, tokens[-1], self.random.choice([0, 0, 3, 20]))
            if self.random.random() < 0.5:
                layers.compact(cache)
            new.append(((tokens, start), cache))
        if self.parked and self.random.random() < 0.7:
            new.append(self.parked.pop())
        merged = layers.merge([cache for _, cache in new])
        self.cache = layers.extend(self.cache, merged) if self.cache else merged
        self.rows += [row for row, _ in new]

    def leave(self) -> None:
        keep = self.random.sample(range(len(self.rows)), self.random.randint(1, len(self.rows)))
        assert self.cache is not None
        for at, row in enumerate(self.rows):
            if at not in keep:
                self.parked.append((row, layers.extract(self.cache, at, len(row[0]) - 1)))
        lengths = [len(self.rows[at][0]) - 1 for at in keep]
        self.cache = layers.select(self.cache, keep, lengths)
        self.rows = [self.rows[at] for at in keep]
        if self.random.random() < 0.5:
            layers.compact(self.cache)

    def step(self) -> None:
        assert self.cache is not None
        found = step(self.model, self.cache, [tokens[-1] for tokens, _ in self.rows])
        for (tokens, _), token in zip(self.rows, found, strict=True):
            tokens.append(token)

    def check(self) -> None:
        for (tokens, _), cache in self.parked:
            tokens += decode(self.model, cache, tokens[-1], 4)
        texts = [*self.rows, *(row for row, _ in self.parked)]
        for tokens, start in texts:
            assert tokens[start:] == oracle(self.model, tokens, start)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", BATCHED)
def test_rows_that_join_and_leave_get_their_own_tokens(name: str, seed: int) -> None:
    rows = Rows(name, seed)
    for _ in range(14):
        chance = rows.random.random()
        if chance < 0.25 or not rows.rows:
            rows.join(330 if name == "sliding-far" else 40)
        elif chance < 0.45 and len(rows.rows) > 1:
            rows.leave()
        else:
            for _ in range(rows.random.choice([1, 4, 13])):
                rows.step()
    rows.check()


def test_a_window_that_turns_at_another_place_in_each_row() -> None:
    """Rows before, at and after the turn of a window of 16, joined at every distance from it."""
    made = model("sliding")
    for first in (3, 15, 16, 17, 31, 40):
        rows = Rows("sliding", first)
        for length in (first, 5, 16, 33):
            tokens = some_tokens(rows.random, length)
            cache = layers.make(made)
            read(made, cache, tokens[:-1])
            merged = layers.merge([cache])
            rows.cache = layers.extend(rows.cache, merged) if rows.cache else merged
            rows.rows.append((tokens, length))
            for _ in range(5):
                rows.step()
        rows.check()


@pytest.mark.parametrize("name", BATCHED)
def test_merging_leaves_the_parts_and_extracting_the_batch_as_they_are(name: str) -> None:
    made = model(name)
    texts = [some_tokens(random.Random(at), 5 + 7 * at) for at in range(3)]
    caches = [layers.make(made) for _ in texts]
    for cache, tokens in zip(caches, texts, strict=True):
        read(made, cache, tokens[:-1])
    batched = layers.merge(caches)
    alone = [layers.extract(batched, at, len(texts[at]) - 1) for at in range(3)]
    expected = [oracle(made, [*tokens, 0], len(tokens)) for tokens in texts]
    for some in (caches, alone):
        found = [decode(made, c, t[-1], 1) for c, t in zip(some, texts, strict=True)]
        assert found == expected
    assert [[t] for t in step(made, batched, [t[-1] for t in texts])] == expected


def test_an_extracted_row_keeps_nothing_of_the_batch() -> None:
    import mlx.core as mx

    made = model("hybrid")
    caches = [layers.make(made) for _ in range(12)]
    for at, cache in enumerate(caches):
        read(made, cache, some_tokens(random.Random(at), 260))
    batched = layers.merge(caches)
    mx.eval(layers.arrays(batched))
    del caches, cache
    mx.clear_cache()
    before = mx.get_active_memory()
    size = layers.nbytes(batched)
    row = layers.extract(batched, 3, 260)
    mx.eval(layers.arrays(row))
    del batched
    held = mx.get_active_memory() - (before - size)
    slack = 16384 * len(layers.arrays(row))  # `mx.contiguous` may share so much more
    assert held <= layers.nbytes(row) + slack < size / 4


def test_what_cannot_be_merged() -> None:
    assert not layers.mergeable(layers.make(model("wide"), kv_bits=8))
    assert not layers.mergeable(layers.make(model("plain"), max_kv_size=64))
    assert not layers.mergeable(layers.make(model("chunked")))
    assert all(layers.mergeable(layers.make(model(name))) for name in BATCHED)
    with pytest.raises(ValueError, match="merged"):
        layers.merge([])
    with pytest.raises(ValueError, match="merged"):
        layers.merge([layers.make(model("wide"), kv_bits=8)])
    batched = layers.merge([layers.make(model("plain"))])
    with pytest.raises(ValueError, match="at least one"):
        layers.select(batched, [], [])


@pytest.mark.parametrize("name", MODELS)
def test_whether_a_model_can_be_batched_is_known_beforehand(name: str) -> None:
    assert layers.batchable(model(name)) == (name != "chunked")


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        (
            "gpt_bigcode",
            {
                "n_embd": 64,
                "n_layer": 2,
                "n_inner": 128,
                "n_head": 4,
                "n_positions": 64,
                "layer_norm_epsilon": 1e-5,
            },
        ),
        ("gemma2", {"head_dim": 16, "query_pre_attn_scalar": 16}),
    ],
)
def test_a_models_own_code_may_not_take_a_batch(architecture: str, config: dict[str, Any]) -> None:
    module = importlib.import_module(f"mlx_lm.models.{architecture}")
    merged = {"model_type": architecture, "vocab_size": 320, **_COMMON, **config}
    made = module.Model(module.ModelArgs.from_dict(merged))
    assert layers.mergeable(layers.make(made))
    assert not layers.batchable(made)


def test_a_row_trimmed_to_nothing_and_an_unset_state_can_be_merged() -> None:
    made = model("sliding")
    tokens = some_tokens(random.Random(0), 9)
    trimmed, other = layers.make(made), layers.make(made)
    read(made, trimmed, tokens)
    read(made, other, tokens[:-1])
    layers.trim(trimmed, 9)
    found = step(made, layers.merge([trimmed, other]), [tokens[0], tokens[-1]])
    assert found == [oracle(made, [t, 0], 1)[0] if at == 0 else decode(made, other, t, 1)[0]
                     for at, t in enumerate([tokens[0], tokens[-1]])]  # fmt: skip
    from mlx_lm.models.cache import ArraysCache

    (merged,) = layers.merge([[ArraysCache(2)], [ArraysCache(2)]])
    assert merged.cache == [None, None]
    assert layers.extract([merged], 1, 0)[0].cache == [None, None]


KINDS: dict[str, tuple[str, int | None, int | None]] = {
    **{name: (name, None, None) for name in MODELS if "wide" not in name},
    "quantized": ("wide", 8, None),
    "quantized-hybrid": ("hybrid-wide", 8, None),
    "bounded": ("plain", None, 24),
    "bounded-list": ("list", None, 24),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_cache_of_a_model_is_as_empty_as_the_others(kind: str) -> None:
    name, *sizes = KINDS[kind]
    made = model.__wrapped__(name)  # that nobody has tried what it takes
    cache = layers.make(made, *sizes)
    assert layers.arrays(cache) == []
    tokens = some_tokens(random.Random(5), 9)
    read(made, cache, tokens)
    again = layers.make(made, *sizes)
    read(made, again, tokens)
    assert decode(made, cache, 7, 3) == decode(made, again, 7, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_and_its_original_go_their_own_ways(kind: str) -> None:
    name, *sizes = KINDS[kind]
    made = model(name)
    tokens = some_tokens(random.Random(3), 30)
    cache = layers.make(made, *sizes)
    read(made, cache, tokens[:20])
    other = layers.copy(cache)
    third = layers.copy(other)
    read(made, other, some_tokens(random.Random(4), 9))
    decode(made, other, 5, 3)
    found = []
    for used in (third, cache):
        read(made, used, tokens[20:-1])
        found.append(decode(made, used, tokens[-1], 4))
    fresh = layers.make(made, *sizes)
    read(made, fresh, tokens[:20])
    read(made, fresh, tokens[20:-1])
    assert found == [decode(made, fresh, tokens[-1], 4)] * 2


def test_a_copy_costs_no_memory() -> None:
    import mlx.core as mx

    cache = layers.make(model("plain"))
    read(model("plain"), cache, some_tokens(random.Random(0), 1000))
    before = mx.get_active_memory()
    began = time.perf_counter()
    copies = [layers.copy(cache) for _ in range(20)]
    assert time.perf_counter() - began < 0.2
    mx.eval([layers.arrays(each) for each in copies])
    assert mx.get_active_memory() == before


@pytest.mark.parametrize("kind", KINDS)
def test_trimmed_tokens_might_never_have_been_read(kind: str) -> None:
    name, *sizes = KINDS[kind]
    made = model(name)
    for length in (14, 30):  # windows are of 16 and 24 tokens
        tokens = some_tokens(random.Random(5), length)
        cache = layers.make(made, *sizes)
        read(made, cache, tokens)
        attends_to_all = kind in ("plain", "quantized", "latent", "absorbed", "sliding-far")
        slides = kind in ("sliding", "bounded") or (kind == "chunked")
        if not attends_to_all and not (slides and length == 14):
            if kind == "chunked":
                decode(made, cache, 1, 1)  # the front goes with the next pass
            assert not layers.trimmable(cache)
            with pytest.raises(ValueError, match="taken"):
                layers.trim(cache, 1)
            continue
        assert layers.trimmable(cache)
        assert layers.length(cache) == length
        with pytest.raises(ValueError, match="taken"):
            layers.trim(cache, length + 1)
        layers.trim(cache, 0)
        layers.trim(cache, 5)
        assert layers.length(cache) == length - 5
        other = some_tokens(random.Random(6), 7)
        read(made, cache, other[:-1])
        text = [*tokens[:-5], *other]
        text += decode(made, cache, text[-1], 4)
        assert text[-4:] == oracle(made, text, len(text) - 4, layers.make(made, *sizes))


def test_a_concatenating_cache_forgets_what_is_trimmed() -> None:
    """Upstream moves the offset only, and appends behind what was trimmed."""
    import mlx.core as mx
    from mlx_lm.models.cache import ConcatenateKVCache

    made = model("plain")
    tokens = some_tokens(random.Random(5), 12)
    cache: list[Any] = [ConcatenateKVCache() for _ in layers.make(made)]
    read(made, cache, tokens)
    layers.trim(cache, 4)
    mx.eval(layers.arrays(cache))
    text = [*tokens[:8], 7]
    text += decode(made, cache, 7, 4)
    assert text[-4:] == oracle(made, text, 9)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_compact_cache_goes_on_as_before(kind: str, exact: bool) -> None:
    import mlx.core as mx

    name, *sizes = KINDS[kind]
    made = model(name)
    for length in (9, 30, 300):
        tokens = some_tokens(random.Random(8), length)
        cache = layers.make(made, *sizes)
        read(made, cache, tokens)
        if layers.trimmable(cache) and length == 300:
            layers.trim(cache, 290)
        other = layers.compact(layers.copy(cache), exact=exact)
        mx.eval(layers.arrays(other))
        assert layers.nbytes(other) <= layers.nbytes(cache)
        if kind == "plain" and (exact or length == 300):
            assert layers.nbytes(other) < layers.nbytes(cache)
        read(made, cache, [5, 6, 7])
        read(made, other, [5, 6, 7])
        assert decode(made, other, 8, 6) == decode(made, cache, 8, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_is_known_beforehand(kind: str) -> None:
    name, bits, size = KINDS[kind]
    made = model(name)
    geometry = Geometry.probe(made)
    assert geometry.known
    assert geometry.estimate(0, bits, size) == 0
    for length in (200, 1000):
        cache = layers.make(made, bits, size)
        tokens = some_tokens(random.Random(2), length)
        read(made, cache, tokens[:256][:-1] if length == 200 else tokens[:256])
        read(made, cache, tokens[256:-1])
        peak = layers.nbytes(cache)
        assert peak <= geometry.estimate(length, bits, size, chunk=length) * 1.05 + 100
        decode(made, cache, tokens[-1], 1)
        assert layers.nbytes(cache) == pytest.approx(
            geometry.estimate(length, bits, size), rel=0.05, abs=100
        )


def test_probing_evaluates_nothing() -> None:
    import mlx.core as mx

    made = model("hybrid")
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    geometry = Geometry.probe(made)
    assert mx.get_peak_memory() - before < 20_000  # constants that a graph holds
    # One layer of attention: 2 heads of 16 keys and values of 4 bytes.
    assert geometry.per_token == 2 * 16 * 2 * 4


def test_a_model_that_cannot_be_probed_is_not_known() -> None:
    class Broken:
        layers: tuple[Any, ...] = (1,)

        def __call__(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("no")

    geometry = Geometry.probe(Broken())
    assert not geometry.known
    assert geometry.estimate(1000) == geometry.per_token == 0


def test_a_cache_class_of_a_models_own_is_measured_by_its_growth() -> None:
    import mlx.core as mx

    class Own:
        def __init__(self) -> None:
            self.kept: dict[str, Any] = {}

    class Model:
        layers = (1,)

        def make_cache(self) -> list[Any]:
            return [Own()]

        def __call__(self, inputs: Any, cache: list[Any]) -> None:
            cache[0].kept["fixed"] = mx.zeros((10,))
            cache[0].kept["rows"] = [mx.zeros((inputs.shape[1], 3))]

    geometry = Geometry.probe(Model())
    assert geometry.known
    assert geometry.per_token == 12
    assert geometry.estimate(500) == 40 + 500 * 12
    assert not layers.trimmable([Own()])
    assert not layers.mergeable([Own()])


@pytest.mark.parametrize(
    ("name", "bits", "size", "path", "kind"),
    [
        ("wide", 3, None, "$.kvBits", "invalidParams"),
        ("wide", 8, 64, "$.maxKvSize", "unsupported"),
        ("plain", 8, None, "$.kvBits", "unsupported"),  # heads of 16 values
        ("sliding", 8, None, "$.kvBits", "unsupported"),
        ("chunked", 4, None, "$.kvBits", "unsupported"),
        ("recurrent", 8, None, "$.kvBits", "unsupported"),
        ("recurrent", None, 64, "$.maxKvSize", "unsupported"),
        ("plain", None, 4, "$.maxKvSize", "invalidParams"),
    ],
)
def test_what_a_model_cannot_do(
    name: str, bits: int | None, size: int | None, path: str, kind: str
) -> None:
    with pytest.raises(EngineError) as caught:
        layers.make(model(name), bits, size)
    assert caught.value.kind == kind
    assert caught.value.data["path"] == path


def test_an_attention_that_takes_no_quantized_cache_is_found_before_work() -> None:
    """`longcat_flash` splits its latents out of what the cache returns; a sink stops others."""
    import mlx.core as mx

    class Picky:
        layers = (1,)

        def __call__(self, inputs: Any, cache: list[Any]) -> Any:
            keys, _ = cache[0].update_and_fetch(*[mx.zeros((1, 2, inputs.shape[1], 64))] * 2)
            return keys.swapaxes(-1, -2)

    with pytest.raises(EngineError, match="takes no quantised") as caught:
        layers.make(Picky(), kv_bits=8)
    assert caught.value.kind == "unsupported"
    layers.make(Picky(), max_kv_size=64)


def test_latents_and_quantized_caches() -> None:
    """Those that are made into keys and values first can be quantised; as latents they cannot."""
    made = model("latent-wide")
    tokens = some_tokens(random.Random(0), 20)
    cache = layers.make(made, kv_bits=8)
    read(made, cache, tokens[:-1])
    tokens += decode(made, cache, tokens[-1], 4)
    assert tokens[20:] == oracle(made, tokens, 20, layers.make(made, kv_bits=8))
    with pytest.raises(EngineError, match="takes no quantised") as caught:
        layers.make(model("absorbed"), kv_bits=8)
    assert caught.value.data["path"] == "$.kvBits"


def test_what_was_proven_is_not_tried_again_and_goes_with_the_model() -> None:
    import gc

    from mlx_stdio.kv.making import _PROVEN

    before = set(_PROVEN)
    module = importlib.import_module("mlx_lm.models.llama")
    args = {"model_type": "llama", "vocab_size": 320, **_COMMON, **WIDE}
    made = module.Model(module.ModelArgs.from_dict(args))
    for bits in (8, 4, 8):
        assert layers.make(made, kv_bits=bits)[0].bits == bits
        assert layers.make(made, max_kv_size=10 * bits)[0].max_size == 10 * bits
    assert _PROVEN[id(made)] == {"$.kvBits": 32, "$.maxKvSize": 1}
    del made
    gc.collect()
    assert set(_PROVEN) <= before


def test_what_make_makes() -> None:
    def kinds(name: str, *sizes: Any) -> list[str]:
        return [type(layer).__name__ for layer in layers.make(model(name), *sizes)]

    assert set(kinds("wide", 8)) == {"QuantizedKVCache"}
    bounded = layers.make(model("plain"), max_kv_size=64)
    assert [(c.max_size, c.keep) for c in bounded] == [(64, 4)] * 2
    assert kinds("sliding", None, 64) == ["RotatingKVCache"] * 3
    (first, *_) = layers.make(model("list"), max_kv_size=64)
    assert [type(part).__name__ for part in first.caches] == ["ArraysCache", "RotatingKVCache"]
    assert layers.length(layers.make(model("recurrent"))) is None
    assert layers.nbytes(layers.make(model("wide"), kv_bits=4)) == 0
