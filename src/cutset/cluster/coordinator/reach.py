"""Who workers are, before there is anything for them to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping

from cutset.cluster.coordinator.remote import Remote, dial_all
from cutset.cluster.messages import HANDSHAKE, Card
from cutset.errors import LinkError
from cutset.link.keys import Keys
from cutset.link.peer import Handshake
from cutset.link.rendezvous import Rendezvous

__all__ = ["REFUSED", "Addresses", "reach"]

Addresses = Mapping[str, tuple[str, bytes | None]]  # of workers: name to address and public key

REFUSED = 2.0  # seconds that a worker may refuse this side: another coordinator may be leaving
MOMENT = 1.0  # seconds that spares have to be there
TICK = 0.02  # seconds


def reach(
    workers: Addresses,
    *,
    keys: Keys | None = None,
    rendezvous: Rendezvous | None = None,
    handshake: Handshake = HANDSHAKE,
    seconds: float = 10.0,
    joining: float = 60.0,
    spares: Collection[str] = (),
    there: Callable[[int, int], None] = lambda found, wanted: None,
) -> dict[str, Card]:
    """The cards of all workers, in their order; the workers are let go again.

    `seconds` are waited for one, `joining` for one that dials in at the rendezvous, and a moment for `spares`, which
    may be absent. `there` is called with how many of how many are there, when that changes.

    Raises LinkError for one that can't be reached in time or refuses, and ConfigError for a missing key.
    """
    begun, remotes, found = time.monotonic(), dict[str, Remote](), dict[str, Card]()
    try:
        remotes = dial_all(
            workers,
            lambda event: None,
            keys=keys,
            rendezvous=rendezvous,
            handshake=handshake,
            connect_timeout=seconds,
        )
        wanted, count = [name for name in remotes if name not in spares], -1
        while True:
            waited = time.monotonic() - begun
            for name, remote in remotes.items():
                most = min(REFUSED, seconds) if remote.refused else joining if remote.joins else seconds
                if remote.up and remote.card is not None:
                    found[name] = remote.card
                elif name not in found and name not in spares and waited > most:
                    raise LinkError(f"{name} can't be used: {remote.why}")
            here = sum(name in found for name in wanted)
            if here != count:
                count = here
                there(here, len(wanted))
            if here == len(wanted) and (len(found) == len(remotes) or waited > min(MOMENT, seconds)):
                return {name: found[name] for name in workers if name in found}
            time.sleep(TICK)
    finally:
        for remote in remotes.values():
            remote.close()
