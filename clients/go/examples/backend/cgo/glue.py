"""What the host calls, by way of python.c. Each function takes a text and two numbers."""

import contextlib
import ctypes

# As the engine does: MLX's own BLAS on a Linux CPU reads prompts many times slower.
with contextlib.suppress(OSError):
    ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)

import mlx.core as mx
from mlx_lm import generate, load

models = {}


def call(function, text, handle, number):
    """The answer, and the error if there is no answer. Nothing is thrown into C."""
    try:
        return globals()["do_" + function](text, handle, number), None
    except Exception as error:  # noqa: BLE001 - it is told to the host
        return "", f"{type(error).__name__}: {error}"


def do_load(path, _, trust):
    """A handle, for all that follows."""
    model, tokenizer = load(path, trust_remote_code=bool(trust))
    if mx.default_device() == mx.cpu:  # 16 bits are emulated there
        model.set_dtype(mx.float32)
        mx.eval(model.parameters())
    handle = max(models, default=0) + 1
    models[handle] = model, tokenizer
    return str(handle)


def do_generate(prompt, handle, tokens):
    """At most so many tokens, the likeliest ones."""
    return generate(*models[handle], prompt, max_tokens=tokens)


def do_free(_, handle, __):
    """The weights go; the interpreter and its libraries stay."""
    del models[handle]
    mx.clear_cache()
    return ""


def do_nothing(*_):
    """What the way there and back costs."""
    return ""
