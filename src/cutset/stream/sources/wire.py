"""Packets as two arrays, for a frame: all their bytes, and the length of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import FrameError

__all__ = ["joined", "split"]

MAX_PACKETS = 1 << 16
MAX_BYTES = 256 << 20


def joined(packets: Sequence[bytes]) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """Lengths and bytes."""
    return np.array([len(packet) for packet in packets], np.uint32), np.frombuffer(b"".join(packets), np.uint8)


def split(lengths: np.ndarray[Any, Any], data: np.ndarray[Any, Any]) -> tuple[bytes, ...]:
    """The packets. Raises FrameError for arrays that aren't such."""
    if lengths.dtype != np.uint32 or data.dtype != np.uint8 or lengths.ndim != 1 or data.ndim != 1:
        raise FrameError("packets are sent as their lengths (uint32) and their bytes (uint8)")
    if lengths.size > MAX_PACKETS or data.size > MAX_BYTES:
        raise FrameError(f"{lengths.size} packets of {data.size} bytes are more than {MAX_PACKETS} of {MAX_BYTES}")
    sizes = lengths.astype(np.int64).tolist()  # a private copy: they may lie in memory that the other side writes to
    whole = data.tobytes()
    if sum(sizes) != len(whole):
        raise FrameError(f"packets of {sum(sizes)} bytes in {len(whole)}")
    packets, at = [], 0
    for size in sizes:
        packets.append(whole[at : at + size])
        at += size
    return tuple(packets)
