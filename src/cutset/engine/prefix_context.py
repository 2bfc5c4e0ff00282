"""What the bytes of a block of the KV cache depend on besides its tokens, and the store for that."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from importlib.metadata import version
from pathlib import Path

import cutset
from cutset.config import Settings
from cutset.engine.prefix_store import PrefixStore
from cutset.errors import ConfigError
from cutset.kernels import native
from cutset.models.files.digests import digest_of_files
from cutset.models.files.source import ModelSource
from cutset.models.run.backend import BackendChoice, block_bytes
from cutset.models.spec import DecoderSpec
from cutset.version import software

__all__ = ["check_store", "code_digest", "libraries", "open_store", "stage_context"]

COMPUTING = ("kernels", "models")  # the packages that compute blocks


def open_store(
    source: ModelSource, spec: DecoderSpec, settings: Settings, choice: BackendChoice, context: int, mode: str
) -> PrefixStore | None:
    """The store that `prefix_cache` names, None without one. `context`: the longest sequence; `mode`: of an offload.

    Raises ConfigError where it can't be used, or where the model or the settings don't go with one.
    """
    directory = settings.prefix_cache
    if directory is None:
        return None
    check_store(spec, settings, choice)
    limit = settings.prefix_cache_bytes
    depends = {
        "model": digest_of_files(source.path, source.files, always=settings.verify == "always"),
        "software": [software(), code_digest(*COMPUTING)],
        "backend": [choice.backend, choice.dtype, choice.device, *libraries(choice)],
        "kv_dtype": settings.kv_dtype,
        "block_size": settings.block_size,
        "limit": context,  # a stretched rotary embedding depends on it
        "mode": mode,  # nobody takes over what an accelerator said that wasn't checked
        "byte order": sys.byteorder,
    }
    return PrefixStore(directory, limit, hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).digest())


def check_store(spec: DecoderSpec, settings: Settings, choice: BackendChoice) -> None:
    """Raises ConfigError where a model or its settings don't go with a store."""
    if not settings.prefix_caching:
        raise ConfigError("prefix_cache needs prefix_caching: leave out one of --prefix-cache and --no-prefix-caching")
    if spec.state_floats:
        raise ConfigError(
            f"prefix_cache: {spec.family} has layers with states of sequences, which aren't kept on disk: leave it out"
        )
    if choice.device != "cpu":
        raise ConfigError(f"prefix_cache keeps blocks of a cache on the CPU, not on {choice.device}: leave it out")
    one, limit = block_bytes(spec, choice, settings), settings.prefix_cache_bytes
    if limit < 2 * one:
        raise ConfigError(f"prefix_cache_size {settings.prefix_cache_size} holds no two blocks of {one} bytes")


def stage_context(model: bytes, choice: BackendChoice, layers: range) -> bytes:
    """What blocks of a stage depend on besides their tokens: its engine's digest of model, dtypes and limit, what
    computes there with its instruction set, and which layers it has."""
    computed_by = [software(), code_digest(*COMPUTING), choice.backend, choice.dtype, choice.device]
    computed_by += libraries(choice)
    depends = [model.hex(), computed_by, layers.start, layers.stop, sys.byteorder]
    return hashlib.sha256(json.dumps(depends).encode()).digest()


def libraries(choice: BackendChoice) -> list[str]:
    """Whose arithmetic it is: natively the instruction set, else a library's version and the threads."""
    if choice.backend == "native":
        return [native.isa()]  # whatever the number of threads
    return [version("torch" if choice.backend == "torch" else "numpy"), str(choice.threads)]


@functools.cache
def code_digest(*packages: str) -> str:
    """The digest of the code of these packages, the extension's too, in hexadecimal."""
    root, whole = Path(cutset.__file__).parent, hashlib.sha256()
    for folder in packages:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".py", ".so", ".pyd"):
                whole.update(str(path.relative_to(root)).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()
