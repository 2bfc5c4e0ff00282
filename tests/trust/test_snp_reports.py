"""A real report of an AMD machine, and reports by an authority of our own with what is wrong that no public one has."""

from __future__ import annotations

import datetime
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from cutset.errors import ConfigError, CutsetError, EvidenceError
from cutset.trust.evidence.policy import SnpRules, TcbFloor
from cutset.trust.evidence.snp_reports import CHIP, EXTENSIONS, verify_snp

NOW = datetime.datetime(2026, 10, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
Milan = tuple[bytes, SnpRules]


def test_a_real_report_is_accepted_by_the_rules_that_fit_it(milan: Milan) -> None:
    report, rules = milan
    found = verify_snp(report, rules, NOW.timestamp())
    assert found.report_data == report[0x50:0x90]
    assert found.report_data.startswith(b"\1\2\3\4\5\0")


OTHERS: list[tuple[dict[str, Any], str]] = [
    ({"debug": False}, "debugged"),
    ({"smt": False}, "SMT"),
    ({"measurement": ["00" * 48]}, "measurement"),
    ({"measurement": []}, "measurement"),
    ({"host_data": ["11" * 32]}, "host_data"),
    ({"id_key_digest": ["11" * 48]}, "id_key_digest"),
    ({"roots": []}, "root"),
    ({"roots": ["00" * 32]}, "root"),
    ({"revocation": True}, "no revocation list"),
    ({"tcb": TcbFloor(boot_loader=255, tee=0, snp=0, microcode=0)}, "boot_loader"),
    ({"tcb": TcbFloor(boot_loader=0, tee=1, snp=0, microcode=0)}, "tee"),
    ({"tcb": TcbFloor(boot_loader=0, tee=0, snp=255, microcode=0)}, "snp"),
    ({"tcb": TcbFloor(boot_loader=0, tee=0, snp=0, microcode=255)}, "microcode"),
]


@pytest.mark.parametrize(("change", "match"), OTHERS)
def test_rules_that_say_anything_else_refuse_it(milan: Milan, change: dict[str, Any], match: str) -> None:
    report, rules = milan
    with pytest.raises(EvidenceError, match=match):
        verify_snp(report, msgspec.structs.replace(rules, **change), NOW.timestamp())


def test_certificates_have_their_time(milan: Milan) -> None:
    report, rules = milan
    for year in (2025, 2040, 2060):
        with pytest.raises(EvidenceError, match="isn't valid now"):
            verify_snp(report, rules, datetime.datetime(year, 1, 1, tzinfo=datetime.UTC).timestamp())


def test_a_bit_of_every_eighth_byte_and_bytes_behind(milan: Milan) -> None:
    report, rules = milan
    rules = msgspec.structs.replace(rules, measurement="any", host_data="any")
    draw = random.Random(18)
    for at in range(0, len(report), 8):
        changed = bytearray(report)
        changed[at + draw.randrange(8)] ^= 1 << draw.randrange(8)
        with pytest.raises(CutsetError):
            verify_snp(bytes(changed), rules, NOW.timestamp())
    for other in (report + b"\0", report[:-1], report * 2, b"", report.hex().encode()):
        with pytest.raises(EvidenceError):
            verify_snp(other, rules, NOW.timestamp())


class Amd:
    """An authority like AMD's, and a chip."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ark_key, self.ask_key = (rsa.generate_private_key(65537, 2048) for _ in range(2))
        self.vcek_key = ec.generate_private_key(ec.SECP384R1())
        self.chip, self.versions = bytes(range(64)), {"boot_loader": 4, "tee": 1, "snp": 200, "microcode": 115}
        self.ark = self._certificate("ARK", self.ark_key.public_key(), "ARK", self.ark_key)
        self.ask = self._certificate("ASK", self.ask_key.public_key(), "ARK", self.ark_key)
        self.vcek = self._certificate("VCEK", self.vcek_key.public_key(), "ASK", self.ask_key, of_chip=True)
        for name, one in (("ark", self.ark), ("ask", self.ask), ("vcek", self.vcek)):
            (folder / f"{name}.der").write_bytes(one.public_bytes(Encoding.DER))

    def report(self, *, policy: int = 0x30000, vmpl: int = 0, versions: bytes = b"\4\1\0\0\0\0\xc8\x73") -> bytes:
        made = bytearray(0x2A0)
        made[0:4], made[8:16], made[0x30:0x34] = b"\2\0\0\0", policy.to_bytes(8, "little"), vmpl.to_bytes(4, "little")
        made[0x34:0x38], made[0x38:0x40], made[0x180:0x188] = b"\1\0\0\0", versions, versions
        made[0x50:0x90], made[0x90:0xC0], made[0x1A0:0x1E0] = b"\7" * 64, b"\x11" * 48, self.chip
        r, s = decode_dss_signature(self.vcek_key.sign(bytes(made), ec.ECDSA(hashes.SHA384())))
        signature = r.to_bytes(72, "little") + s.to_bytes(72, "little")
        return bytes(made) + signature.ljust(512, b"\0")

    def revoke(self, *serials: int, issued: datetime.datetime = NOW - DAY) -> None:
        made = x509.CertificateRevocationListBuilder().issuer_name(_name("ARK"))
        made = made.last_update(issued).next_update(issued + 30 * DAY)
        for serial in serials:
            one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(issued)
            made = made.add_revoked_certificate(one.build())
        signed = made.sign(self.ark_key, hashes.SHA384(), rsa_padding=PSS)
        (self.folder / "ark.crl").write_bytes(signed.public_bytes(Encoding.DER))

    def rules(self, **more: Any) -> SnpRules:
        given: dict[str, Any] = {
            "certificates": str(self.folder),
            "roots": [self.ark.fingerprint(hashes.SHA256()).hex()],
            "measurement": ["11" * 48],
            "tcb": TcbFloor(boot_loader=4, tee=1, snp=200, microcode=115),
            "smt": True,
        }
        return SnpRules(**(given | more))

    def _certificate(self, name: str, key: Any, issuer: str, by: Any, *, of_chip: bool = False) -> x509.Certificate:
        made = x509.CertificateBuilder().subject_name(_name(name)).issuer_name(_name(issuer)).public_key(key)
        made = made.serial_number(x509.random_serial_number()).not_valid_before(NOW - DAY).not_valid_after(NOW + DAY)
        if of_chip:
            values = {EXTENSIONS[name]: _integer(value) for name, value in self.versions.items()}
            for oid, value in (values | {CHIP: self.chip}).items():
                extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
                made = made.add_extension(extension, critical=False)
        return made.sign(by, hashes.SHA384(), rsa_padding=PSS)


PSS = padding.PSS(padding.MGF1(hashes.SHA384()), 48)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _integer(value: int) -> bytes:
    return b"\2\1" + bytes([value]) if value < 128 else b"\2\2\0" + bytes([value])


@pytest.fixture(scope="module")
def amd(tmp_path_factory: pytest.TempPathFactory) -> Amd:
    made = Amd(tmp_path_factory.mktemp("amd"))
    made.revoke()
    return made


def test_one_of_our_own_is_accepted_and_what_is_wrong_of_it_is_not(amd: Amd) -> None:
    now = NOW.timestamp()
    assert verify_snp(amd.report(), amd.rules(), now).report_data == b"\7" * 64
    for report, match in (
        (amd.report(policy=0xB0000), "debugged"),
        (amd.report(policy=0x70000), "agent"),
        (amd.report(vmpl=1), "VMPL 1"),
        (amd.report(versions=b"\3\1\0\0\0\0\xc8\x73"), "no certificate of its chip"),
    ):
        with pytest.raises(EvidenceError, match=match):
            verify_snp(report, amd.rules(), now)
    with pytest.raises(EvidenceError, match="SMT"):
        verify_snp(amd.report(policy=0x30000), amd.rules(smt=False), now)


def test_revoked(amd: Amd) -> None:
    now = NOW.timestamp()
    try:
        for one in (amd.ask, amd.vcek):
            amd.revoke(one.serial_number)
            with pytest.raises(EvidenceError, match="revoked"):
                verify_snp(amd.report(), amd.rules(), now)
        amd.revoke(issued=NOW - 60 * DAY)
        with pytest.raises(EvidenceError, match="too old"):
            verify_snp(amd.report(), amd.rules(), now)
        other, key = x509.CertificateRevocationListBuilder().issuer_name(_name("ARK")), amd.ask_key
        signed = other.last_update(NOW - DAY).next_update(NOW + DAY).sign(key, hashes.SHA384(), rsa_padding=PSS)
        (amd.folder / "ark.crl").write_bytes(signed.public_bytes(Encoding.DER))
        with pytest.raises(EvidenceError, match="no revocation list"):
            verify_snp(amd.report(), amd.rules(), now)
    finally:
        amd.revoke()


def test_a_chain_that_leads_elsewhere(amd: Amd, tmp_path: Path) -> None:
    other = Amd(tmp_path)
    other.revoke()
    with pytest.raises(EvidenceError, match="signature"):  # of a chip that says it is this one
        verify_snp(other.report(), amd.rules(), NOW.timestamp())
    with pytest.raises(EvidenceError, match="no chain"):
        verify_snp(amd.report(), amd.rules(roots=other.rules().roots), NOW.timestamp())
    (tmp_path / "ask.der").write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match="is no certificate"):
        verify_snp(amd.report(), amd.rules(certificates=str(tmp_path)), NOW.timestamp())
