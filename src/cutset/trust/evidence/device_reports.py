"""Reports of devices beside a quote. The quote's report data have their digest, and each device was asked with a nonce
made of what the quote would be bound to without them.

A device's report alone says nothing of the program that asked for it: whoever has such a device can ask it. With the
quote of the program that did, which is bound to the same channel, it is that program's device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Literal, Protocol

import msgspec

from cutset.trust.evidence.statement import sequence

__all__ = ["MOST_DEVICES", "DeviceProvider", "DeviceReport", "device_nonce", "devices_digest"]

LABEL, NONCE_LABEL = b"cutset device reports 1", b"cutset device nonce 1"
MOST_DEVICES = 16
Certificate = Annotated[bytes, msgspec.Meta(min_length=1, max_length=4 << 10)]


class DeviceReport(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """`report`: as the device has signed it. `certificates`: DER, the device's own first, the root last."""

    kind: Literal["nvidia"]
    report: Annotated[bytes, msgspec.Meta(min_length=1, max_length=16 << 10)]
    certificates: Annotated[list[Certificate], msgspec.Meta(min_length=2, max_length=8)]


class DeviceProvider(Protocol):
    """Asks the devices of this machine."""

    def reports(self, nonce: bytes) -> list[DeviceReport]:
        """One of each device, made for these 32 bytes. Any thread may ask. Raises ConfigError."""


def device_nonce(report_data: bytes) -> bytes:
    """32 bytes for the devices, by the 64 that the quote would carry without them."""
    return hashlib.sha256(NONCE_LABEL + report_data).digest()


def devices_digest(reports: Sequence[DeviceReport]) -> bytes:
    """32 bytes; none where there are no devices."""
    if not reports:
        return b""
    parts = (sequence(one.kind.encode(), one.report, *one.certificates) for one in reports)
    return hashlib.sha256(sequence(LABEL, *parts)).digest()
