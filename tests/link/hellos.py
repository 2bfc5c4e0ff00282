"""Hellos by hand, for tests that speak to a party message by message."""

from __future__ import annotations

from typing import Any

from cutset.link.peer import Hello, Protocol, Welcome

__all__ = ["hello", "welcome"]


def hello(protocol: Protocol, /, **changes: Any) -> Hello:
    """What a peer says that wants nothing in particular."""
    fields: dict[str, Any] = {
        "protocol": protocol.name,
        "version": protocol.version,
        "software": "a test",
        "model": "",
        "nonce": bytes(16),
        "about": b"",
        "asks": False,
        "evidence": b"",
    }
    return Hello(**fields | changes)


def welcome(protocol: Protocol, about: bytes = b"", /, **changes: Any) -> Welcome:
    """The same in answer."""
    fields: dict[str, Any] = {
        "protocol": protocol.name,
        "version": protocol.version,
        "software": "a test",
        "model": "",
        "nonce": bytes(16),
        "about": about,
        "evidence": b"",
    }
    return Welcome(**fields | changes)
