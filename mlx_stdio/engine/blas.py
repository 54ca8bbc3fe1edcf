"""A system OpenBLAS in place of the bundled reference BLAS, on a Linux CPU.

The Linux CPU wheel of MLX brings the reference BLAS, which is 15 to 30 times slower on float32
products of more than one row. A library that is loaded with `RTLD_GLOBAL` before `mlx.core` comes
first when the dynamic linker looks for `cblas_sgemm`, and so takes its place.
"""

from __future__ import annotations

import sys

_NAMES = ("libopenblas.so.0", "libopenblas.so", "libopenblasp.so.0")


def use_system_openblas() -> str:
    """Load a system OpenBLAS if there is one. Must run before `mlx.core` is imported.

    Returns:
        its own description, as in `OpenBLAS 0.3.21 … Zen`, or `bundled`.
    """
    if sys.platform != "linux" or "mlx.core" in sys.modules:
        return "bundled"
    import ctypes

    for name in _NAMES:
        try:
            library = ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
            config = library.openblas_get_config
            own = library.cblas_sgemm
        except (OSError, AttributeError):
            continue
        # What `mlx.core` will find is what a look-up over the whole process finds now.
        everywhere = ctypes.CDLL(None).cblas_sgemm
        address = ctypes.c_void_p
        if ctypes.cast(everywhere, address).value != ctypes.cast(own, address).value:
            return "bundled"
        config.restype = ctypes.c_char_p
        return str(config().decode(errors="replace").strip())
    return "bundled"
