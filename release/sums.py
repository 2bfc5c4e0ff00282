"""SHA256SUMS: the hashes of what is released, as `sha256sum --check` reads them."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["SUMS", "ReleaseError", "one_file", "sha256_of", "write_sums"]

SUMS = "SHA256SUMS"
RELEASED = ("*.whl", "*.tar.gz", "*.cdx.json")


class ReleaseError(Exception):
    """What can't be released, and why."""


def one_file(dist: Path, pattern: str) -> Path:
    """The one file of this kind. Raises ReleaseError for none or several."""
    found = sorted(dist.glob(pattern))
    if len(found) != 1:
        raise ReleaseError(f"{dist} holds {len(found)} of {pattern}, where one is released: run `make wheel` anew")
    return found[0]


def sha256_of(path: Path) -> str:
    """64 digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sums(dist: Path) -> Path:
    """Writes the hashes of all that is released, by name. Raises ReleaseError where something of it is missing."""
    files = sorted(one_file(dist, pattern) for pattern in RELEASED)
    (dist / SUMS).write_text("".join(f"{sha256_of(path)}  {path.name}\n" for path in files), encoding="ascii")
    return dist / SUMS
