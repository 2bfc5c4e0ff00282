"""Where things lie in quotes of SGX and TDX and in reports of SEV-SNP, and how long each must be, to the byte.

Intel: "Intel SGX ECDSA QuoteLibReference" (version 3), "Intel TDX DCAP Quoting Library API" (versions 4 and 5).
AMD: "SEV Secure Nested Paging Firmware ABI", table ATTESTATION_REPORT. Numbers are little-endian.
"""

from __future__ import annotations

import struct

from cutset.errors import EvidenceError

__all__ = ["MOST_QUOTE", "check_exact", "report_data", "trimmed"]

MOST_QUOTE = 24 << 10  # bytes
HEADER = 48
SGX_BODY, TDX_BODY = 384, 584
SGX_TEE, TDX_TEE = 0x00, 0x81
BODIES = {1: SGX_BODY, 2: TDX_BODY, 3: 648, 4: 885}  # of version 5, by its type
SNP_REPORT = 1184
CHAIN = 5  # the type of certification data that is a chain of certificates


def report_data(kind: str, quote: bytes) -> bytes:
    """The 64 bytes that a quote is bound to, before anything of it is verified. Raises EvidenceError."""
    if kind == "snp":
        _length(quote, SNP_REPORT)
        return quote[0x50:0x90]
    body, size, tee = _body(quote)
    if tee != {"sgx": SGX_TEE, "tdx": TDX_TEE}[kind]:
        raise EvidenceError(f"its quote isn't one of {kind}")
    at = body + (SGX_BODY if tee == SGX_TEE else TDX_BODY) - 64
    if at + 64 > body + size:
        raise EvidenceError("its quote is cut off")
    return quote[at : at + 64]


def trimmed(kind: str, quote: bytes) -> bytes:
    """A quote without the zeros that a kernel may leave behind it. Raises EvidenceError for other bytes there."""
    if kind == "snp":
        return quote
    body, size, _ = _body(quote)
    end = _fields(quote, body + size)
    if any(quote[end:]):
        raise EvidenceError("its quote has bytes behind its end")
    return quote[:end]


def check_exact(quote: bytes) -> None:
    """Raises EvidenceError for a quote of SGX or TDX that isn't written in the one way that there is: with bytes behind
    its end, lengths in it that don't add up, or certificates that are spelt in another way. Nobody has signed such."""
    body, size, _ = _body(quote)
    if _fields(quote, body + size) != len(quote):
        raise EvidenceError("its quote has bytes behind its end")


def _fields(quote: bytes, at: int) -> int:
    """Checks the signature's part, which begins at `at`, and gives its end: signature, key, the quoting enclave's
    report and signature, data for it, and certificates, each behind its length."""
    version = quote[0]
    end = at + 4 + _number(quote, at, "<I")
    at += 4 + 128
    if version >= 4:  # certificates of certificates: one more layer
        kind, size = _number(quote, at, "<H"), _number(quote, at + 2, "<I")
        at += 6
        if kind != 6 or at + size != end:
            raise EvidenceError("lengths in its quote don't add up")
    at += SGX_BODY + 64
    at += 2 + _number(quote, at, "<H")
    kind, size = _number(quote, at, "<H"), _number(quote, at + 2, "<I")
    at += 6 + size
    if at != end or end > len(quote):
        raise EvidenceError("lengths in its quote don't add up")
    if kind == CHAIN:
        _check_chain(quote[at - size : at])
    return end


def _check_chain(text: bytes) -> None:
    """A chip's certificate, its issuer's and the root's, as PEM, with a zero behind them or not. The verifier takes the
    root that it knows itself; so that nothing in a quote is there unsigned, this one has to have signed them too."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        found = x509.load_pem_x509_certificates(text)
        for one, issuer in zip(found, [*found[1:], found[-1]], strict=True):
            one.verify_directly_issued_by(issuer)
    except Exception:  # whatever a parser makes of bytes of an unknown peer
        raise EvidenceError("the certificates in its quote can't be read, or aren't a chain") from None
    if b"".join(one.public_bytes(Encoding.PEM) for one in found) != text.removesuffix(b"\0"):
        raise EvidenceError("the certificates in its quote are spelt in another way than they should be")


def _body(quote: bytes) -> tuple[int, int, int]:
    """Where the report begins, its length, and the kind of machine."""
    if len(quote) > MOST_QUOTE:
        raise EvidenceError(f"its quote has {len(quote)} bytes; {MOST_QUOTE} are the most")
    version, tee = _number(quote, 0, "<H"), _number(quote, 4, "<I")
    if version == 3 and tee == SGX_TEE:
        return HEADER, SGX_BODY, tee
    if version == 4 and tee in (SGX_TEE, TDX_TEE):
        return HEADER, SGX_BODY if tee == SGX_TEE else TDX_BODY, tee
    if version == 5 and tee in (SGX_TEE, TDX_TEE):
        kind, size = _number(quote, HEADER, "<H"), _number(quote, HEADER + 2, "<I")
        if size != BODIES.get(kind) or (kind == 1) != (tee == SGX_TEE):
            raise EvidenceError("the body of its quote is of an unknown type or length")
        return HEADER + 6, size, tee
    raise EvidenceError(f"its quote has version {version} for machines of kind {tee:#x}, which isn't known here")


def _number(quote: bytes, at: int, form: str) -> int:
    try:
        found: int = struct.unpack_from(form, quote, at)[0]
    except struct.error:
        raise EvidenceError("its quote is cut off") from None
    return found


def _length(quote: bytes, wanted: int) -> None:
    if len(quote) != wanted:
        raise EvidenceError(f"its report has {len(quote)} bytes, where {wanted} are right")
