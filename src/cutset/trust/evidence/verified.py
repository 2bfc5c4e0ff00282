"""What verification leaves of a quote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["VerifiedQuote"]


@dataclass(frozen=True, slots=True)
class VerifiedQuote:
    """report_data: 64 bytes. shown: measurements by name, as texts. status, advisories: of the platform's TCB.
    confidential: whether the kind of evidence means anything."""

    kind: str
    report_data: bytes
    shown: Mapping[str, str]
    status: str
    advisories: tuple[str, ...]
    confidential: bool
