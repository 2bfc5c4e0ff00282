"""What starts workers somewhere and returns their addresses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from cutset.cluster.model import Model

__all__ = ["Launcher"]


class Launcher(Protocol):
    """Workers that it has started somewhere, and ends: however this process ends, none of them stays behind."""

    @property
    def addresses(self) -> Mapping[str, tuple[str, bytes | None]]:
        """Name to address and public key (None: it needs none), as a coordinator takes them."""

    def stock(self, model: Model) -> None:
        """Puts a model's weights where the workers find them, so that nothing has to be sent; or does nothing."""

    def close(self) -> None:
        """Ends the workers and takes away what they left. A second call does nothing."""
