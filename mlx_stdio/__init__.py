"""mlx-stdio: an LLM engine for MLX models, embedded as a child process, spoken to on stdio.

Importing this package imports nothing else: start-up is a feature (`docs/architecture.md`).
"""

__version__ = "0.1.0"
