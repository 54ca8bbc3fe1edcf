"""Bytes: framing, JSON-RPC envelopes, the single writer, the fence, the watch on the host.

Nothing in this package knows a method's name or MLX.
"""
