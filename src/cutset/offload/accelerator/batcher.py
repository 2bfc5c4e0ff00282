"""Which waiting calls are multiplied together, and when.

Rows of different clients at the same matrix share one product, which reads the weights once. Clients that decode go
through the matrices in the same order, so those that are behind are served first until they have caught up, and from
then on all come back for the same matrix at nearly the same time. Whoever was answered is waited for as long as the
window; nobody is overtaken for longer than PATIENCE.

Clients that decode and those with many rows a call have the machine by turns. A product of another client's rows leaves
caches cold, here and at the client: where each call of one row is followed by a product of hundreds, the machine is
shared fairly by time, and half of that time goes into filling caches again. So a client that comes back soon, with few
rows (*steady*), goes on until it has used a quantum more than those with many rows, and rests until they are level with
it; while it computes it is waited for (anticipatory scheduling), and that time is charged to it. The quantum grows with
the number of those it waits for afterwards.

All of that is among clients that used this machine for about as long as each other: whoever used it for SLICE longer
than the one with least gets no more for now. A client that was just answered counts among them for HOLD in which it
could have been heard, and while nothing is multiplied for its sake that time is charged to it, until it is level with
those who wait: so a client that decodes, a row at a time with pauses, gets its share beside one that has hundreds of
rows waiting. For the same reason calls of many rows are multiplied in pieces. Who doesn't take its answers is *held*:
it gets nothing, and nobody waits for it. Dialling again forgives nothing: what a client had used beyond its share
when it left is owed by the next newcomer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from numpy.typing import NDArray

__all__ = ["HOLD", "LEAST_ROWS", "PATIENCE", "SLICE", "Batcher", "Call", "quantum"]

PATIENCE = 0.2  # seconds that a call may be overtaken by others: enough to catch up, once
SLICE = 0.005  # seconds that one product takes, about, while several clients want some
HOLD = 0.01  # seconds for which a client that is owed work is waited for
ALONE_SLICES = 32  # at once, while nobody else wants anything
MOST_SLICES = 4  # of a quantum
LEAST_ROWS = 16  # that are never split
LEAST_WAIT = 1e-6  # seconds
MOST_OWED = 0.1  # seconds with which a newcomer may begin: what one link can cost in work that nobody else wanted
MOST_OWING = 64  # clients that left, of which that is kept
SPEED = 2.0**34  # rows times their cost a second, until that was measured


@dataclass(slots=True, eq=False)
class Call:
    """A product that a client waits for."""

    client: Any  # hashable; what it is doesn't matter here
    number: int  # the client's own
    matrix: int
    masked: bool
    x: NDArray[Any]  # (rows, depth)
    arrived: float  # seconds of a monotonic clock
    first: int = 0  # the rows that were taken last
    count: int = 0
    z: NDArray[Any] | None = None  # (rows, outputs), where they are multiplied in several pieces
    seconds: float = 0.0  # that its products took
    charged: float = 0.0  # seconds, for the rows that were taken last: an estimate

    @property
    def key(self) -> tuple[int, bool]:
        """Calls of one key can share a product."""
        return self.matrix, self.masked

    @property
    def taken(self) -> int:
        return self.first + self.count

    @property
    def finished(self) -> bool:
        """All rows were taken."""
        return self.taken == len(self.x)


@dataclass(slots=True)
class _Client:
    calls: deque[Call] = field(default_factory=deque)
    used: float = 0.0  # seconds of this machine so far
    answered: float = float("-inf")  # when it got its last answer
    spent: float = 0.0  # seconds that this machine had worked for all clients by then
    next: tuple[int, bool] = (0, False)  # what it will want if it goes on
    held: bool = False
    busy: bool = False
    steady: bool = False  # its last call came while it was waited for
    many: bool = False  # rows, of the call that was taken last
    owed: float = 0.0  # seconds that one who left before this one came had used beyond what a newcomer begins with
    last: int | None = None  # the call that was taken last, all of it
    arrived: float = 0.0  # when it came

    @property
    def long(self) -> bool:
        """What it waits for, or had last if it waits for nothing, keeps the machine for a while."""
        return len(self.calls[0].x) > LEAST_ROWS if self.calls else self.busy or self.many

    @property
    def waits(self) -> bool:
        return bool(self.calls) or self.busy


def quantum(waiting: int) -> float:
    """Seconds for which steady clients have the machine, then each of those `waiting` with many rows: the more there
    are, the longer caches have to be worth filling, up to a round of PATIENCE."""
    return SLICE * max(1.0, min((waiting + 3) / 2, MOST_SLICES, PATIENCE / (waiting * SLICE)))


class _Turn(NamedTuple):
    """Whose turn it is."""

    most: float | None  # the longest that a client may have used this machine and get more now; None for any
    steady: bool = False  # those with many rows rest
    many: bool = False  # steady ones rest
    length: float = 0.0  # seconds, the quantum that counts

    def rests(self, client: _Client) -> bool:
        return (self.steady and client.long) or (self.many and client.steady and not client.long)

    def allows(self, client: _Client) -> bool:
        within = self.most is None or client.used <= self.most
        return not client.held and within and not self.rests(client)


class Batcher:
    """The calls that wait, by client. Knows no links and no products; `now` is any monotonic clock in seconds."""

    def __init__(
        self, *, matrices: int, window: float, max_rows: int, max_waiting: int, costs: Sequence[int] = ()
    ) -> None:
        """costs: of a row of each matrix, in multiplications; 1 where there are none."""
        self.matrices, self.window, self.max_rows, self.max_waiting = matrices, window, max_rows, max_waiting
        self.speed = SPEED
        self._costs = list(costs)
        self._hold = max(window, HOLD)
        self._clients: dict[Any, _Client] = {}
        self._owed: list[float] = []  # by clients that left, in ascending order
        self._now = 0.0  # as it was given last
        self._spent = 0.0  # seconds that this machine worked, in which nobody was heard
        self._steady = False  # steady clients have the machine, until they are a quantum ahead
        self._idle: float | None = None  # since when nothing is multiplied, for clients that are owed work

    def __len__(self) -> int:
        return sum(len(client.calls) for client in self._clients.values())

    @property
    def clients(self) -> int:
        return len(self._clients)

    @property
    def complete(self) -> bool:
        """Every client waits for something: nobody else can bring company."""
        return all(client.held or client.calls for client in self._clients.values())

    def cost(self, matrix: int) -> int:
        """Of a row."""
        return self._costs[matrix] if matrix < len(self._costs) else 1

    def join(self, client: Any) -> None:
        """A newcomer starts level with who got least, so that it can't starve the others, or with what is owed."""
        if client not in self._clients:
            least = min((other.used for other in self._clients.values()), default=0.0)
            self._clients[client] = _Client(used=least, owed=self._owed.pop() if self._owed else 0.0)

    def leave(self, client: Any) -> None:
        """Forgets a client and what it waited for, but not what it owes to the others."""
        gone = self._clients.pop(client, None)
        most = self._limit(self._now)
        if not self._clients:
            self._owed.clear()
        elif gone is not None and most is not None and (owed := gone.used + 2 * SLICE - most) > 0:
            self._owed = sorted([*self._owed, min(owed, MOST_OWED)])[-MOST_OWING:]

    def known(self, client: Any, number: int, now: float) -> bool:
        """Whether a call waits, is multiplied, or was answered so recently that it must have been sent again before."""
        one = self._clients.get(client)
        if one is None:
            return False
        if any(call.number == number for call in one.calls):
            return True
        running = one.answered < one.arrived
        return number == one.last and (running or now - one.answered <= one.answered - one.arrived)

    def has_room(self, client: Any) -> bool:
        """Whether a client may have another call waiting."""
        return client not in self._clients or len(self._clients[client].calls) < self.max_waiting

    def add(self, call: Call) -> bool:
        """False where this client has too many calls waiting already."""
        self.join(call.client)
        client = self._clients[call.client]
        if not self.has_room(call.client):
            return False
        self._now = call.arrived
        self._settle(call.arrived)
        client.steady = self._contends(client, call.arrived)
        if not client.steady:
            self._forfeit(client)
        client.calls.append(call)
        return True

    def answered(self, client: Any, now: float) -> None:
        """A client has its answer, and will be back soon if it goes on."""
        self._now = now
        if (one := self._clients.get(client)) is not None:
            one.answered, one.spent = now, self._spent

    def drop(self, client: Any, number: int) -> None:
        """What is left of a call isn't wanted any more."""
        calls = self._clients[client].calls if client in self._clients else deque[Call]()
        if calls and calls[0].number == number:
            calls.popleft()

    def hold(self, client: Any, held: bool) -> None:
        """A client doesn't take its answers: none of its calls are taken until it does."""
        one = self._clients.get(client)
        if one is not None and one.held != held:
            if not held:
                self._forfeit(one)
            one.held = held

    def busy(self, client: Any, waits: bool) -> None:
        """A client waits for work of another kind too, which is charged like rows."""
        if (one := self._clients.get(client)) is not None:
            if waits and not self._contends(one, self._now):
                self._forfeit(one)
            one.busy = waits

    def charge(self, client: Any, seconds: float, elsewhere: float = 0.0) -> None:
        """A client used this machine for other work, or for longer than it was charged for. elsewhere: seconds of other
        threads than the one that hears clients."""
        self._spent += seconds
        if client in self._clients:
            self._clients[client].used += seconds + elsewhere

    def may(self, client: Any, now: float) -> bool:
        """Whether it is a client's turn."""
        return client in self._clients and self._turn(now).allows(self._clients[client])

    def wait(self, now: float) -> float | None:
        """Seconds for which another call is worth waiting for: 0 to multiply now, None if nothing waits."""
        self._now = now
        self._settle(now)
        turn = self._begin_turn(now)
        free = [client for client in self._clients.values() if not client.held]
        heads = [client.calls[0] for client in free if client.calls and turn.allows(client)]
        if not heads:
            if not any(client.calls for client in free):
                return None
            self._idle = now
            away = [c for c in free if not c.calls and not c.busy and self._contends(c, now)]
            ends = [c.answered + self._spent - c.spent + self._hold for c in away]
            owed = self._waited_for(now)  # until the first of them has had so much that somebody else may go on
            near = 0.0 if turn.steady else SLICE
            ends += [now + (left - near) * len(owed) for _, left in owed if left > near]
            return max(LEAST_WAIT, min([now + self._hold, *ends]) - now)
        last = [client.answered for client in free if not client.calls]
        if not last or len(heads) >= self.max_rows:
            return 0.0
        meeting = self._meeting(now, turn)
        if any(call.key != meeting for call in heads):
            return 0.0  # somebody has to catch up
        # Not beyond the window of the call that waits longest, however many come and go.
        end = min(max(last), min(call.arrived for call in heads)) + self.window
        if end > now:
            self._idle = now
        return max(0.0, end - now)

    def take(self, now: float) -> list[Call]:
        """The calls of the next product, with the rows that are taken of each: of one key, and together at most
        `max_rows` rows. A call is removed once all of its rows were taken."""
        self._settle(now)
        turn = self._begin_turn(now)
        heads = [c.calls[0] for c in self._clients.values() if c.calls and turn.allows(c)]
        if not heads:
            return []
        oldest = min(heads, key=lambda call: call.arrived)
        key, meeting = oldest.key, self._meeting(now, turn)
        if now - oldest.arrived <= PATIENCE:
            behind = {call.key for call in heads} - {meeting}
            # Who has the fewest matrices to go joins soonest.
            key = min(behind, key=lambda one: ((meeting[0] - one[0]) % self.matrices, one)) if behind else meeting
        same = [call for call in heads if call.key == key]
        same.sort(key=lambda call: (self._clients[call.client].used, call.arrived))
        batch: list[Call] = []
        rows, room = 0, self._piece(key[0], now)
        for call in same:
            left = len(call.x) - call.taken
            if batch and rows + left > room:
                break
            call.first, call.count = call.taken, min(left, room)
            rows += call.count
            batch.append(call)
        for call in batch:
            client = self._clients[call.client]
            call.charged = call.count * self.cost(call.matrix) / self.speed
            client.used += call.charged
            self._spent += call.charged
            client.many = len(call.x) > LEAST_ROWS
            client.next = (call.matrix + 1) % self.matrices, call.masked
            if call.finished:
                client.last, client.arrived = call.number, call.arrived
                client.calls.popleft()
        return batch

    def _contends(self, client: _Client, now: float) -> bool:
        """Whether a client wants something, or will in a moment if it goes on."""
        away = now - client.answered - (self._spent - client.spent)  # it may have asked while nobody heard it
        return not client.held and (bool(client.calls) or client.busy or away <= self._hold)

    def _forfeit(self, client: _Client) -> None:
        """Who was away or took no answers has saved nothing up, and a newcomer may owe something."""
        most = self._limit(self._now)
        if most is not None:
            client.used = max(client.used, most - 2 * SLICE + client.owed)
        client.owed = 0.0

    def _limit(self, now: float) -> float | None:
        """The longest that a client may have used this machine and get more: a slice more than the contender with
        least."""
        return min((c.used + SLICE for c in self._clients.values() if self._contends(c, now)), default=None)

    def _turn(self, now: float) -> _Turn:
        """Whose turn it is, if nobody's ends before."""
        there = [c for c in self._clients.values() if self._contends(c, now)]
        steady = [c.used for c in there if c.steady and not c.long]
        many = [c.used for c in there if c.long and c.waits]
        if not steady or not many:
            return _Turn(self._limit(now))
        length = quantum(len(many))
        ahead = min(steady) - min(many)
        mine = ahead < length if self._steady else ahead <= 0
        turn = _Turn(None, mine, not mine, length)
        return turn._replace(most=min(c.used for c in there if not turn.rests(c)) + SLICE)

    def _begin_turn(self, now: float) -> _Turn:
        turn = self._turn(now)
        self._steady = turn.steady
        return turn

    def _settle(self, now: float) -> None:
        """Charges the time in which nothing was multiplied to those for whom that was, until they are level: beyond
        that they would be ahead of whoever waited for them, and the two would wait for each other in turns."""
        since, self._idle = self._idle, None
        if since is None or now <= since:
            return
        owed = self._waited_for(since)
        for client, left in owed:
            client.used += min((now - since) / len(owed), left)

    def _waited_for(self, since: float) -> list[tuple[_Client, float]]:
        """Those for whose sake calls of others wait, and seconds that each has used less than any of these."""
        turn = self._turn(since)
        more = turn.length if turn.steady else 0.0  # until those go on who rest
        waiting = [c for c in self._clients.values() if c.calls and not c.held]
        ahead = min((c.used + (more if turn.rests(c) else 0.0) for c in waiting), default=float("inf"))
        return [
            (client, ahead - client.used)
            for client in self._clients.values()
            if not client.waits and not turn.rests(client) and self._contends(client, since) and client.used < ahead
        ]

    def _piece(self, matrix: int, now: float) -> int:
        """How many rows a product with a matrix may have, so that nobody waits for long."""
        active = [
            client
            for client in self._clients.values()
            if not client.held and (client.calls or client.busy or now - client.answered <= PATIENCE)
        ]
        rows = int(self.speed * (SLICE * ALONE_SLICES if len(active) <= 1 else SLICE) / max(1, self.cost(matrix)))
        return min(self.max_rows, max(LEAST_ROWS, rows))

    def _meeting(self, now: float, turn: _Turn) -> tuple[int, bool]:
        """The key at which most clients are, or will be when they come back; the others have to catch up."""
        company: dict[tuple[int, bool], tuple[int, float]] = {}
        for client in self._clients.values():
            if client.held or turn.rests(client):
                continue
            since = client.calls[0].arrived if client.calls else client.answered
            if client.calls or now - since <= self.window:
                key = client.calls[0].key if client.calls else client.next
                count, first = company.get(key, (0, now))
                company[key] = count + 1, min(first, since)
        return max(company, key=lambda key: (company[key][0], -company[key][1]))
