"""What an accelerator keeps of each client while its link lasts: what it counted, and what it couldn't send yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from cutset.link import Link

__all__ = ["OWN", "TOTALS", "Client", "Quota", "new_counters"]

# What is counted for each client and told to it, and what only whoever runs the accelerator is told.
OWN = ("clients", "calls", "rows", "pads", "refused", "bytes_in", "bytes_out", "busy_s")
TOTALS = (*OWN, "products", "shared_rows", "dropped")


@dataclass(frozen=True, slots=True)
class Quota:
    """What one client may ask for, and how long calls wait for company."""

    max_rows: int = 4096  # of a call, and of a product that several share
    max_waiting: int = 4  # calls of a client that wait
    max_self_test: int = 1 << 20  # elements of each array of a self-test
    window: float = 0.002  # seconds
    max_unsent: int = 8  # answers that a client has no room for; it is dropped with them
    reply: float = 5.0  # seconds that a client may take to make room for its answer
    max_refused: int = 64  # messages of a client that may be refused one after another
    greeting: float = 10.0  # seconds until a client must have said hello
    idle: float = 600.0  # seconds without a message, after which a link ends
    clients: int = 64  # at once
    each: int = 16  # of these may have one key, or be one user's where there are no keys


def new_counters() -> dict[str, float]:
    """What is counted for a client, all zero."""
    return dict.fromkeys(OWN, 0.0)


@dataclass(slots=True, eq=False)
class Client:
    """One link. Its counters are shared by all links with its key; without a key they are its own."""

    link: Link
    counters: dict[str, float]
    seen: float  # when it sent something last
    greeted: bool = False
    refused: int = 0  # messages since its last answer
    outbox: deque[Callable[[], bool]] = field(default_factory=deque)
    stuck: float = 0.0  # since when the first of these waits for room
