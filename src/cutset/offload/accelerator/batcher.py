"""Which waiting calls are multiplied together, and when.

Rows of different clients at the same matrix share one product, which reads the weights once. That is worth a short
wait: a decoding client comes back for the next matrix in a fraction of a millisecond. Nobody waits longer than the
window, and who got fewer rows so far goes first.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

__all__ = ["Batcher", "Call"]


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
    seen: float = 0.0  # when its last call arrived


class Batcher:
    """The calls that wait, by client. Knows no links and no products; `now` is any monotonic clock in seconds."""

    def __init__(self, *, window: float, max_rows: int, max_waiting: int) -> None:
        self.window, self.max_rows, self.max_waiting = window, max_rows, max_waiting
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
        client.seen = call.arrived
        return True

    def wait(self, now: float) -> float | None:
        """Seconds for which another call is worth waiting for: 0 to multiply now, None if nothing waits."""
        heads = [client.calls[0] for client in self._clients.values() if client.calls]
        if not heads:
            return None
        # Whoever called lately and waits for nothing is on its way back.
        lately = now - 4 * self.window
        away = sum(1 for client in self._clients.values() if not client.calls and client.seen > lately)
        if not away or len(heads) >= self.max_rows:
            return 0.0
        return max(0.0, min(call.arrived for call in heads) + self.window - now)

    def take(self, now: float) -> list[Call]:
        """The calls of the next product, removed: those of one key, at most `max_rows` rows, one at least."""
        heads = [client.calls[0] for client in self._clients.values() if client.calls]
        if not heads:
            return []
        late = [call for call in heads if now - call.arrived > 2 * self.window]
        if late:  # fairness before company
            key = min(late, key=lambda call: call.arrived).key
        else:
            company: dict[tuple[int, bool], int] = {}
            for call in heads:
                company[call.key] = company.get(call.key, 0) + 1
            # Most company; among equals who is furthest behind in the model, so that others can be caught up with.
            key = min(company, key=lambda one: (-company[one], one))
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
        return batch
