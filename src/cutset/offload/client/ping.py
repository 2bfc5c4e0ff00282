"""Is an accelerator there, is it the right one, how far away is it, and does its device multiply exactly?"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from cutset.kernels.reference_field import P, residue_product
from cutset.link.peer import Welcome
from cutset.offload.client.session import Session
from cutset.offload.messages import Capabilities

__all__ = ["Pinged", "ping", "self_test"]


@dataclass(frozen=True, slots=True)
class Pinged:
    """What came back. Times in seconds."""

    welcome: Welcome
    capabilities: Capabilities
    latency: float  # median of the round trips of a small message
    exact: bool
    counters: dict[str, float]


def ping(session: Session, times: int = 50) -> Pinged:
    """Asks an accelerator for its counters `times` times, and to multiply numbers that are made here."""
    trips = []
    for _ in range(times):
        started = time.perf_counter()
        counters = session.counters()
        trips.append(time.perf_counter() - started)
    latency = sorted(trips)[len(trips) // 2]
    return Pinged(session.welcome, session.capabilities, latency, self_test(session), counters)


def self_test(session: Session) -> bool:
    """The products of residues and integers, the extremes among them, are those that numpy computes here.

    Sizes are no multiples of anything, and one sum is as long as a large model's.
    """
    rng = np.random.default_rng()
    for outputs, depth, rows in ((1, 1, 1), (37, 61, 19), (64, 128, 32), (48, 11008, 17)):
        weight = rng.integers(-127, 128, (outputs, depth), dtype=np.int8)
        x = rng.integers(0, P, (rows, depth), dtype=np.uint32)
        q = rng.integers(-2047, 2048, (rows, depth), dtype=np.int16)
        if depth > 100:
            q //= 8  # so that sums fit in 32 bits for certain
        weight[0], x[0], q[0] = 127, P - 1, q.max()  # the largest sums
        residues, integers = session.self_test(weight, x, q)
        whole = q.astype(np.int64) @ weight.astype(np.int64).T
        if not (np.array_equal(residues, residue_product(x, weight)) and np.array_equal(integers, whole)):
            return False
    return True
