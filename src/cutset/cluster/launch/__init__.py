"""What starts workers somewhere, says where they are, notices when they end, and starts others.

local.py         processes on this machine
given.py         workers that somebody else started
ray_launcher.py  actors of a Ray cluster, each of which starts a worker as its child
supervisor.py    starts those again that have ended
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from cutset.cluster.model import Model

__all__ = ["Launcher"]


class Launcher(Protocol):
    """Workers that it has started somewhere, and ends: however this process ends, none of them stays behind."""

    @property
    def names(self) -> Sequence[str]:
        """Of the workers, in their order."""

    @property
    def addresses(self) -> Mapping[str, tuple[str, bytes | None]]:
        """Name to address and public key (None: it needs none), as a coordinator takes them."""

    def locate(self, name: str) -> tuple[str, bytes | None]:
        """Where a worker is now, and its key: one that was started again may be elsewhere, with another one. From any
        thread. Raises LinkError, with the reason, while it is nowhere."""

    def ended(self) -> Mapping[str, str]:
        """Workers that run no longer and that nobody has started again, and why; from any thread."""

    def start(self, name: str) -> None:
        """Starts a worker that has ended again: here, or where there is room. Doesn't wait until it is there."""

    def stock(self, model: Model) -> None:
        """Puts a model's weights where the workers find them, so that nothing has to be sent; or does nothing."""

    def close(self) -> None:
        """Ends the workers and takes away what they left. A second call does nothing."""
