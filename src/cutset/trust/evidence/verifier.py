"""Decides whether evidence is enough: genuine, bound to this channel and this question, and allowed by a policy."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from cutset.errors import CutsetError, EvidenceError, printable
from cutset.trust.audit import AuditLog
from cutset.trust.evidence.device_reports import device_nonce
from cutset.trust.evidence.document import read_document
from cutset.trust.evidence.intel_quotes import verify_intel
from cutset.trust.evidence.nvidia_reports import VerifiedGpu, verify_gpus
from cutset.trust.evidence.policy import EvidencePolicy, SimulatorRules, allows
from cutset.trust.evidence.served_files import manifest_digest
from cutset.trust.evidence.simulated_quote import read_simulated
from cutset.trust.evidence.snp_reports import verify_snp
from cutset.trust.evidence.statement import NONCE_BYTES
from cutset.trust.evidence.verified import VerifiedQuote

__all__ = ["CheckedEvidence", "Verifier"]


@dataclass(frozen=True, slots=True)
class CheckedEvidence:
    """Evidence that was enough. `key`: the SHA-256 of the channel's key, `manifest`: of its files, hexadecimal. `gpus`:
    those that vouch for themselves, where the policy asks."""

    quote: VerifiedQuote
    key: str
    manifest: str
    mode: str
    version: str
    gpus: tuple[VerifiedGpu, ...] = ()

    @property
    def confidential(self) -> bool:
        """False for what a simulator shows."""
        return self.quote.confidential


class Verifier:
    """A policy, applied. `clock` gives seconds since 1970; `audit` gets a line for each refusal."""

    def __init__(
        self,
        policy: EvidencePolicy,
        *,
        clock: Callable[[], float] = time.time,
        audit: AuditLog | None = None,
        intel_root: bytes | None = None,  # another authority than Intel's own, DER
    ) -> None:
        self.policy, self._clock, self._audit, self._intel_root = policy, clock, audit, intel_root

    def check(self, data: bytes, *, channel: str, key: bytes, nonce: bytes, peer: str = "") -> CheckedEvidence:
        """`key`: of the channel, as this side sees it. `nonce`: what was asked with. `peer` is for the audit log.

        Raises EvidenceError where the evidence isn't enough, ConfigError where this side lacks what it needs."""
        try:
            return self._check(data, channel, key, nonce)
        except CutsetError as error:
            if self._audit is not None:
                self._audit.write("refused", peer=peer, channel=channel, key=_digest(key), reason=str(error))
            raise

    def check_quote(self, kind: str, quote: bytes, data: bytes, peer: str = "") -> VerifiedQuote:
        """A quote alone, of these 64 bytes of report data: it has no document, so the policy's [server] says nothing
        of it. Raises as `check` does."""
        try:
            found = self._quote(kind, quote)
            if not hmac.compare_digest(found.report_data, data):
                raise EvidenceError("its quote is bound to another key")
            return found
        except CutsetError as error:
            if self._audit is not None:
                self._audit.write("refused", peer=peer, channel="receipt", reason=str(error))
            raise

    def _check(self, data: bytes, channel: str, key: bytes, nonce: bytes) -> CheckedEvidence:
        assert len(nonce) == NONCE_BYTES
        document = read_document(data)
        quote = self._quote(document.kind, document.quote)
        wanted = document.statement(channel, key, nonce)
        if not hmac.compare_digest(quote.report_data, wanted.report_data):
            raise EvidenceError(
                "its quote is bound to something else: another key (somebody ends the connection in between), another "
                "question, or other files than it says"
            )
        rules, manifest = self.policy.server, manifest_digest(document.files).hex()
        for what, allowed, value in (
            ("files (manifest)", rules.manifests, manifest),
            ("mode", rules.modes, document.mode),
            ("version", rules.versions, document.version),
        ):
            if not allows(allowed, value):
                raise EvidenceError(f"its {what} {value!r} isn't one that the policy allows")
        if channel == "tls" and (pinned := self.policy.tls.keys) and _digest(key) not in pinned:
            raise EvidenceError(f"its key {_digest(key)} isn't one that the policy allows")
        gpus: list[VerifiedGpu] = []
        if self.policy.nvidia is not None:
            asked = device_nonce(replace(wanted, devices=b"").report_data)
            gpus = verify_gpus(document.reports, asked, self.policy.nvidia, self._clock())
        return CheckedEvidence(quote, _digest(key), manifest, document.mode, document.version, tuple(gpus))

    def _quote(self, kind: str, quote: bytes) -> VerifiedQuote:
        """The quote, verified by the rules for its kind."""
        policy = self.policy
        match kind:
            case "sgx" if policy.sgx is not None:
                return verify_intel(quote, policy.sgx, self._clock(), self._intel_root)
            case "tdx" if policy.tdx is not None:
                return verify_intel(quote, policy.tdx, self._clock(), self._intel_root)
            case "snp" if policy.snp is not None:
                return verify_snp(quote, policy.snp, self._clock())
            case "simulator" if policy.simulator is not None:
                return _simulated(quote, policy.simulator)
        name, accepted = printable(kind, lines=False)[:40], " and ".join(policy.kinds)
        raise EvidenceError(f"its evidence is of kind {name}, and the policy accepts only {accepted}")


def _simulated(quote: bytes, rules: SimulatorRules) -> VerifiedQuote:
    found = read_simulated(quote)
    measurement = found.measurement.hex()
    if not allows(rules.measurement, measurement):
        raise EvidenceError(f"its measurement {measurement} isn't one that the policy allows")
    return VerifiedQuote("simulator", found.report_data, {"measurement": measurement}, "", (), False)


def _digest(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()
