"""The small part of a cluster's scheduler that the driver uses: Ray has it, and tests have one without Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cutset.cluster.launch.party_needs import Needs

__all__ = ["PartyCluster", "PartyEvent"]


@dataclass(frozen=True)
class PartyEvent:
    """What became of an attempt. `place`: where the party is, once it is there; without: it is gone, and `why`."""

    attempt: Any
    place: Mapping[str, Any] | None = None
    why: str = ""


class PartyCluster(Protocol):
    """The small part of Ray that is used; an attempt is one actor, from its making to its end."""

    def open(self, order: Mapping[str, Any]) -> str:
        """Connects to the cluster that `order` names, or starts one: its head's address. Raises CutsetError."""

    def reserve(self, needs: Mapping[str, Needs], seconds: float) -> str:
        """Finds places for these parties by name, spread over the nodes: "" or, after so many seconds, what is free.
        With 0 seconds it waits for nothing, and they have their places when there is room. Raises CutsetError."""

    def release(self, name: str) -> None:
        """Gives back the place of a party that was reserved by itself."""

    def begin(self, name: str, order: Mapping[str, Any]) -> Any:
        """Starts the party that has a place by this name: an attempt. Waits for nothing."""

    def wait(self, attempts: Sequence[Any], seconds: float) -> Sequence[PartyEvent]:
        """What became of them, as soon as there is something."""

    def end(self, attempt: Any) -> None:
        """Ends an attempt at once, wherever it is."""

    def free(self) -> str:
        """What is free on each node, in words."""

    def close(self) -> None:
        """Gives back all places, and ends a cluster that `open` started."""
