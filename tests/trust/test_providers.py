"""What makes quotes, over emulated files of Gramine and of the kernel."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cutset.errors import ConfigError, EvidenceError
from cutset.trust.evidence.layouts import report_data
from cutset.trust.evidence.providers import (
    GramineProvider,
    SimulatorProvider,
    TsmProvider,
    open_provider,
)
from cutset.trust.evidence.simulated_quote import SimulatedEnclave, read_simulated
from tests.trust.intel_pki import IntelLike

DATA = bytes(range(64))


def tdx_quote(data: bytes) -> bytes:
    """One of version 4 that carries these bytes: only its layout is right. Zeros follow, as kernels leave them."""
    header = b"\4\0\2\0\x81\0\0\0" + bytes(40)
    inner = bytes(384 + 64) + b"\0\0" + b"\1\0" + bytes(4)
    auth = bytes(128) + b"\6\0" + len(inner).to_bytes(4, "little") + inner
    return header + bytes(520) + data + len(auth).to_bytes(4, "little") + auth + bytes(100)


def snp_report(data: bytes) -> bytes:
    return bytes(0x50) + data + bytes(1184 - 0x90)


class Kernel:
    """configfs-tsm in a directory: files appear with an entry, and `outblob` answers what was written to `inblob`."""

    def __init__(self, root: Path, name: str, make: Callable[[bytes], bytes]) -> None:
        self.root, self.name, self.make = root, name, make
        self.steps, self.disturb, self.entries = 1, 0, list[str]()

    def mkdir(self, path: Path, mode: int) -> None:
        os.makedirs(path, mode)
        self.entries.append(path.name)
        (path / "provider").write_text(f"{self.name}\n")
        (path / "generation").write_text("0\n")
        (path / "inblob").touch()
        os.mkfifo(path / "outblob")
        threading.Thread(target=self._answer, args=(path,), daemon=True).start()

    def _answer(self, path: Path) -> None:
        with contextlib.suppress(OSError), (path / "outblob").open("wb") as out:  # opens when somebody reads
            data = (path / "inblob").read_bytes()
            steps = self.steps
            if self.disturb:
                self.disturb -= 1
                data, steps = bytes(64), 2
            (path / "generation").write_text(f"{steps}\n")
            out.write(self.make(data))

    def rmdir(self, path: Path) -> None:
        for child in path.iterdir():
            child.unlink()
        path.rmdir()


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    found = Kernel(tmp_path / "report", "tdx_guest", tdx_quote)
    found.root.mkdir()
    real_mkdir, real_rmdir = os.mkdir, os.rmdir

    def mkdir(path: Path, mode: int = 0o777) -> None:
        if Path(path).name.startswith("cutset-") and Path(path).parent == found.root:
            monkeypatch.setattr(os, "mkdir", real_mkdir)
            found.mkdir(path, mode)
            monkeypatch.setattr(os, "mkdir", mkdir)
        else:
            real_mkdir(path, mode)

    def rmdir(path: Path) -> None:
        monkeypatch.setattr(os, "rmdir", real_rmdir)
        found.rmdir(Path(path))
        monkeypatch.setattr(os, "rmdir", rmdir)

    monkeypatch.setattr(os, "mkdir", mkdir)
    monkeypatch.setattr(os, "rmdir", rmdir)
    yield found
    monkeypatch.undo()


def test_tdx_by_the_kernel(kernel: Kernel) -> None:
    provider = TsmProvider("tdx", kernel.root)
    for data in (DATA, bytes(64)):
        quote = provider.quote(data)
        assert report_data("tdx", quote) == data
        assert quote + bytes(100) == tdx_quote(data)  # what nobody has signed is cut off
    assert len(set(kernel.entries)) == 2
    assert not list(kernel.root.iterdir())  # nothing is left there


def test_snp_by_the_kernel(kernel: Kernel) -> None:
    kernel.name, kernel.make = "sev_guest", snp_report
    assert TsmProvider("snp", kernel.root).quote(DATA) == snp_report(DATA)


def test_another_machine_than_was_said(kernel: Kernel) -> None:
    with pytest.raises(ConfigError, match="'tdx_guest', not of snp"):
        TsmProvider("snp", kernel.root).quote(DATA)
    assert not list(kernel.root.iterdir())


def test_somebody_else_writes_in_between(kernel: Kernel) -> None:
    kernel.disturb = 1
    assert report_data("tdx", TsmProvider("tdx", kernel.root).quote(DATA)) == DATA
    assert len(kernel.entries) == 2
    kernel.disturb = 99
    with pytest.raises(ConfigError, match="something else wrote"):
        TsmProvider("tdx", kernel.root).quote(DATA)
    kernel.disturb, kernel.make = 0, lambda data: tdx_quote(bytes(64))  # the wrong bytes, unseen
    with pytest.raises(ConfigError, match="other bytes"):
        TsmProvider("tdx", kernel.root).quote(DATA)


@pytest.mark.parametrize("answer", [b"", b"nonsense", bytes(5000), bytes(30_000), tdx_quote(DATA) + b"x"])
def test_what_is_no_quote(kernel: Kernel, answer: bytes) -> None:
    kernel.make = lambda data: answer
    with pytest.raises(ConfigError):
        TsmProvider("tdx", kernel.root).quote(DATA)
    assert not list(kernel.root.iterdir())


def test_sgx_by_gramine(tmp_path: Path) -> None:
    (tmp_path / "attestation_type").write_bytes(b"dcap\0")
    (tmp_path / "user_report_data").write_bytes(bytes(64))
    (tmp_path / "quote").write_bytes(IntelLike().quote(DATA) + bytes(12))
    provider = GramineProvider(tmp_path)
    quote = provider.quote(DATA)
    assert (tmp_path / "user_report_data").read_bytes() == DATA
    assert report_data("sgx", quote) == DATA
    with pytest.raises(ConfigError, match="other bytes"):  # this quote was made for something else
        provider.quote(bytes(64))


@pytest.mark.parametrize("kind", ["none", "epid", ""])
def test_a_manifest_without_attestation(tmp_path: Path, kind: str) -> None:
    (tmp_path / "attestation_type").write_text(kind)
    with pytest.raises(ConfigError, match="remote_attestation"):
        open_provider("sgx", tmp_path)


@pytest.mark.parametrize("kind", ["sgx", "tdx", "snp"])
def test_a_machine_that_has_none(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_provider(kind, tmp_path / "nowhere")
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(ConfigError, match="choose one of sgx"):
        open_provider("sev")


def test_the_simulator_says_what_it_is() -> None:
    provider = SimulatorProvider(b"this")
    quote = provider.quote(DATA)
    assert b"NOT CONFIDENTIAL" in quote
    assert not provider.confidential
    assert read_simulated(quote) == (provider.measurement, DATA)
    assert SimulatorProvider(b"that").measurement != provider.measurement
    assert SimulatedEnclave(b"this").quote(DATA) != quote  # another throw-away key
    for at in range(len(quote)):
        changed = bytearray(quote)
        changed[at] ^= 1
        with pytest.raises(EvidenceError):
            read_simulated(bytes(changed))
    for other in (quote + b"\0", quote[:-1], b""):
        with pytest.raises(EvidenceError):
            read_simulated(other)
