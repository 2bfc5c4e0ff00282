"""Evidence of links: what the handshake of `link/peer.py` asks to prove and to verify, over a prover and a verifier.

A statement of channel `curve` has the CURVE key of who shows it; its nonce is the digest of the binding, in which are
both sides' keys, both nonces as far as they are known, and all that was said before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from cutset.errors import ConfigError
from cutset.link.peer import MOST_EVIDENCE, Binding
from cutset.trust.audit import AuditLog
from cutset.trust.evidence.document import Prover
from cutset.trust.evidence.policy import load_policy
from cutset.trust.evidence.simulated_quote import NOT_CONFIDENTIAL
from cutset.trust.evidence.verifier import Verifier

__all__ = ["prove_link", "verify_by", "verify_link"]

log = logging.getLogger(__name__)
Verify = Callable[[bytes, Binding], bool]


def prove_link(prover: Prover) -> Callable[[Binding], bytes]:
    """What a handshake's `prove` is. Raises ConfigError now for evidence that is too large to be sent then, or that
    can't be had."""
    size = len(prover.show("curve", bytes(32), bytes(32)))
    if size > MOST_EVIDENCE:
        raise ConfigError(
            f"this evidence has {size} bytes, and over a link {MOST_EVIDENCE} are sent: vouch for fewer files, or show "
            "fewer GPUs"
        )
    return lambda binding: prover.show("curve", binding.prover, binding.digest)


def verify_link(verifier: Verifier, warn: Callable[[str], None] = log.warning) -> Verify:
    """What a handshake's `verify` is; it raises EvidenceError for evidence that isn't enough. `warn` is told once of
    each key whose evidence is a simulator's."""
    warned = set[bytes]()

    def verify(evidence: bytes, binding: Binding) -> bool:
        peer = binding.prover.hex()
        found = verifier.check(evidence, channel="curve", key=binding.prover, nonce=binding.digest, peer=peer)
        if not found.confidential and binding.prover not in warned:
            warned.add(binding.prover)
            warn(f"{NOT_CONFIDENTIAL}: the evidence of {peer[:12]}… is a simulator's, which proves nothing")
        return True

    return verify


def verify_by(policy: Path, *, audit: AuditLog | None = None, warn: Callable[[str], None] = log.warning) -> Verify:
    """The same by the policy in a file, which is read again when it changes; refusals go to the `audit` log. Raises
    ConfigError."""
    seen, verifier = _stamp(policy), Verifier(load_policy(policy), audit=audit)
    judge = verify_link(verifier, warn)

    def verify(evidence: bytes, binding: Binding) -> bool:
        nonlocal seen
        if (now := _stamp(policy)) != seen and now is not None:  # gone: it is being replaced
            seen = now
            try:
                verifier.policy = load_policy(policy)
            except ConfigError as error:
                warn(f"the policy that was read before stays in force: {error}")
        return judge(evidence, binding)

    return verify


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
