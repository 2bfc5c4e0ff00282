"""Verifies attestation reports of AMD SEV-SNP, with certificates that are kept off-line, by a policy's rules.

The chain: the report is signed by the chip's VCEK (ECDSA P-384), which the ASK has signed, which the ARK has signed
(RSA with PSS); the policy names the ARKs. The VCEK must be that of this chip and of the versions that it states.
"SEV Secure Nested Paging Firmware ABI" and "Versioned Chip Endorsement Key Certificate and KDS Interface".
"""

from __future__ import annotations

import contextlib
import datetime
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.utils import CryptographyDeprecationWarning

from cutset.errors import ConfigError, EvidenceError
from cutset.reading import read_bytes
from cutset.trust.evidence.layouts import report_data
from cutset.trust.evidence.policy import SnpRules, TcbFloor, allows
from cutset.trust.evidence.verified import VerifiedQuote

__all__ = ["verify_snp"]

SIGNED = 0x2A0
SCALAR, FIELD = 48, 72  # bytes of r and s, and of the places for them
ECDSA_P384 = 1
TURIN = 0x1A  # a family whose versions are numbered in another way
DEBUG, MIGRATION, SMT = 1 << 19, 1 << 18, 1 << 16  # of the guest's policy
MOST_FILES, MOST_BYTES = 64, 256 << 10
EXTENSIONS = {
    "boot_loader": "1.3.6.1.4.1.3704.1.3.1",
    "tee": "1.3.6.1.4.1.3704.1.3.2",
    "snp": "1.3.6.1.4.1.3704.1.3.3",
    "microcode": "1.3.6.1.4.1.3704.1.3.8",
}
CHIP = "1.3.6.1.4.1.3704.1.4"
REGISTERS = {
    "measurement": (0x90, 48),
    "host_data": (0xC0, 32),
    "id_key_digest": (0xE0, 48),
    "author_key_digest": (0x110, 48),
}


class _Chain(NamedTuple):
    """The certificates of a chip, from its own to the root, and the root's revocation list."""

    vcek: x509.Certificate
    ask: x509.Certificate
    ark: x509.Certificate
    crl: x509.CertificateRevocationList | None


@dataclass(frozen=True, slots=True)
class _Files:
    certificates: list[x509.Certificate]
    lists: list[x509.CertificateRevocationList]


def verify_snp(report: bytes, rules: SnpRules, now: float) -> VerifiedQuote:
    """What a report says, if it is genuine and the rules allow it. Raises EvidenceError where it isn't, ConfigError for
    certificates that can't be read."""
    data = report_data("snp", report)  # its length is right, too
    version, algorithm = _number(report, 0, 4), _number(report, 0x34, 4)
    if not 2 <= version <= 5 or algorithm != ECDSA_P384:
        raise EvidenceError(f"its report has version {version} and algorithm {algorithm}, which aren't known here")
    if version >= 3 and report[0x188] == TURIN:
        raise EvidenceError("its report is one of a family of processors that isn't known here")
    if _number(report, 0x48, 4) >> 2 & 7:
        raise EvidenceError("its report isn't signed by the chip's own key (VCEK)")
    chain = _chain(_files(Path(rules.certificates)), report[0x1A0:0x1E0], _versions(report, 0x180), rules)
    _check_signature(report, chain.vcek)
    _check_dates(chain, datetime.datetime.fromtimestamp(now, datetime.UTC), rules)
    guest, level = _number(report, 8, 8), _number(report, 0x30, 4)
    for flag, allowed, what in (
        (DEBUG, rules.debug, "be debugged by its host"),
        (MIGRATION, rules.migration, "be taken to other machines by an agent"),
        (SMT, rules.smt, "share cores with others (SMT)"),
    ):
        if guest & flag and not allowed:
            raise EvidenceError(f"its guest may {what}, which the policy doesn't allow")
    if level > rules.vmpl:
        raise EvidenceError(f"its report is from VMPL {level}; the policy allows {rules.vmpl} at most")
    _check_floor(report, rules.tcb)
    shown = {name: report[at : at + size].hex() for name, (at, size) in REGISTERS.items()}
    for name, value in shown.items():
        if not allows(getattr(rules, name), value):
            raise EvidenceError(f"its {name} {value} isn't one that the policy allows")
    return VerifiedQuote("snp", data, {**shown, "vmpl": str(level)}, "", (), True)


def _check_signature(report: bytes, vcek: x509.Certificate) -> None:
    key, end = vcek.public_key(), SIGNED + 2 * FIELD
    r, s = report[SIGNED : SIGNED + FIELD], report[SIGNED + FIELD : end]
    if any(r[SCALAR:]) or any(s[SCALAR:]) or any(report[end:]):
        raise EvidenceError("its report has bytes behind its signature")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise EvidenceError("the certificate of its chip has a key of another kind")
    signature = encode_dss_signature(int.from_bytes(r, "little"), int.from_bytes(s, "little"))
    try:
        key.verify(signature, report[:SIGNED], ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, ValueError):
        raise EvidenceError("the signature of its report is wrong") from None


def _chain(files: _Files, chip: bytes, versions: dict[str, int], rules: SnpRules) -> _Chain:
    """The chain for this chip at these versions."""
    fitting = [one for one in files.certificates if _of_chip(one, chip, versions)]
    if not fitting:
        raise EvidenceError(f"{rules.certificates} has no certificate of its chip at the versions that it states")
    roots = [one for one in files.certificates if _fingerprint(one) in rules.roots and _issued(one, one)]
    for vcek in fitting:
        for ask in files.certificates:
            for ark in roots:
                if ask is not ark and _issued(vcek, ask) and _issued(ask, ark):
                    return _Chain(vcek, ask, ark, _newest(files.lists, ark))
    raise EvidenceError("no chain leads from the certificate of its chip to a root that the policy names")


def _newest(
    lists: list[x509.CertificateRevocationList], ark: x509.Certificate
) -> x509.CertificateRevocationList | None:
    key = ark.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    signed = [one for one in lists if one.issuer == ark.subject and one.is_signature_valid(key)]
    return max(signed, key=lambda one: one.last_update_utc, default=None)


def _check_dates(chain: _Chain, now: datetime.datetime, rules: SnpRules) -> None:
    for one in (chain.vcek, chain.ask, chain.ark):
        if not one.not_valid_before_utc <= now <= one.not_valid_after_utc:
            raise EvidenceError(f"the certificate {one.subject.rfc4514_string()} isn't valid now")
    if not rules.revocation:
        return
    crl = chain.crl
    if crl is None:
        raise EvidenceError(f"{rules.certificates} has no revocation list of the root, which the policy asks for")
    if not crl.last_update_utc <= now <= (crl.next_update_utc or now):
        raise EvidenceError("the revocation list of its root is too old: fetch it again")
    for one in (chain.vcek, chain.ask):
        if crl.get_revoked_certificate_by_serial_number(one.serial_number) is not None:
            raise EvidenceError(f"the certificate {one.subject.rfc4514_string()} was revoked")


def _check_floor(report: bytes, floor: TcbFloor) -> None:
    """The versions that hold (0x180), those in use (0x38), committed (0x1E0) and at launch (0x1F0)."""
    for at in (0x180, 0x38):
        for name, value in _versions(report, at).items():
            if value < getattr(floor, name):
                raise EvidenceError(f"its platform's {name} version {value} is older than the policy's")


def _versions(report: bytes, at: int) -> dict[str, int]:
    raw = report[at : at + 8]
    return {"boot_loader": raw[0], "tee": raw[1], "snp": raw[6], "microcode": raw[7]}


def _of_chip(certificate: x509.Certificate, chip: bytes, versions: dict[str, int]) -> bool:
    own = _extension(certificate, CHIP)
    if own is None or own not in (chip, b"\x04\x40" + chip):
        return False
    return all(_extension(certificate, oid) == _der_integer(versions[name]) for name, oid in EXTENSIONS.items())


def _der_integer(value: int) -> bytes:
    return b"\x02\x01" + bytes([value]) if value < 0x80 else b"\x02\x02\x00" + bytes([value])


def _extension(certificate: x509.Certificate, oid: str) -> bytes | None:
    with contextlib.suppress(x509.ExtensionNotFound, ValueError):
        found = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier(oid)).value
        return found.value if isinstance(found, x509.UnrecognizedExtension) else None
    return None


def _issued(certificate: x509.Certificate, by: x509.Certificate) -> bool:
    if not isinstance(by.public_key(), rsa.RSAPublicKey):
        return False
    try:
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


def _files(folder: Path) -> _Files:
    found = _Files([], [])
    paths = sorted(path for path in folder.glob("*") if path.suffix in (".der", ".pem", ".crt", ".cer", ".crl"))
    if not paths or len(paths) > MOST_FILES:
        raise ConfigError(f"{folder} has {len(paths)} certificates; from 1 to {MOST_FILES} files (DER or PEM) are read")
    for path in paths:
        data = read_bytes(path, MOST_BYTES, "certificate")
        try:
            with warnings.catch_warnings():  # AMD numbers certificates of chips with 0, which RFC 5280 doesn't like
                warnings.simplefilter("ignore", CryptographyDeprecationWarning)
                _add(found, data, path.suffix)
        except ValueError as error:
            raise ConfigError(f"{path} is no certificate or revocation list: {str(error)[:200]}") from None
    return found


def _add(found: _Files, data: bytes, suffix: str) -> None:
    if b"-----BEGIN X509 CRL" in data:
        found.lists.append(x509.load_pem_x509_crl(data))
    elif b"-----BEGIN CERTIFICATE" in data:
        found.certificates.extend(x509.load_pem_x509_certificates(data))
    elif suffix == ".crl":
        found.lists.append(x509.load_der_x509_crl(data))
    else:
        found.certificates.append(x509.load_der_x509_certificate(data))


def _number(report: bytes, at: int, size: int) -> int:
    return int.from_bytes(report[at : at + size], "little")
