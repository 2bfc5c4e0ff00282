"""The calls that wait for a product, as far as all loops of an accelerator know them."""

from __future__ import annotations

from typing import Protocol

from cutset.link import Link
from cutset.offload.accelerator.batcher import Call

__all__ = ["CallQueue"]


class CallQueue(Protocol):
    """The waiting calls of clients who have said hello, and what each client used. `Batcher` documents the policy, and
    is one itself; `ring_accelerator.py` has one whose calls wait in native code. `now` is a monotonic clock in seconds.
    """

    speed: float  # rows times their cost that are multiplied in a second

    def __len__(self) -> int: ...

    @property
    def clients(self) -> int:
        """How many have said hello."""

    def cost(self, matrix: int) -> int:
        """Of a row, in multiplications."""

    def join(self, client: Link) -> None:
        """A client that has said hello."""

    def leave(self, client: Link) -> None:
        """Forgets a client and what it waited for."""

    def has_room(self, client: Link) -> bool:
        """Whether a client may have another call waiting."""

    def known(self, client: Link, number: int, now: float) -> bool:
        """Whether a call is here, or was answered so recently that it must have been sent again before."""

    def add(self, call: Call) -> bool:
        """False where its client has too many calls waiting already."""

    def answered(self, client: Link, now: float) -> None:
        """A client has its answer."""

    def hold(self, client: Link, held: bool) -> None:
        """A client doesn't take its answers: none of its calls are taken until it does."""

    def busy(self, client: Link, waits: bool) -> None:
        """A client waits for work of another kind too."""

    def charge(self, client: Link, seconds: float, elsewhere: float = 0.0) -> None:
        """A client used this machine; `elsewhere`: in a thread that isn't the one that asks."""

    def may(self, client: Link, now: float) -> bool:
        """Whether it is a client's turn."""
