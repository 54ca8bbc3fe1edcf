"""The engine: one thread owns MLX for life, schedules requests, reads prompts and decodes.

Nothing in this package knows JSON.
"""
