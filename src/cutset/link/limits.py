"""How long a link waits, and how much it takes."""

from __future__ import annotations

from dataclasses import dataclass, fields

from cutset.errors import ConfigError

__all__ = ["Limits", "Timeouts"]

MAX_SECONDS = 24 * 3600.0
MAX_FRAME = 1 << 34
MAX_RING = 1 << 30
MIN_RING = 1 << 16


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; each has an end. A call's own `timeout` goes before `send` and `recv`."""

    connect: float = 5.0  # until the other side answers for the first time
    send: float = 30.0  # until there is room for a frame
    recv: float = 30.0  # until a frame comes
    spin: float = 50e-6  # of a wait in shared memory, before it sleeps; 0 where cores are few
    first: float = MAX_SECONDS  # that a listener waits for a client's first frame, before it ends the link

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_SECONDS:
                raise ConfigError(
                    f"Timeouts.{entry.name} must be between 0 and {MAX_SECONDS:.0f} seconds, not {value!r}"
                )


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes and counts. `ring` is the client's choice, each way; a listener takes rings of up to its own `max_ring`."""

    frame: int = 1 << 30  # bytes of a frame, header and arrays
    ring: int = 8 << 20  # bytes; a frame of up to half of it is received in place
    max_ring: int = 256 << 20
    queue: int = 8  # frames that wait for each client, where the link has no ring
    clients: int = 64  # of one listener
    each: int = 64  # of these may belong to one key, or, where there are no keys, to one user

    def __post_init__(self) -> None:
        bounds = {
            "frame": (1 << 10, MAX_FRAME),
            "ring": (MIN_RING, MAX_RING),
            "max_ring": (MIN_RING, MAX_RING),
            "queue": (1, 1 << 16),
            "clients": (1, 1024),
            "each": (1, 1024),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ConfigError(f"Limits.{name} must be a whole number between {low} and {high}, not {value!r}")
