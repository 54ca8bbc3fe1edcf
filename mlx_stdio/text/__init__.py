"""Text: tokenizers, chat templates, incremental detokenizing, stop strings, infill prompts.

Nothing in this package knows scheduling or arrays.
"""
