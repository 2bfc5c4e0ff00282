"""An authority like Intel's, for quotes and collateral with whatever is wrong that no public vector has."""

from __future__ import annotations

import datetime
import hashlib
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

__all__ = ["NOW", "IntelLike"]

NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
FMSPC = bytes.fromhex("00906ed50000")
SGX = "1.2.840.113741.1.13.1"
VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
QE_SIGNER = bytes(range(32))
Key = ec.EllipticCurvePrivateKey


@dataclass
class IntelLike:
    """Change what is to be wrong, then call `quote` and `write`."""

    status: str = "UpToDate"
    advisories: list[str] = field(default_factory=list)
    qe_status: str = "UpToDate"
    revoke_pck: bool = False
    revoke_ca: bool = False
    pck_days: int = 100  # until the chip's certificate expires
    issued: datetime.datetime = NOW - DAY  # of the collateral
    attributes: bytes = bytes.fromhex("0500000000000000e700000000000000")
    isv_svn: int = 3
    evaluation: int = 17
    collateral_fmspc: bytes = FMSPC
    qe_signer: bytes = QE_SIGNER

    def __post_init__(self) -> None:
        self.root_key, self.ca_key, self.pck_key, self.tcb_key, self.attesting = (_key() for _ in range(5))
        self._root = self._certificate("Root CA", self.root_key, "Root CA", self.root_key, ca=True)
        self._tcb = self._certificate("TCB Signing", self.tcb_key, "Root CA", self.root_key)
        self._ca = self._certificate("PCK Platform CA", self.ca_key, "Root CA", self.root_key, ca=True)

    @property
    def root_der(self) -> bytes:
        return self._root.public_bytes(Encoding.DER)

    def quote(self, data: bytes = bytes(64)) -> bytes:
        """A quote of version 3."""
        said = _sgx_extension()
        self._pck = self._certificate(
            "PCK Certificate", self.pck_key, "PCK Platform CA", self.ca_key, extension=said, days=self.pck_days
        )
        header = struct.pack("<HHIHH", 3, 2, 0, 10, 15) + VENDOR + bytes(20)
        signed = header + _report(self.attributes, b"\x11" * 32, b"\x22" * 32, 0, self.isv_svn, data)
        point = self.attesting.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
        extra = bytes(range(32))
        bound = hashlib.sha256(point + extra).digest() + bytes(32)
        qe = _report(bytes.fromhex("1500000000000000e700000000000000"), bytes(32), self.qe_signer, 1, 10, bound)
        chain = b"".join(one.public_bytes(Encoding.PEM) for one in (self._pck, self._ca, self._root))
        auth = _raw(self.attesting, signed) + point + qe + _raw(self.pck_key, qe)
        auth += struct.pack("<H", len(extra)) + extra + struct.pack("<HI", 5, len(chain)) + chain
        return signed + struct.pack("<I", len(auth)) + auth

    def write(self, folder: Path) -> None:
        """Puts the collateral there; call it after `quote`."""
        tcb = {
            "id": "SGX",
            "version": 3,
            **self._dates(),
            "fmspc": self.collateral_fmspc.hex().upper(),
            "pceId": "0000",
            "tcbType": 0,
            "tcbEvaluationDataNumber": self.evaluation,
            "tcbLevels": [
                {
                    "tcb": {"sgxtcbcomponents": [{"svn": 0}] * 16, "pcesvn": 0},
                    "tcbDate": "2024-03-13T00:00:00Z",
                    "tcbStatus": self.status,
                    "advisoryIDs": self.advisories,
                }
            ],
        }
        identity = {
            "id": "QE",
            "version": 2,
            **self._dates(),
            "tcbEvaluationDataNumber": self.evaluation,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": QE_SIGNER.hex().upper(),
            "isvprodid": 1,
            "tcbLevels": [{"tcb": {"isvsvn": 8}, "tcbDate": "2024-03-13T00:00:00Z", "tcbStatus": self.qe_status}],
        }
        tcb_text, identity_text = json.dumps(tcb), json.dumps(identity)
        collateral: dict[str, Any] = {
            "pck_crl_issuer_chain": _pem(self._ca, self._root),
            "root_ca_crl": self._list("Root CA", self.root_key, self._ca if self.revoke_ca else None),
            "pck_crl": self._list("PCK Platform CA", self.ca_key, self._pck if self.revoke_pck else None),
            "tcb_info_issuer_chain": _pem(self._tcb, self._root),
            "tcb_info": tcb_text,
            "tcb_info_signature": _raw(self.tcb_key, tcb_text.encode()).hex(),
            "qe_identity_issuer_chain": _pem(self._tcb, self._root),
            "qe_identity": identity_text,
            "qe_identity_signature": _raw(self.tcb_key, identity_text.encode()).hex(),
        }
        (folder / "collateral.json").write_text(json.dumps(collateral), encoding="utf-8")

    def _dates(self) -> dict[str, str]:
        form = "%Y-%m-%dT%H:%M:%SZ"
        return {"issueDate": self.issued.strftime(form), "nextUpdate": (self.issued + 30 * DAY).strftime(form)}

    def _certificate(
        self,
        name: str,
        key: Key,
        issuer: str,
        by: Key,
        *,
        ca: bool = False,
        extension: bytes = b"",
        days: int = 3000,
    ) -> x509.Certificate:
        own, signer = key.public_key(), by.public_key()
        made = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(issuer))
            .public_key(own)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 300 * DAY)
            .not_valid_after(NOW + days * DAY)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(own), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
            .add_extension(_usage(ca), critical=True)
        )
        if extension:
            made = made.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(SGX), extension), critical=False)
        return made.sign(by, hashes.SHA256())

    def _list(self, issuer: str, key: Key, revoked: x509.Certificate | None) -> str:
        made = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(_name(issuer))
            .last_update(NOW - DAY)
            .next_update(NOW + 30 * DAY)
            .add_extension(x509.CRLNumber(1), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        )
        if revoked is not None:
            one = x509.RevokedCertificateBuilder().serial_number(revoked.serial_number).revocation_date(NOW - DAY)
            made = made.add_revoked_certificate(one.build())
        return made.sign(key, hashes.SHA256()).public_bytes(Encoding.DER).hex()


def _key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Test {text}")])


def _usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(*certificates: x509.Certificate) -> str:
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates).decode()


def _raw(key: Key, data: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _report(attributes: bytes, enclave: bytes, signer: bytes, product: int, svn: int, data: bytes) -> bytes:
    made = bytes(16) + bytes(4) + bytes(28) + attributes + enclave + bytes(32) + signer + bytes(96)
    return made + struct.pack("<HH", product, svn) + bytes(60) + data


def _sgx_extension() -> bytes:
    """What a chip's certificate says of it, in DER."""
    parts = [_pair(f"{SGX}.2.{number}", b"\x02\x01\x00") for number in range(1, 18)]
    tcb = _der(0x30, b"".join(parts) + _pair(f"{SGX}.2.18", _der(4, bytes(16))))
    return _der(
        0x30,
        _pair(f"{SGX}.1", _der(4, bytes(16)))
        + _pair(f"{SGX}.2", tcb)
        + _pair(f"{SGX}.3", _der(4, bytes(2)))
        + _pair(f"{SGX}.4", _der(4, FMSPC))
        + _pair(f"{SGX}.5", b"\x0a\x01\x00"),
    )


def _pair(oid: str, value: bytes) -> bytes:
    first, second, *rest = map(int, oid.split("."))
    body = bytes([40 * first + second])
    for arc in rest:
        digits = [arc & 0x7F]
        while arc := arc >> 7:
            digits.append(arc & 0x7F | 0x80)
        body += bytes(reversed(digits))
    return _der(0x30, _der(6, body) + value)


def _der(tag: int, body: bytes) -> bytes:
    size = bytes([len(body)]) if len(body) < 128 else b"\x82" + len(body).to_bytes(2, "big")
    return bytes([tag]) + size + body
