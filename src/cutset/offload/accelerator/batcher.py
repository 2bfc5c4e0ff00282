"""Which waiting calls are multiplied together, and when.

Rows of different clients at the same matrix share one product, which reads the weights once. Clients that decode go
through the matrices in the same order, so those that are behind are served first until they have caught up, and from
then on all come back for the same matrix at nearly the same time. Whoever was answered is waited for as long as the
window; nobody is overtaken for longer than PATIENCE; who got fewer rows so far goes first where not all fit.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

__all__ = ["PATIENCE", "Batcher", "Call"]

PATIENCE = 0.2  # seconds that a call may be overtaken by others: enough to catch up, once


@dataclass(slots=True, eq=False)
class Call:
    """A product that a client waits for."""

    client: Any  # hashable; what it is doesn't matter here
    number: int  # the client's own
    matrix: int
    masked: bool
    x: NDArray[Any]  # (rows, depth)
    arrived: float  # seconds of a monotonic clock

    @property
    def key(self) -> tuple[int, bool]:
        """Calls of one key can share a product."""
        return self.matrix, self.masked


@dataclass(slots=True)
class _Client:
    calls: deque[Call] = field(default_factory=deque)
    rows: int = 0  # multiplied so far
    answered: float = float("-inf")  # when it got its last answer
    next: tuple[int, bool] = (0, False)  # what it will want if it goes on


class Batcher:
    """The calls that wait, by client. Knows no links and no products; `now` is any monotonic clock in seconds."""

    def __init__(self, *, matrices: int, window: float, max_rows: int, max_waiting: int) -> None:
        self.matrices, self.window, self.max_rows, self.max_waiting = matrices, window, max_rows, max_waiting
        self._clients: dict[Any, _Client] = {}

    def __len__(self) -> int:
        return sum(len(client.calls) for client in self._clients.values())

    @property
    def clients(self) -> int:
        return len(self._clients)

    @property
    def complete(self) -> bool:
        """Every client waits for something: nobody else can bring company."""
        return all(client.calls for client in self._clients.values())

    def join(self, client: Any) -> None:
        """A newcomer starts level with who got least, so that it can't crowd the others out."""
        if client not in self._clients:
            least = min((other.rows for other in self._clients.values()), default=0)
            self._clients[client] = _Client(rows=least)

    def leave(self, client: Any) -> None:
        """Forgets a client and what it waited for."""
        self._clients.pop(client, None)

    def add(self, call: Call) -> bool:
        """False where this client has too many calls waiting already."""
        self.join(call.client)
        client = self._clients[call.client]
        if len(client.calls) >= self.max_waiting:
            return False
        client.calls.append(call)
        return True

    def answered(self, client: Any, now: float) -> None:
        """A client has its answer, and will be back soon if it goes on."""
        if client in self._clients:
            self._clients[client].answered = now

    def wait(self, now: float) -> float | None:
        """Seconds for which another call is worth waiting for: 0 to multiply now, None if nothing waits."""
        heads = [client.calls[0] for client in self._clients.values() if client.calls]
        if not heads:
            return None
        away = [client.answered for client in self._clients.values() if not client.calls]
        if not away or len(heads) >= self.max_rows:
            return 0.0
        meeting = self._meeting(now)
        if any(call.key != meeting for call in heads):
            return 0.0  # somebody has to catch up
        # Not beyond the window of the call that waits longest, however many come and go.
        end = min(max(away), min(call.arrived for call in heads)) + self.window
        return max(0.0, end - now)

    def take(self, now: float) -> list[Call]:
        """The calls of the next product, removed: those of one key, at most `max_rows` rows, one at least."""
        heads = [client.calls[0] for client in self._clients.values() if client.calls]
        if not heads:
            return []
        oldest = min(heads, key=lambda call: call.arrived)
        key, meeting = oldest.key, self._meeting(now)
        if now - oldest.arrived <= PATIENCE:
            behind = {call.key for call in heads} - {meeting}
            # Who has the fewest matrices to go joins soonest.
            key = min(behind, key=lambda one: ((meeting[0] - one[0]) % self.matrices, one)) if behind else meeting
        same = [call for call in heads if call.key == key]
        same.sort(key=lambda call: (self._clients[call.client].rows, call.arrived))
        batch: list[Call] = []
        rows = 0
        for call in same:
            if batch and rows + len(call.x) > self.max_rows:
                break
            batch.append(call)
            rows += len(call.x)
        for call in batch:
            client = self._clients[call.client]
            client.calls.popleft()
            client.rows += len(call.x)
            client.next = (call.matrix + 1) % self.matrices, call.masked
        return batch

    def _meeting(self, now: float) -> tuple[int, bool]:
        """The key at which most clients are, or will be when they come back; the others have to catch up."""
        company: dict[tuple[int, bool], tuple[int, float]] = {}
        for client in self._clients.values():
            since = client.calls[0].arrived if client.calls else client.answered
            if client.calls or now - since <= self.window:
                key = client.calls[0].key if client.calls else client.next
                count, first = company.get(key, (0, now))
                company[key] = count + 1, min(first, since)
        return max(company, key=lambda key: (company[key][0], -company[key][1]))
