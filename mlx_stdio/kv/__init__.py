"""KV caches: how they are made and measured, batched, reused by prefix and kept on disk.

Knows `mlx_lm`'s cache classes and tokens; knows nothing of sampling, requests or JSON-RPC.
"""
