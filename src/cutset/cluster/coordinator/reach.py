"""Who workers are, before there is anything for them to do."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping

from cutset.cluster.coordinator.remote import Remote
from cutset.cluster.messages import Card
from cutset.errors import LinkError
from cutset.link.keys import Keys

__all__ = ["REFUSED", "reach"]

REFUSED = 2.0  # seconds that a worker may refuse this side: another coordinator may be leaving
TICK = 0.02  # seconds


def reach(
    workers: Mapping[str, tuple[str, bytes | None]], *, keys: Keys | None = None, seconds: float = 10.0
) -> dict[str, Card]:
    """The cards of all workers (name to address and public key), in their order; the workers are let go again.

    Raises LinkError for one that can't be reached in time or refuses, and ConfigError for a missing key.
    """
    session, begun = secrets.token_bytes(16), time.monotonic()
    remotes: dict[str, Remote] = {}
    try:
        for name, (address, key) in workers.items():
            remotes[name] = Remote(
                name, address, session=session, callback=lambda event: None, keys=keys, key=key, connect_timeout=seconds
            )
        found: dict[str, Card] = {}
        while len(found) < len(remotes):
            for name, remote in remotes.items():
                if remote.up and remote.card is not None:
                    found[name] = remote.card
                elif time.monotonic() - begun > (min(REFUSED, seconds) if remote.refused else seconds):
                    raise LinkError(f"{name} can't be used: {remote.why}")
            time.sleep(TICK)
        return {name: found[name] for name in workers}
    finally:
        for remote in remotes.values():
            remote.close()
