"""Which tokenizer class `transformers` has registered for which model type.

`AutoTokenizer` weighs the class that a folder names against the class that it has registered for
the folder's model type. So that the same decision can be made without importing it, the part of
its register that concerns models that `mlx_lm` runs is written down here. Every line is compared
with the installed `transformers` in `tests/test_tokenizer_choice.py`.

Source: `transformers/models/auto/tokenization_auto.py`, 5.24.
"""

from __future__ import annotations

from typing import Final

PLAIN: Final = "TokenizersBackend"
"""The class that takes a `tokenizer.json` as it stands."""

PLAIN_NAMES: Final = frozenset(
    (PLAIN, "PreTrainedTokenizer", "PreTrainedTokenizerFast", "PythonBackend", "BloomTokenizer")
)
"""Names that a folder gives to it."""

_SPECIFIC: Final = {
    "CohereTokenizer": "aya_vision cohere cohere2",
    "GPT2Tokenizer": "dbrx gpt2 gpt_neo gptj opt phi starcoder2",
    "GPTNeoXTokenizer": "falcon_mamba gpt_neox mamba mamba2 mpt olmo olmoe rwkv xlstm",
    "GemmaTokenizer": (
        "gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text recurrent_gemma t5gemma"
    ),
    "Qwen2Tokenizer": (
        "internvl ovis2 qwen2 qwen2_5_omni qwen2_5_vl qwen2_audio qwen2_moe qwen2_vl qwen3 "
        "qwen3_moe qwen3_next qwen3_omni_moe qwen3_vl qwen3_vl_moe"
    ),
    "Qwen3_5Tokenizer": "qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen4_exp",
    PLAIN: (
        "arctic aria ernie4_5 ernie4_5_moe flex_olmo fuyu glm glm4 glm4_moe glm4_moe_lite glm4v "
        "glm4v_moe gpt_bigcode granite granitemoe granitemoehybrid granitemoeshared hyperclovax "
        "internlm2 internlm3 iquestcoder jamba kimi_k25 kimi_linear llava llava_next "
        "mimo_v2_flash minicpm3 minicpmv minimax_m2 ministral ministral3 mistral mistral3 "
        "mixtral nemotron olmo2 olmo3 olmo_hybrid persimmon phi3 phi3_v phimoe pixtral smolvlm "
        "stablelm vipllava voxtral"
    ),
}

REGISTERED: Final = {
    model_type: name for name, types in _SPECIFIC.items() for model_type in types.split()
}
"""Model types that have a class of their own, or are known to need the plain one."""

_NONE: Final = (
    "Klear afm7 afmoe apertus baichuan_m1 bailing_hybrid bailing_moe bailing_moe_linear "
    "bailing_moe_v3 bitnet deepseek deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v41 "
    "deepseek_v41_text dots1 exaone exaone4 exaone_moe falcon_h1 gemma4 gemma4_text "
    "gemma4_unified gear glm_moe_dsa gpt_oss helium hunyuan hunyuan_v1_dense iquestloopcoder "
    "joyai_llm_flash kimi_k2 kimi_k3 kimi_vl laguna lfm2 lfm2-vl lfm2_moe lille-130m llama "
    "llama4 llama4_text longcat_flash longcat_flash_ngram mellum mimo minicpm minimax "
    "minimax_m3_vl mistral4 muse_glimmer muse_spark nanbeige nanochat nemotron-nas nemotron_h "
    "openelm phi-msft phi3small phixtral plamo plamo2 plamo3 prism_hadamard_qwen35 qwen rwkv7 "
    "seed_oss smollm3 solar_open spark2_5 step3p5 talkie telechat3 xverse youtu_llm"
)
UNREGISTERED: Final = frozenset(_NONE.split())
"""Model types without one: the folder's word counts, and without a word the plain class."""

MISNAMED: Final = frozenset(("qwen2", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen4_exp"))
"""Model types whose folders so often name a wrong class that the registered one always wins.

Those that are registered for the plain class are not here: there it always wins.
"""

MISTRALS: Final = frozenset(
    ("ministral", "ministral3", "mistral", "mistral3", "mixtral", "pixtral", "voxtral")
)
"""Model types that are read from `tekken.json` where `mistral_common` is installed."""
