"""The manifest of files that evidence is bound to: what a server has loaded, by name, size and SHA-256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import msgspec

from cutset.errors import ConfigError
from cutset.models.files.formats import weight_files
from cutset.models.files.gguf_path import is_gguf
from cutset.trust.evidence.statement import sequence

__all__ = ["MOST_FILES", "ServedFile", "manifest_digest", "model_paths", "served_files"]

DOMAIN = b"cutset manifest of files 1"
MOST_FILES = 512
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=300)]


class ServedFile(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """One file of a model, or of an adapter. `of` is the name that clients call it by."""

    of: Name
    file: Name
    size: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    sha256: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


def manifest_digest(files: Iterable[ServedFile]) -> bytes:
    """32 bytes, the same in whatever order the files come."""
    ordered = sorted((one.of, one.file, one.size, one.sha256) for one in files)
    parts = (
        sequence(of.encode(), file.encode(), size.to_bytes(8, "little"), bytes.fromhex(sha256))
        for of, file, size, sha256 in ordered
    )
    return hashlib.sha256(sequence(DOMAIN, *parts)).digest()


def served_files(
    models: Mapping[str, Path], texts: Mapping[str, str] | None = None, threads: int = 1
) -> list[ServedFile]:
    """Hashes every file of these directories (or single files), and `texts` that stand in a file's place, as a chat
    template that a flag gave. Raises ConfigError for what can't be read, or for more than MOST_FILES."""
    places = [(name, path, shown) for name, root in models.items() for path, shown in model_paths(root)]
    if len(places) > MOST_FILES:
        raise ConfigError(f"there are {len(places)} files to be vouched for; {MOST_FILES} are the most")

    def entry(place: tuple[str, Path, str]) -> ServedFile:
        name, path, shown = place
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
                return ServedFile(name, shown, os.fstat(file.fileno()).st_size, found)
        except OSError as error:
            raise ConfigError(f"{path} can't be read: {error.strerror}") from None

    with ThreadPoolExecutor(max(1, threads)) as pool:  # hashing leaves the interpreter free
        made = list(pool.map(entry, places))
    for name, text in (texts or {}).items():
        data = text.encode()
        made.append(ServedFile(name, "(given by a flag)", len(data), hashlib.sha256(data).hexdigest()))
    return made


def model_paths(root: Path) -> list[tuple[Path, str]]:
    """The files of a model, and their names: all parts of a GGUF file, or all in a directory but hidden ones."""
    if root.is_file():
        return [(path, path.name) for path in weight_files(root)] if is_gguf(root) else [(root, root.name)]
    if not root.is_dir():
        raise ConfigError(f"{root} isn't there")
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
        found += [(path, path.relative_to(root).as_posix()) for path in paths if path.is_file()]
        if len(found) > MOST_FILES:
            break
    return found
