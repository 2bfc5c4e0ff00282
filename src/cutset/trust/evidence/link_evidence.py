"""Evidence of links: what the handshake of `link/peer.py` asks to prove and to verify, over a prover and a verifier.

A statement of channel `curve` has the CURVE key of who shows it; its nonce is the digest of the binding, in which are
both sides' keys, both nonces as far as they are known, and all that was said before.
"""

from __future__ import annotations

from collections.abc import Callable

from cutset.errors import ConfigError
from cutset.link.peer import MOST_EVIDENCE, Binding
from cutset.trust.evidence.document import Prover
from cutset.trust.evidence.verifier import Verifier

__all__ = ["prove_link", "verify_link"]


def prove_link(prover: Prover) -> Callable[[Binding], bytes]:
    """What a handshake's `prove` is. Raises ConfigError now for evidence that is too large to be sent then, or that
    can't be had."""
    size = len(prover.show("curve", bytes(32), bytes(32)))
    if size > MOST_EVIDENCE:
        raise ConfigError(
            f"this evidence has {size} bytes, and over a link {MOST_EVIDENCE} are sent: vouch for fewer files"
        )
    return lambda binding: prover.show("curve", binding.prover, binding.digest)


def verify_link(verifier: Verifier) -> Callable[[bytes, Binding], bool]:
    """What a handshake's `verify` is; it raises EvidenceError for evidence that isn't enough."""

    def verify(evidence: bytes, binding: Binding) -> bool:
        peer = binding.prover.hex()
        verifier.check(evidence, channel="curve", key=binding.prover, nonce=binding.digest, peer=peer)
        return True

    return verify
