"""Real certificates for tests, by an authority of their own."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["Authority"]

DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates of 127.0.0.1 and localhost; its own lies in `file`."""

    def __init__(self, folder: Path) -> None:
        self._key, name = ec.generate_private_key(ec.SECP256R1()), _name("a test's authority")
        self._name = name
        limits = x509.BasicConstraints(ca=True, path_length=None)
        made = self._builder(name, self._key.public_key(), 1).add_extension(limits, critical=True)
        self.file = folder / "authority.pem"
        self.file.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def write(self, chain: Path, key: Path, *, days: int = 1, password: bytes | None = None) -> int:
        """Writes a new certificate and its key; gives the serial number."""
        private = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        builder = self._builder(_name("localhost"), private.public_key(), days)
        made = builder.add_extension(x509.SubjectAlternativeName(names), critical=False).sign(
            self._key, hashes.SHA256()
        )
        chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        kept = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, kept)
        key.write_bytes(pem)
        key.chmod(0o600)
        return made.serial_number

    def _builder(self, name: x509.Name, key: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 10 * DAY)
            .not_valid_after(now + days * DAY)
        )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
