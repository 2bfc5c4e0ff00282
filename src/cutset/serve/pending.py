"""Connections that only wait: how many one address may have, and which one goes when there are too many."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from cutset.errors import ConfigError

__all__ = ["PendingConnections", "networks"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
V6_PREFIX = 64  # whoever has one IPv6 address has a network of them


class Waiting(Protocol):
    """A connection that can be closed."""

    def drop(self) -> None:
        """Closes it."""


class PendingConnections:
    """Connections whose client has sent no whole request: head or body are missing, or the last one was answered.

    By address, the oldest first. An address has at most `most` of them, but for `proxies`, which connect for many.
    """

    def __init__(self, most: int, proxies: Sequence[str] = ()) -> None:
        self.most = most
        self._proxies = networks(proxies)
        self._waiting: dict[str, dict[Waiting, None]] = {}
        self._addresses: dict[Waiting, str] = {}
        self._group = lru_cache(4096)(_group)

    def join(self, one: Waiting, host: str) -> None:
        """It waits from now on, if it didn't before. The oldest one of its address goes if there are too many."""
        if one in self._addresses:
            return
        group = self._group(host, self._proxies)
        here = self._waiting.setdefault(group, {})
        here[one] = None
        self._addresses[one] = group
        if len(here) > self.most and group != PROXY:
            self._drop(group)

    def leave(self, one: Waiting) -> None:
        """It sent a request, or is closed."""
        group = self._addresses.pop(one, None)
        if group is not None:
            del self._waiting[group][one]
            if not self._waiting[group]:
                del self._waiting[group]

    def make_room(self) -> None:
        """The oldest one goes of the address that has most."""
        if self._waiting:
            self._drop(max(self._waiting, key=lambda group: len(self._waiting[group])))

    def _drop(self, group: str) -> None:
        oldest = next(iter(self._waiting[group]))
        self.leave(oldest)
        oldest.drop()


PROXY = "a named proxy"


def networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Addresses and networks, as 10.0.0.1 or 10.0.0.0/8. Raises ConfigError."""
    found = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise ConfigError(f"{text[:100]!r} is no address and no network of a proxy: {error}") from None
    return tuple(found)


def _group(host: str, proxies: tuple[Network, ...]) -> str:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    address = getattr(address, "ipv4_mapped", None) or address
    if any(address in network for network in proxies):
        return PROXY
    if address.version == 6:
        return str(ipaddress.ip_network((address, V6_PREFIX), strict=False))
    return str(address)
