"""The format of a sealed model: a directory with `sealed.json` and a file `N.sealed` for each file of the model.

A file is cut into chunks of 1 MiB, of which each is encrypted alone (AES-256-GCM, its tag behind it). A file of no
bytes has one empty chunk. Each file has a key of its own, HKDF-SHA256 of the model's key with the seal's id, so a
chunk's number will do as its nonce. What a chunk is bound to: the manifest's digest, the file's number and name, the
chunk's number and how many there are. The manifest carries a MAC under a key of its own.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import msgspec

from cutset.errors import CheckpointError, ConfigError
from cutset.link.keys import read_key_file
from cutset.reading import read_bytes, read_struct
from cutset.trust.evidence.statement import sequence

__all__ = ["CHUNK", "MANIFEST", "TAG", "ModelKey", "SealedManifest", "is_sealed", "load_model_key", "read_manifest"]

CHUNK, TAG = 1 << 20, 16
MANIFEST = "sealed.json"
MOST_MANIFEST = 1 << 20
LINE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MOST_GENERATION = 2**53
FIRST_LINE = "# The key of a sealed model: whoever has it reads the weights."
LABELS = {"file": b"cutset sealed file 1", "manifest": b"cutset sealed manifest 1", "chunk": b"cutset sealed chunk 1"}
Digits = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=300)]
Entry = tuple[Name, Annotated[int, msgspec.Meta(ge=0, le=1 << 46)]]


class SealedManifest(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """`seal`: random, of this sealing. `name`: of the model. `files`: name and bytes of each. `mac`: HMAC-SHA256."""

    format: Literal["cutset sealed 1"] = "cutset sealed 1"
    seal: Digits
    name: Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")]
    files: Annotated[list[Entry], msgspec.Meta(min_length=1, max_length=4096)]
    mac: Digits = "0" * 64

    @property
    def digest(self) -> bytes:
        """Of all but the MAC, 32 bytes."""
        entries = (sequence(name.encode(), size.to_bytes(8, "little")) for name, size in self.files)
        parts = (self.format.encode(), bytes.fromhex(self.seal), self.name.encode())
        return hashlib.sha256(sequence(LABELS["manifest"], *parts, *entries)).digest()

    def chunks(self, file: int) -> int:
        """How many a file has."""
        return max(1, -(-self.files[file][1] // CHUNK))

    def bound_to(self, file: int) -> Callable[[int], bytes]:
        """What each chunk of a file is authenticated with, by its number."""
        count, name, digest = self.chunks(file).to_bytes(8, "little"), self.files[file][0].encode(), self.digest

        def bound(chunk: int) -> bytes:
            numbers = (file.to_bytes(8, "little"), chunk.to_bytes(8, "little"), count)
            return sequence(LABELS["chunk"], digest, name, *numbers)

        return bound


class ModelKey:
    """32 bytes for one seal. `line`: what is sealed again and again under this name, with a higher `generation` each
    time, of which a key server releases the highest alone; "": none."""

    def __init__(self, seal: str, secret: bytes, line: str = "", generation: int = 0) -> None:
        """Raises ConfigError for a line that is none, or a generation that isn't one."""
        if (
            (line and not LINE.fullmatch(line))
            or not 0 <= generation <= MOST_GENERATION
            or bool(line) != bool(generation)
        ):
            raise ConfigError(
                "a line is a name of letters, digits, '.', '_' and '-', and has a generation of 1 or more: give both"
            )
        self.seal, self._secret, self.line, self.generation = seal, secret, line, generation

    @property
    def secret(self) -> bytes:
        """The key itself; for whoever writes or releases it."""
        return self._secret

    def text(self) -> str:
        """What a file of it holds, in the form of link keys; the seal's id is no secret."""
        more = f"line {self.line}\ngeneration {self.generation}\n" if self.line else ""
        return f"{FIRST_LINE}\npublic {self.seal}\nsecret {self._secret.hex()}\n{more}"

    def of_file(self, file: int) -> bytes:
        """The key of one file, 32 bytes."""
        return self.derived(LABELS["file"] + file.to_bytes(8, "little"))

    def mac(self, manifest: SealedManifest) -> str:
        """What a manifest's must be."""
        return hmac.new(self.derived(LABELS["manifest"]), manifest.digest, hashlib.sha256).hexdigest()

    def derived(self, label: bytes) -> bytes:
        """32 bytes for one purpose."""
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        return HKDF(SHA256(), 32, bytes.fromhex(self.seal), label).derive(self._secret)


def is_sealed(path: Path) -> bool:
    """Whether a directory is a sealed model."""
    return (path / MANIFEST).is_file()


def load_model_key(path: Path) -> ModelKey:
    """The key in a file. Raises ConfigError, also where others can read it."""
    words = read_key_file(path, "`cutset trust seal`")
    count = words.get("generation", "0")
    if not count.isascii() or not count.isdecimal() or len(count) > len(str(MOST_GENERATION)):
        raise ConfigError(f"{path}: its generation isn't a number")
    try:
        return ModelKey(words["public"].lower(), bytes.fromhex(words["secret"]), words.get("line", ""), int(count))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_manifest(directory: Path) -> SealedManifest:
    """The manifest of a sealed model, whose MAC isn't checked yet. Raises CheckpointError."""
    path = directory / MANIFEST
    try:
        found = read_struct(read_bytes(path, MOST_MANIFEST, "manifest"), SealedManifest, f"{path} is no manifest")
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    names = [name for name, _ in found.files]
    if len(set(names)) != len(names):
        raise CheckpointError(f"{path} names a file twice")
    for name in names:  # one with a path in it that leads out could write anywhere
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts or str(place) != name or "\0" in name:
            raise CheckpointError(f"{path}: {name!r} is not the name of a file in a model's directory")
    return found
