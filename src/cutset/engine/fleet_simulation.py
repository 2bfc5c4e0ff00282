"""Many groups of machines, each with all of a model in stages, under load while machines fail: event by event.

A group is what `StagePlanner` says of it: seconds of a token alone, of a prompt, tokens a second of all its sequences.
With n sequences a token takes the longer one of what it takes alone and n over the group's rate. When a machine fails,
its group stands still until that is noticed and a spare, or the machine itself once it is back, has its layers; then
what ran is computed again, as it is after a failover. Requests go to the group with the fewest.

Failures are rare beside requests, so there are two runs: `run_fleet` of requests, with the failures that happen to
come, and `run_failures` of very many of these, without requests.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cutset.engine.fleet_scenario import FleetServing

__all__ = ["FailureRun", "FleetGroup", "FleetRun", "run_failures", "run_fleet"]

Floats = NDArray[np.float64]
ARRIVE, FINISH, FAIL, UP, BACK = range(5)
FAILURES = 2000  # that are simulated


@dataclass(frozen=True)
class FleetGroup:
    """What one group does. Seconds; `load`: until another machine has a stage's layers."""

    machines: int
    slots: int  # sequences at a time
    token: float  # of one sequence alone
    first: float  # of a prompt, until its first token
    rate: float  # tokens a second of all sequences
    load: float


@dataclass(frozen=True)
class FleetRun:
    """What came of it. Seconds."""

    arrivals: Floats  # (requests,)
    whole: Floats  # (requests,) from a request to its last token
    waited: Floats  # (requests,) until a group took it
    failures: int  # machines that failed in a group
    again: int  # sequences that were computed again

    def served(self, answer: int) -> float:
        """Tokens a second in the second half, with so many to each request; of few requests, of all of them."""
        ends, last = self.arrivals + self.whole, float(self.arrivals[-1])
        if last < 4 * float(np.median(self.whole)):
            return len(ends) * answer / float(ends.max())
        return float(((ends > last / 2) & (ends <= last)).sum()) * answer / (last / 2)


@dataclass(frozen=True)
class FailureRun:
    """What failures do to the groups. Seconds."""

    seconds: float  # that were simulated
    failures: int
    by_spare: int  # of these, those for which a spare stood by
    up: float  # share of the groups' time in which they ran
    outage: float  # for which a group stands still, in the mean
    worst: int  # groups that stood still at once, at most


def run_failures(group: FleetGroup, groups: int, serving: FleetServing) -> FailureRun:
    """Machines fail, each by itself, and come back."""
    if not serving.mtbf:
        return FailureRun(0.0, 0, 0, 1.0, 0.0, 0)
    random = np.random.default_rng(serving.seed + 1)
    gaps = random.exponential(serving.mtbf / (groups * group.machines), FAILURES)
    who = random.integers(0, groups, FAILURES).tolist()
    events = [(when, FAIL, which) for when, which in zip(np.cumsum(gaps).tolist(), who, strict=True)]
    heapq.heapify(events)
    down, since, lacking = [0] * groups, [0.0] * groups, list[int]()
    spares, by_spare, lost, outages, worst, still, now = serving.spares, 0, 0.0, 0, 0, 0, 0.0
    while events:
        now, kind, which = heapq.heappop(events)
        if kind == FAIL:
            heapq.heappush(events, (now + serving.restart, BACK, which))
            if not down[which]:
                since[which], still = now, still + 1
                worst = max(worst, still)
            down[which] += 1
            if spares:
                spares, by_spare = spares - 1, by_spare + 1
                heapq.heappush(events, (now + serving.detect + group.load, UP, which))
            else:
                lacking.append(which)
        elif kind == BACK and lacking:
            heapq.heappush(events, (now + group.load, UP, lacking.pop(0)))
        elif kind == BACK:
            spares += 1
        else:
            down[which] -= 1
            if not down[which]:
                lost, outages, still = lost + now - since[which], outages + 1, still - 1
    return FailureRun(now, FAILURES, by_spare, 1 - lost / (now * groups), lost / outages, worst)


@dataclass
class _State:
    group: FleetGroup
    work: float = 0.0  # tokens that each of its sequences has got since the beginning
    since: float = 0.0  # when that was
    down: int = 0  # machines that it lacks
    version: int = 0
    running: list[tuple[float, int]] = field(default_factory=list)  # by the work at which each ends

    def pace(self) -> float:
        """Tokens a second of each sequence."""
        if self.down or not self.running:
            return 0.0
        return 1.0 / max(self.group.token, len(self.running) / self.group.rate)

    def advance(self, now: float) -> None:
        """Brings the work up to date; to be called before anything changes."""
        self.work += (now - self.since) * self.pace()
        self.since = now

    def next_end(self) -> float:
        """When the next sequence ends, if nothing changes."""
        pace = self.pace()
        return math.inf if pace == 0 else self.since + max(self.running[0][0] - self.work, 0.0) / pace


def run_fleet(group: FleetGroup, groups: int, serving: FleetServing) -> FleetRun:
    """Serves `serving.count` requests that come at random, and ends with the last of them."""
    random = np.random.default_rng(serving.seed)
    arrivals = np.cumsum(random.exponential(1 / serving.requests, serving.count))
    states = [_State(group) for _ in range(groups)]
    counts = np.zeros(groups, dtype=np.int64)  # of sequences; out of reach while a group stands still
    whole, waited = np.full(serving.count, math.nan), np.zeros(serving.count)
    queue: list[int] = []  # requests, the last one first
    events: list[tuple[float, int, int, int, int]] = []  # time, number, kind, group or request, version
    number = failures = again = done = 0
    spares, lacking = serving.spares, list[int]()  # groups that wait for a machine
    away = 1 << 40

    def push(when: float, kind: int, which: int, version: int = 0) -> None:
        nonlocal number
        number += 1
        heapq.heappush(events, (when, number, kind, which, version))

    def fail_next(now: float, which: int) -> None:
        if serving.mtbf:
            push(now + random.exponential(serving.mtbf / group.machines), FAIL, which)

    def replan(which: int) -> None:
        state = states[which]
        state.version += 1
        if (end := state.next_end()) < math.inf:
            push(end, FINISH, which, state.version)

    def begin(now: float) -> None:
        while queue:
            which = int(np.argmin(counts))
            if counts[which] >= group.slots:
                return
            request = queue.pop(0)
            waited[request] = now - arrivals[request]
            state = states[which]
            state.advance(now)
            work = serving.answer - 1 + group.first / max(group.token, 1e-12)
            heapq.heappush(state.running, (state.work + work, request))
            counts[which] += 1
            replan(which)

    for request, when in enumerate(arrivals.tolist()):
        push(when, ARRIVE, request)
    for which in range(groups):
        fail_next(0.0, which)
    now = 0.0
    while done < serving.count and events:
        now, _, kind, which, version = heapq.heappop(events)
        if kind == ARRIVE:
            queue.append(which)
            begin(now)
        elif kind == FINISH:
            state = states[which]
            if version != state.version:
                continue
            state.advance(now)
            _, request = heapq.heappop(state.running)
            whole[request] = now - arrivals[request]
            done += 1
            counts[which] -= 1
            replan(which)
            begin(now)
        elif kind == FAIL:
            state = states[which]
            fail_next(now, which)
            failures += 1
            push(now + serving.restart, BACK, which)
            state.advance(now)
            if not state.down:
                again += len(state.running)
                counts[which] += away
            state.down += 1
            replan(which)
            if spares:
                spares -= 1
                push(now + serving.detect + group.load, UP, which)
            else:
                lacking.append(which)
        elif kind == BACK:  # a machine is there again: it takes a place that is empty, or stands by
            if lacking:
                push(now + group.load, UP, lacking.pop(0))
            else:
                spares += 1
        else:
            state = states[which]
            state.advance(now)
            state.down -= 1
            if not state.down:
                # What ran is computed again, side by side: the prompt and half an answer of each.
                share = len(state.running) * (1 + serving.answer / 2 / max(serving.prompt, 1))
                state.work -= share * group.first * state.pace()
                counts[which] -= away
                replan(which)
                begin(now)
            else:
                replan(which)
    return FleetRun(arrivals, whole, waited, failures, again)
