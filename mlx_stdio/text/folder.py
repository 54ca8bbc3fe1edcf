"""Reading the small JSON files of a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one where there is none that can be read.

    What is missing here costs a model its template or the name of a token, not its text: such a
    file must not keep a model from being loaded.
    """
    try:
        if not file.is_file():  # a pipe or a device may never come to an end
            return {}
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
