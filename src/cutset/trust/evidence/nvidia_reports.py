"""Reports of NVIDIA's GPUs in confidential-computing mode: asked for by NVML, verified here without a connection.

A report is a request of SPDM 1.1 for measurements and the answer to it (DMTF DSP0274, 10.11): 64 measurements of
SHA-384, NVIDIA's own fields, and a signature (ECDSA, P-384 and SHA-384) of the GPU's key over request and answer.
Whether measurements are those of a genuine driver and VBIOS is for the policy to say, which lists them; NVIDIA's
service of reference values and its revocation by OCSP aren't asked.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from cutset.errors import ConfigError, EvidenceError
from cutset.trust.evidence.device_reports import MOST_DEVICES, DeviceReport
from cutset.trust.evidence.policy import NvidiaRules, allows

__all__ = ["NvidiaDevices", "VerifiedGpu", "read_gpu_report", "verify_gpus"]

REQUEST = 37  # bytes: version, code, two parameters, the nonce (32), a slot
ASKED, ANSWERED = b"\x11\xe0\x01\xff", b"\x11\x60"  # for all measurements, signed
SIGNATURE, NONCE, MEASUREMENT = 96, 32, 48
DMTF = 1  # the form of a measurement: type (1 byte), length (2), value
DRIVER, VBIOS = 3, 6  # NVIDIA's fields


class VerifiedGpu(NamedTuple):
    """What a genuine report says. `measurements`: by index, hexadecimal."""

    name: str
    driver: str
    vbios: str
    measurements: dict[int, str]


class NvidiaDevices:
    """The GPUs of this machine, all of them. Raises ConfigError where NVIDIA's library isn't, or none can vouch."""

    def __init__(self, nvml: Any = None) -> None:
        if nvml is None:
            try:
                import pynvml
            except ModuleNotFoundError:
                raise ConfigError(
                    "--device-evidence nvidia asks NVIDIA's library, which isn't here: pip install 'cutset[nvidia]'"
                ) from None
            nvml = pynvml
        self._nvml, self._lock = nvml, threading.Lock()
        with self._asking():
            nvml.nvmlInit()
            state = nvml.nvmlSystemGetConfComputeState()
            count = nvml.nvmlDeviceGetCount()
        if not state.ccFeature:
            raise ConfigError("the GPUs of this machine aren't in confidential-computing mode: they can't vouch")
        if state.devToolsMode:
            raise ConfigError("the GPUs of this machine are in the mode for developers, in which others read them")
        if not 1 <= count <= MOST_DEVICES:
            raise ConfigError(f"this machine has {count} GPUs, where 1 to {MOST_DEVICES} can vouch")
        self._count = count

    def reports(self, nonce: bytes) -> list[DeviceReport]:
        """See DeviceProvider."""
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import Encoding

        nvml, found = self._nvml, []
        with self._lock, self._asking():
            for index in range(self._count):
                device = nvml.nvmlDeviceGetHandleByIndex(index)
                made = nvml.nvmlDeviceGetConfComputeGpuAttestationReport(device, nonce)
                chain = nvml.nvmlDeviceGetConfComputeGpuCertificate(device)
                pem = bytes(chain.attestationCertChain[: chain.attestationCertChainSize])
                ders = [one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(pem)]
                found.append(DeviceReport("nvidia", bytes(made.attestationReport[: made.attestationReportSize]), ders))
        return found

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except self._nvml.NVMLError as error:
            raise ConfigError(f"NVIDIA's library gives no evidence: {error}") from None
        except ValueError as error:
            raise ConfigError(f"what NVIDIA's library gives can't be read: {error}") from None


def verify_gpus(reports: Sequence[DeviceReport], nonce: bytes, rules: NvidiaRules, now: float) -> list[VerifiedGpu]:
    """All of them, made for this nonce, as the rules want them. Raises EvidenceError."""
    if len(reports) < rules.least:
        raise EvidenceError(f"it shows reports of {len(reports)} GPUs, and the policy wants {rules.least}")
    found, keys = list[VerifiedGpu](), set[bytes]()
    for one in reports:
        gpu, key = _verify(one, nonce, rules, now)
        if key in keys:  # not by certificates, of which a key may have several: a signature can be written in two ways
            raise EvidenceError("it shows reports of one GPU twice")
        keys.add(key)
        found.append(gpu)
    return found


def _verify(shown: DeviceReport, nonce: bytes, rules: NvidiaRules, now: float) -> tuple[VerifiedGpu, bytes]:
    """What it says, and the key that says so."""
    name, key = _check_signed(shown, rules, datetime.fromtimestamp(now, UTC))
    if shown.report[4 : 4 + NONCE] != nonce:
        raise EvidenceError("the report of its GPU was made for another question")
    found = read_gpu_report(shown.report)._replace(name=name)
    for what, allowed, value in (("driver", rules.drivers, found.driver), ("VBIOS", rules.vbios, found.vbios)):
        if not allows(allowed, value):
            raise EvidenceError(f"the {what} {value!r} of its GPU isn't one that the policy allows")
    if not rules.measurements:
        raise EvidenceError("the policy says nothing of its GPU's measurements, so none is allowed")
    for index, values in {} if rules.measurements == "any" else rules.measurements.items():
        value = found.measurements.get(int(index), "")
        if value not in values:
            raise EvidenceError(f"measurement {index} of its GPU, {value or 'none'}, isn't one that the policy allows")
    return found, key


def _check_signed(shown: DeviceReport, rules: NvidiaRules, now: datetime) -> tuple[str, bytes]:
    """That the report is signed by a key that a chain of certificates up to an allowed root has; its holder's name, and
    the key."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, utils
    from cryptography.hazmat.primitives.hashes import SHA384
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from cryptography.x509.oid import NameOID

    # What a certificate that somebody made up may lead to, which is no ValueError.
    odd = (UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
    root = hashlib.sha256(shown.certificates[-1]).hexdigest()
    if root not in rules.roots:
        raise EvidenceError(f"the root of its GPU's certificates, {root}, isn't one that the policy allows")
    try:
        chain = [x509.load_der_x509_certificate(der) for der in shown.certificates]
        for one, issuer in zip(chain, [*chain[1:], chain[-1]], strict=True):
            one.verify_directly_issued_by(issuer)
            if not one.not_valid_before_utc <= now <= one.not_valid_after_utc:
                raise EvidenceError("a certificate of its GPU isn't valid now")
            if issuer is not one and not issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
                raise EvidenceError("the certificates of its GPU aren't a chain")
        key = chain[0].public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
            raise EvidenceError("the key of its GPU is of another kind than they have")
        signed, signature = shown.report[:-SIGNATURE], shown.report[-SIGNATURE:]
        halves = (int.from_bytes(half) for half in (signature[: SIGNATURE // 2], signature[SIGNATURE // 2 :]))
        key.verify(utils.encode_dss_signature(*halves), signed, ec.ECDSA(SHA384()))
        names = chain[0].subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        public = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound, *odd):
        raise EvidenceError("the report of its GPU isn't signed by a chain of certificates that can be read") from None
    return str(names[0].value)[:64] if names else "", public


def read_gpu_report(report: bytes) -> VerifiedGpu:
    """What a report says, to the last byte of it; its signature isn't looked at. Raises EvidenceError."""
    reader = _Reader(report)
    if reader.take(4) != ASKED or (reader.take(REQUEST - 4) and reader.take(2)) != ANSWERED:
        raise EvidenceError("the report of its GPU isn't one of measurements")
    reader.take(2)
    count, block = reader.number(1), _Reader(reader.take(reader.number(3)))
    measurements: dict[int, str] = {}
    for _ in range(count):
        index, form, size = block.number(1), block.number(1), block.number(2)
        if form != DMTF or size != 3 + MEASUREMENT or index in measurements:
            raise EvidenceError("a measurement of its GPU has another form than they have")
        block.take(1)
        if block.number(2) != MEASUREMENT:
            raise EvidenceError("a measurement of its GPU has another length than it says")
        measurements[index] = block.take(MEASUREMENT).hex()
    reader.take(NONCE)
    more, fields = _Reader(reader.take(reader.number(2))), dict[int, bytes]()
    while more.left:
        kind = more.number(2)
        fields.setdefault(kind, more.take(more.number(2)))
    if block.left or reader.left != SIGNATURE:
        raise EvidenceError("lengths in the report of its GPU don't add up")
    driver = fields.get(DRIVER, b"").rstrip(b"\0").decode("ascii", "replace")
    return VerifiedGpu("", driver, _vbios(fields.get(VBIOS, b"")), measurements)


def _vbios(data: bytes) -> str:
    """As NVIDIA writes it, 96.00.9F.00.01."""
    if len(data) != 8:
        return ""
    low, high = struct.unpack("<II", data)
    return ".".join(f"{byte:02X}" for byte in (*low.to_bytes(4), high & 255))


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise EvidenceError("the report of its GPU is cut off")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")
