"""Whether a path is that of a GGUF file; imports nothing that takes long."""

from __future__ import annotations

from pathlib import Path

__all__ = ["ENDING", "MAGIC", "is_gguf"]

MAGIC = b"GGUF"
ENDING = ".gguf"


def is_gguf(path: Path) -> bool:
    """By its name or its first bytes."""
    try:
        if not path.is_file():
            return False
        if path.name.lower().endswith(ENDING):
            return True
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False
