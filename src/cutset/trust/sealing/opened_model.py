"""Opens a sealed model: its files are decrypted into memory of this process, which nothing can change from then on.

Each file becomes a `memfd`, sealed against writing, growing and shrinking when all of it has been decrypted and
checked: whoever could map it, even this process, can't write to it. A directory of links to them stands in for the
model's. What lies on the disk is read once, into a buffer, never through a mapping that somebody could change later.
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cutset.errors import CheckpointError, DeviceError
from cutset.models.files.digests import authenticated
from cutset.trust.sealing.sealed_format import CHUNK, TAG, ModelKey, SealedManifest, read_manifest

__all__ = ["opened_model"]


@contextlib.contextmanager
def opened_model(directory: Path, key: ModelKey, threads: int = 1) -> Iterator[Path]:
    """The model's directory while the block lasts, named as the model was. Raises CheckpointError for another key, and
    for files that were changed, cut off, swapped or taken from another seal; DeviceError where such memory isn't."""
    manifest = read_manifest(directory)
    if key.seal != manifest.seal:
        raise CheckpointError(f"the key is for another sealed model than {directory}")
    if not hmac.compare_digest(key.mac(manifest), manifest.mac):
        raise CheckpointError(f"{directory} was changed since it was sealed, or the key is wrong")
    descriptors: list[int] = []
    place = Path(tempfile.mkdtemp(prefix="cutset-opened-"))
    try:
        root = place / manifest.name
        root.mkdir(mode=0o700)
        with ThreadPoolExecutor(max(1, threads)) as pool:
            for number, (name, _) in enumerate(manifest.files):
                descriptors.append(_decrypted(directory, manifest, key, number, pool))
                (root / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                # Through this process's own table: another one that follows the link finds nothing.
                (root / name).symlink_to(f"/proc/self/fd/{descriptors[-1]}")
        with authenticated(root):  # every byte, by its tag; and `seal_model` compared digests
            yield root
    finally:
        shutil.rmtree(place, ignore_errors=True)
        for descriptor in descriptors:
            os.close(descriptor)


def _decrypted(directory: Path, manifest: SealedManifest, key: ModelKey, number: int, pool: ThreadPoolExecutor) -> int:
    """A sealed memfd with one file's content."""
    name, size = manifest.files[number]
    path, count = directory / f"{number}.sealed", manifest.chunks(number)
    try:
        memory = os.memfd_create("cutset-model", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except (OSError, AttributeError):
        raise DeviceError("a sealed model needs memory that can be sealed (memfd of Linux), which isn't here") from None
    try:
        os.fchmod(memory, 0o400)
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != size + count * TAG:
                raise CheckpointError(f"{path} has another size than it was sealed with")
            os.ftruncate(memory, size)
            _decrypt_chunks(file.fileno(), memory, manifest, key, number, pool)
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, seals)
    except OSError as error:
        os.close(memory)
        raise CheckpointError(f"{path} ({name}) can't be opened: {error.strerror}") from None
    except BaseException:
        os.close(memory)
        raise
    return memory


def _decrypt_chunks(
    file: int, memory: int, manifest: SealedManifest, key: ModelKey, number: int, pool: ThreadPoolExecutor
) -> None:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher, size = AESGCM(key.of_file(number)), manifest.files[number][1]
    bound, buffers = manifest.bound_to(number), threading.local()

    def decrypt(chunk: int) -> None:
        at, length = chunk * CHUNK, min(CHUNK, size - chunk * CHUNK)
        if not hasattr(buffers, "sealed"):  # one pair a thread: what is copied stays in the core's cache
            buffers.sealed, buffers.plain = bytearray(CHUNK + TAG), bytearray(CHUNK)
        with memoryview(buffers.sealed)[: length + TAG] as sealed, memoryview(buffers.plain)[:length] as plain:
            _read(file, sealed, chunk * (CHUNK + TAG))
            cipher.decrypt_into(chunk.to_bytes(12, "little"), sealed, bound(chunk), plain)
            while len(plain) and (done := os.pwrite(memory, plain, at)) < len(plain):
                at, plain = at + done, plain[done:]

    try:
        for _ in pool.map(decrypt, range(manifest.chunks(number))):
            pass
    except InvalidTag:
        name = manifest.files[number][0]
        raise CheckpointError(f"{name} ({number}.sealed) was changed since it was sealed") from None


def _read(file: int, target: memoryview, at: int) -> None:
    """Fills the target. Where the file was cut off meanwhile, the rest stays what it was, and fails its tag."""
    done = 0
    while done < len(target) and (got := os.preadv(file, [target[done:]], at + done)):
        done += got
