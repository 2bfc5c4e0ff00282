"""The key of Gramine's encrypted mounts: 16 bytes, which an enclave gets from a key server once its evidence fits.

Gramine takes such a key as a file, `/dev/attestation/keys/NAME`, before anything in the mount is opened. It is derived
from a model key's 32 bytes, so that the key server has one kind of keys; who encrypts the files derives the same.
"""

from __future__ import annotations

import os
from pathlib import Path

from cutset.errors import ConfigError
from cutset.trust.evidence.document import Prover
from cutset.trust.sealing.key_release import ask_for_key
from cutset.trust.sealing.sealed_format import ModelKey

__all__ = ["mount_key", "provision"]

LABEL = b"cutset gramine mount 1 "
SIZE = 16


def mount_key(key: ModelKey, name: str) -> bytes:
    """16 bytes for the mounts whose `key_name` this is."""
    return key.derived(LABEL + name.encode())[:SIZE]


def provision(server: str, seal: str, name: str, prover: Prover, root: Path, ca: str | None = None) -> None:
    """Asks the server for the key, shows it evidence, and hands the key to Gramine. Raises ConfigError where there is
    no such mount, and what `ask_for_key` raises."""
    place = root / "keys" / name
    if not place.exists():
        raise ConfigError(f"{place} isn't there: the manifest has no encrypted mount with key_name {name!r}")
    found = mount_key(ask_for_key(server, seal, prover, ca), name)
    try:
        descriptor = os.open(place, os.O_WRONLY | os.O_CLOEXEC)
        try:
            written = os.write(descriptor, found)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigError(f"{place} can't be written: {error.strerror}") from None
    if written != SIZE:
        raise ConfigError(f"{place} took {written} of {SIZE} bytes")
