"""The one definition of every method, parameter, result, notification and error.

Typed structures only: no I/O, no MLX. The OpenRPC document, the validation of parameters and the
reference part of `protocol.md` all come from here.
"""

PROTOCOL_VERSION = 1
