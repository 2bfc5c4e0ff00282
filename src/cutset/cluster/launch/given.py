"""Workers that somebody else started, at addresses that were given."""

from __future__ import annotations

from collections.abc import Mapping

from cutset.cluster.model import Model
from cutset.errors import ConfigError

__all__ = ["GivenAddresses"]


class GivenAddresses:
    """A launcher that starts nobody: whoever started these workers ends them, and starts them again at their address
    and with their key."""

    def __init__(self, addresses: Mapping[str, tuple[str, bytes | None]]) -> None:
        self._addresses = dict(addresses)

    @property
    def names(self) -> list[str]:
        """See Launcher."""
        return list(self._addresses)

    @property
    def addresses(self) -> dict[str, tuple[str, bytes | None]]:
        """See Launcher."""
        return dict(self._addresses)

    def locate(self, name: str) -> tuple[str, bytes | None]:
        """See Launcher: where it always was."""
        return self._addresses[name]

    def ended(self) -> dict[str, str]:
        """See Launcher: only whoever started them knows; a coordinator notices by its links."""
        return {}

    def start(self, name: str) -> None:
        """See Launcher. Raises ConfigError."""
        raise ConfigError(f"{name} was started elsewhere: start it there again, at its address and with its key")

    def stock(self, model: Model) -> None:
        """See Launcher: they are elsewhere."""

    def close(self) -> None:
        """See Launcher: they go on, and wait for the next coordinator."""
