"""What makes evidence here: Gramine's files, the kernel's configfs-tsm, and a simulator.

Each is told the 64 bytes that its quote is to carry, and gives the quote. Which root its files lie under can be chosen,
so that tests put their own there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from cutset.config import EVIDENCE_KINDS
from cutset.errors import ConfigError, EvidenceError
from cutset.trust.evidence.device_reports import DeviceProvider
from cutset.trust.evidence.layouts import MOST_QUOTE, report_data, trimmed
from cutset.trust.evidence.simulated_quote import SimulatedEnclave
from cutset.trust.evidence.statement import REPORT_DATA_BYTES

__all__ = ["GramineProvider", "Provider", "SimulatorProvider", "TsmProvider", "open_provider"]

GRAMINE = Path("/dev/attestation")
TSM = Path("/sys/kernel/config/tsm/report")
TSM_NAMES = {"tdx": "tdx_guest", "snp": "sev_guest"}  # in `provider`
TRIES = 3  # of a quote that somebody else disturbed, or that the kernel was too busy for
PAUSE = 0.05  # seconds between them
BUSY = (errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.EWOULDBLOCK)


class Provider(Protocol):
    """Makes quotes. `kind` is one of EVIDENCE_KINDS; `confidential`: whether the quote means anything. `devices`: what
    asks this machine's devices, which vouch beside it."""

    kind: str
    confidential: bool
    devices: DeviceProvider | None

    def quote(self, data: bytes) -> bytes:
        """A quote that carries these 64 bytes. Any thread may ask. Raises ConfigError where none can be had."""


class GramineProvider:
    """SGX: Gramine's pseudo-files. There is one set for the process, so one thread at a time uses it."""

    kind, confidential = "sgx", True
    devices: DeviceProvider | None = None

    def __init__(self, root: Path = GRAMINE) -> None:
        self._root, self._lock = root, threading.Lock()
        found = _read(root / "attestation_type", 64).decode("ascii", "replace").strip("\0\n ")
        if found != "dcap":
            raise ConfigError(
                f"{root / 'attestation_type'} says {found!r}: evidence needs a manifest with "
                'sgx.remote_attestation = "dcap"'
            )

    def quote(self, data: bytes) -> bytes:
        """See Provider."""
        return _tried(lambda: self._once(data))

    def _once(self, data: bytes) -> bytes:
        with self._lock:
            _write(self._root / "user_report_data", data)
            return _bound(self.kind, _read(self._root / "quote", MOST_QUOTE), data)


class TsmProvider:
    """TDX and SEV-SNP: an entry of its own in configfs for each quote, whose `generation` shows other writers."""

    confidential = True
    devices: DeviceProvider | None = None

    def __init__(self, kind: str, root: Path = TSM) -> None:
        self.kind, self._root = kind, root
        if not root.is_dir():
            raise ConfigError(
                f"{root} isn't there: evidence of {kind} needs a guest with Linux 6.7 or newer, configfs mounted and "
                f"the module {TSM_NAMES[kind].replace('_', '-')}"
            )

    def quote(self, data: bytes) -> bytes:
        """See Provider."""
        return _tried(lambda: self._once(data))

    def _once(self, data: bytes) -> bytes:
        entry = self._root / f"cutset-{secrets.token_hex(8)}"
        try:
            os.mkdir(entry, 0o700)
        except OSError as error:
            raise ConfigError(f"{entry} can't be made: {error.strerror}") from None
        try:
            name = _read(entry / "provider", 64).decode("ascii", "replace").strip("\0\n ")
            if name != TSM_NAMES[self.kind]:
                raise ConfigError(f"this machine's reports are those of {name!r}, not of {self.kind}")
            before = _count(entry)
            _write(entry / "inblob", data)
            found = _read(entry / "outblob", MOST_QUOTE)
            if _count(entry) != before + 1:  # one write, ours
                raise _Disturbed(f"something else wrote to {entry} while a quote was made")
            return _bound(self.kind, found, data)
        finally:
            with contextlib.suppress(OSError):  # an entry that stays costs the kernel a few bytes
                os.rmdir(entry)


class SimulatorProvider:
    """For rehearsals: quotes signed with a key of this process, which say NOT CONFIDENTIAL and prove nothing."""

    kind, confidential = "simulator", False
    devices: DeviceProvider | None = None

    def __init__(self, measured: bytes = b"cutset") -> None:
        self._enclave = SimulatedEnclave(measured)

    @property
    def measurement(self) -> bytes:
        """32 bytes, which policies name."""
        return self._enclave.measurement

    def quote(self, data: bytes) -> bytes:
        """See Provider."""
        return self._enclave.quote(data)


def open_provider(kind: str, root: Path | None = None) -> Provider:
    """The provider of a kind, over the kernel's files or those under `root`. Raises ConfigError where there is none."""
    made: dict[str, Callable[[], Provider]] = {
        "sgx": lambda: GramineProvider(root or GRAMINE),
        "tdx": lambda: TsmProvider("tdx", root or TSM),
        "snp": lambda: TsmProvider("snp", root or TSM),
        "simulator": SimulatorProvider,
    }
    if kind not in made:
        raise ConfigError(f"{kind!r} is no kind of evidence: choose one of {', '.join(EVIDENCE_KINDS)}")
    return made[kind]()


class _Disturbed(Exception):
    """It may work when it is tried again."""


def _tried(once: Callable[[], bytes]) -> bytes:
    for left in range(TRIES - 1, -1, -1):
        try:
            return once()
        except _Disturbed as error:
            if not left:
                raise ConfigError(str(error)) from None
            time.sleep(PAUSE)
    raise AssertionError("the last try ends above")


def _bound(kind: str, quote: bytes, data: bytes) -> bytes:
    """The quote, which must carry these bytes: another one would only be refused later, by somebody else."""
    try:
        same, quote = report_data(kind, quote) == data, trimmed(kind, quote)
    except EvidenceError as error:
        raise ConfigError(f"what this machine gives as evidence of {kind} can't be used: {error}") from None
    if not same:
        raise _Disturbed(f"this machine's evidence of {kind} carries other bytes than it was asked to")
    return quote


def _count(entry: Path) -> int:
    text = _read(entry / "generation", 32).strip()
    if not text.isdigit():
        raise ConfigError(f"{entry / 'generation'} holds no number")
    return int(text)


def _read(path: Path, most: int) -> bytes:
    """A pseudo-file's content: their sizes say nothing, so it is read until it ends."""
    try:
        with open(path, "rb", buffering=0) as file:
            parts, size = list[bytes](), 0
            while part := file.read(most + 1 - size):
                parts.append(part)
                size += len(part)
                if size > most:
                    raise ConfigError(f"{path} gives more than {most} bytes")
            return b"".join(parts)
    except OSError as error:
        if error.errno in BUSY:
            raise _Disturbed(f"{path} can't be read: {error.strerror}") from None
        raise ConfigError(f"{path} can't be read: {error.strerror}; is this the machine that was asked for?") from None


def _write(path: Path, data: bytes) -> None:
    """All of it in one write, to a file that is there: none is made."""
    assert len(data) == REPORT_DATA_BYTES
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            written = os.write(descriptor, data)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in BUSY:
            raise _Disturbed(f"{path} can't be written: {error.strerror}") from None
        raise ConfigError(
            f"{path} can't be written: {error.strerror}; is this the machine that was asked for?"
        ) from None
    if written != len(data):
        raise ConfigError(f"{path} took {written} of {len(data)} bytes")
