"""Seals a model: encrypts each of its files into a new directory."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

import msgspec

from cutset.errors import ConfigError, ModelError
from cutset.files import appearing
from cutset.models.files.digests import DIGESTS
from cutset.models.files.source import open_source
from cutset.models.files.writer import new_directory
from cutset.trust.evidence.served_files import model_paths
from cutset.trust.sealing.sealed_format import CHUNK, MANIFEST, ModelKey, SealedManifest

__all__ = ["seal_model", "write_model_key"]


def seal_model(model: Path, target: Path, line: str = "", generation: int = 0) -> ModelKey:
    """Encrypts all files of a model (a directory, or a GGUF file) into the new directory `target`, under a new key that
    is returned and written nowhere; `line` and `generation` as ModelKey has them.

    Raises ModelError for a target that holds something, for what can't be read, and for an integer checkpoint whose
    digests are wrong: they aren't compared again when it is opened.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    key = ModelKey(secrets.token_hex(32), secrets.token_bytes(32), line, generation)
    paths = model_paths(model)
    if (model / DIGESTS).is_file():
        open_source(model, "always")
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", os.path.basename(os.path.realpath(model)))[:100].lstrip("._-") or "model"
    try:
        sizes = [path.stat().st_size for path, _ in paths]
        files = [(name, size) for (_, name), size in zip(paths, sizes, strict=True)]
        manifest = SealedManifest(seal=key.seal, name=stem, files=files)
        manifest = msgspec.structs.replace(manifest, mac=key.mac(manifest))
        with new_directory(target):
            for number, (path, _) in enumerate(paths):
                cipher, count = AESGCM(key.of_file(number)), manifest.chunks(number)
                bound = manifest.bound_to(number)
                with path.open("rb") as source, appearing(target / f"{number}.sealed") as sealed:
                    for chunk in range(count):
                        data = source.read(CHUNK)
                        if len(data) != min(CHUNK, sizes[number] - chunk * CHUNK):
                            raise ModelError(f"{path} changed while it was read")
                        sealed.write(cipher.encrypt(_nonce(chunk), data, bound(chunk)))
                    if source.read(1):
                        raise ModelError(f"{path} changed while it was read")
            (target / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    except OSError as error:
        raise ModelError(f"{error.filename or target}: {error.strerror}") from None
    return key


def write_model_key(key: ModelKey, path: Path) -> None:
    """A new file for its owner alone. Raises ConfigError where one is there: a key is never overwritten."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise ConfigError(f"{path} is there already: a key is never overwritten; choose another name") from None
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error.strerror}") from None
    with os.fdopen(descriptor, "w") as file:
        file.write(key.text())


def _nonce(chunk: int) -> bytes:
    return chunk.to_bytes(12, "little")
