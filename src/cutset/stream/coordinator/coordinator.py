"""The thread that decides: what is sent when, what comes out, and what to do when something breaks."""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cutset.errors import ConfigError, CutsetError, FrameError, LinkError
from cutset.link import Link
from cutset.stream.coordinator.feeding import Feeder
from cutset.stream.coordinator.flights import Flight, Flights
from cutset.stream.coordinator.remote import Event, Remote
from cutset.stream.coordinator.result import Result
from cutset.stream.coordinator.switching import Options, Route, Switch
from cutset.stream.delta import KeyRequest
from cutset.stream.hop import Gap, to_array
from cutset.stream.messages import Failed, Lost, Need, Pace, Prepared, Ready, Report, Retire, Work
from cutset.stream.model import Model
from cutset.stream.planning.plan import COORDINATOR, Plan
from cutset.stream.trace.spans import Span
from cutset.stream.wire import pieces

__all__ = ["Coordinator", "Planner"]

# Who lives, in the order in which workers were named, and why a plan is wanted.
Planner = Callable[[Sequence[str], str], Plan]

TICK = 0.05  # seconds
STRIKES = 2  # failures without a picture in between, after which a worker is left out for a while
BENCH = 10.0  # seconds that it is left out
MOMENT = 0.25  # seconds that a worker which another one lost has to prove dead, before plans are made with it


class Coordinator:
    """Runs from its making until `close`. `results` gets each Result in order for its source, then None or an error."""

    def __init__(
        self,
        model: Model,
        workers: Mapping[str, tuple[str, bytes | None]],
        planner: Planner,
        sources: Sequence[Iterable[Any]],
        options: Options,
        *,
        keys: Any = None,
        wrap: Callable[[str, Link], Link] | None = None,
        hops: Mapping[tuple[str, str], Pace] | None = None,
        observe: Callable[[Report], None] | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`workers`: name to address and public key. `wrap` and `hops` emulate links. `tell` hears what happens."""
        if not workers:
            raise ConfigError("a stream needs at least one worker")
        self.model, self.options, self.planner = model, options, planner
        self.results: queue.SimpleQueue[Result | CutsetError | None] = queue.SimpleQueue()
        self.plans: list[tuple[int, Plan, str]] = []  # number, plan, and why it was made
        self.events: queue.SimpleQueue[Event | Callable[[], None] | None] = queue.SimpleQueue()
        self._observe, self._tell = observe, tell
        self._hops = dict(hops or {})
        self._flights = Flights()
        self._route: Route | None = None
        self._old: list[Route] = []
        self._switch: Switch | None = None
        self._proposed: tuple[Plan, str] | None = None
        self._number, self._epoch, self._retired = 0, 0, 0
        self._wanted = "the stream begins"  # why a plan is wanted, or empty
        self._strikes: dict[str, int] = {}
        self._benched: dict[str, float] = {}
        self._alone_since: float | None = time.monotonic()
        self._pinged = self._not_before = 0.0
        self._given = 0  # results that nobody has taken yet
        self._stopped = False
        self._woken = False
        session = secrets.token_bytes(16)
        self.remotes: dict[str, Remote] = {}
        for name, (address, key) in workers.items():
            self.remotes[name] = Remote(
                name,
                address,
                session=session,
                told=self.events.put,
                keys=keys,
                key=key,
                wrap=None if wrap is None else lambda link, name=name: wrap(name, link),  # type: ignore[misc]
            )
        self._feeders = [Feeder(i, source, model.picture, self._wake, options.rate) for i, source in enumerate(sources)]
        self._thread = threading.Thread(target=self._run, name="cutset-coordinator", daemon=True)
        self._thread.start()

    # Other threads.

    @property
    def offsets(self) -> dict[str, float]:
        """Seconds to take from each worker's clock to have this one's."""
        return {name: remote.clock.offset for name, remote in self.remotes.items()}

    def propose(self, plan: Plan, why: str) -> None:
        """Goes over to another plan while pictures are on their way, unless a disturbance comes first."""
        plan.check(self.model.graph, self.model.digest)

        def take() -> None:
            self._proposed = (plan, why)

        self.events.put(take)

    def took(self) -> None:
        """A result was taken from `results`."""
        self._given -= 1
        self._wake()

    def close(self) -> None:
        """Ends the stream, whatever is on its way."""
        self._stopped = True
        self.events.put(None)
        self._thread.join(10.0)

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self.events.put(None)

    # The coordinator's thread, all of it.

    def _run(self) -> None:
        end: CutsetError | None = None
        try:
            while not self._stopped and not self._done():
                try:
                    event = self.events.get(timeout=TICK)
                except queue.Empty:
                    event = None
                self._woken = False
                while True:
                    if isinstance(event, Event):
                        self._heed(event)
                    elif event is not None:
                        event()
                    try:
                        event = self.events.get_nowait()
                    except queue.Empty:
                        break
                self._tick()
                self._replan()
                self._dispatch()
                self._deliver()
        except CutsetError as error:
            end = error
        except Exception as error:  # a bug, here or in a planner: whoever waits for results must hear of it
            end = LinkError(f"the coordinator failed: {type(error).__name__}: {error}")
            end.__cause__ = error
        finally:
            for feeder in self._feeders:
                feeder.close()
            closers = [threading.Thread(target=remote.close, daemon=True) for remote in self.remotes.values()]
            for closer in closers:
                closer.start()
            for closer in closers:
                closer.join(3.0)
            self.results.put(end)

    def _done(self) -> bool:
        for feeder in self._feeders:
            if feeder.dry and feeder.error is not None and not len(self._flights):
                raise feeder.error
        return all(feeder.dry for feeder in self._feeders) and not len(self._flights)

    def _heed(self, event: Event) -> None:
        remote, message = event.remote, event.message
        if isinstance(message, CutsetError):
            if event.life == remote.life:
                self._down(remote, str(message))
        elif event.life != remote.life or not remote.up:
            return
        elif message == "up":
            self._tell(f"{remote.name} is there: {remote.card.cpu if remote.card else ''}")
            if self._route is not None or self._switch is not None:
                self._want(f"{remote.name} came")
        elif isinstance(message, Work):
            self._result(event, message)
        elif isinstance(message, Report):
            if self._observe is not None:
                self._observe(message)
        elif isinstance(message, Lost):
            self._lost(message)
        elif isinstance(message, Failed):
            self._failed(remote, message)
        elif isinstance(message, KeyRequest):
            for route in self._routes():
                if route.number == message.plan and route.first is remote:
                    route.sender.request(message)
        elif self._switch is not None and getattr(message, "plan", -1) == self._switch.route.number:
            if isinstance(message, Need):
                sent = self._switch.send_weights(self.model, remote, message.weights)
                self._tell(f"{remote.name} gets {len(message.weights)} weights, {sent / 1e6:.1f} MB")
            elif isinstance(message, Prepared):
                self._switch.prepared(remote.name)
            elif isinstance(message, Ready):
                self._switch.connected(remote.name)
                if self._switch.ready:
                    self._begin(self._switch.route)

    def _routes(self) -> list[Route]:
        return [*self._old, *([self._route] if self._route is not None else [])]

    def _begin(self, route: Route) -> None:
        """From now on pictures take this route."""
        self._switch = None
        if self._route is not None:
            self._old.append(self._route)
        self._route = route
        stages = ", ".join(f"{stage.worker} {_ranges(stage.nodes)}" for stage in route.plan.stages)
        self._tell(f"plan {route.number}: {stages}")
        self._retire()

    def _retire(self) -> None:
        """Ends the plans by which nothing is on its way any more."""
        oldest = self._flights.oldest_plan()
        current = self._route.number if self._route is not None else self._number
        before = min(oldest, current) if oldest is not None else current
        if before > self._retired:
            self._retired = before
            self._old = [route for route in self._old if route.number >= before]
            for remote in self.remotes.values():
                remote.say(Retire(before))

    def _want(self, why: str) -> None:
        self._wanted = self._wanted or why

    def _down(self, remote: Remote, why: str) -> None:
        used = [route for route in self._routes() if remote in route.remotes]
        if self._switch is not None and remote in self._switch.route.remotes:
            self._switch = None
            self._want(f"{remote.name} is gone: {why}")
        if used:
            self._tell(f"{remote.name} is gone: {why}")
            self._break(f"{remote.name} is gone: {why}")

    def _break(self, why: str) -> None:
        """The routes in use can't be: what is on its way is sent again, by a new plan."""
        self._old, self._route = [], None
        self._epoch += 1
        self._flights.grounded()
        self._want(why)

    def _failed(self, remote: Remote, message: Failed) -> None:
        switch = self._switch
        concerned = switch is not None and switch.route.number == message.plan
        if not concerned and all(route.number != message.plan for route in self._routes()):
            return  # of a plan that is over
        blamed = message.party if message.party in self.remotes else remote.name
        self._tell(f"{remote.name} reports of plan {message.plan}: {message.reason}")
        self._strikes[blamed] = self._strikes.get(blamed, 0) + 1
        if blamed != remote.name:
            self._not_before = time.monotonic() + MOMENT
        if self._strikes[blamed] >= STRIKES:
            self._benched[blamed] = time.monotonic() + BENCH
            self.remotes[blamed].why = message.reason
        if concerned:
            self._switch = None
            self._want(message.reason)
        else:
            self._break(message.reason)

    def _lost(self, message: Lost) -> None:
        flight = self._flights.find(message.source, message.picture)
        self._flights.landed(message.plan, message.source, message.ticket)
        if flight is not None and (flight.plan, flight.ticket) == (message.plan, message.ticket):
            flight.plan = -1  # sent again

    def _result(self, event: Event, work: Work) -> None:
        route = next((r for r in self._routes() if r.number == work.plan and r.last is event.remote), None)
        if route is None:
            return
        start = time.monotonic()
        try:
            tensors, _ = route.receiver.decode(work, event.arrays)
        except Gap as gap:
            for wanted in gap.requests:
                event.remote.say(wanted)
            self._lost(Lost(work.plan, work.source, work.picture, work.ticket, str(gap)))
            return
        except FrameError as error:
            self._failed(event.remote, Failed(work.plan, event.remote.name, str(error)))
            return
        route.pictures += 1
        for remote in route.remotes:
            self._strikes.pop(remote.name, None)
        self._flights.landed(work.plan, work.source, work.ticket)
        flight = self._flights.find(work.source, work.picture)
        if flight is None:
            return
        if flight.plan == work.plan:
            flight.plan = -1
        if flight.result is not None:
            return
        now = time.monotonic()
        outputs = {name: to_array(tensors[name]) for name in self.model.graph.outputs}
        self._flights.finish(flight, outputs, "", work.plan, now)
        if self._observe is not None:
            if event.hop is not None:
                hop = event.hop
                flight.spans.append(Span("receive", work.source, work.picture, hop.first, hop.last, hop.nbytes))
            flight.spans.append(Span("decode", work.source, work.picture, start, now))
            report = Report(
                work.plan, work.epoch, work.source, work.picture, COORDINATOR, flight.spans, event.hop, [], [], None
            )
            self._observe(report)

    def _tick(self) -> None:
        now, options = time.monotonic(), self.options
        if now - self._pinged >= options.beat:
            self._pinged = now
            for remote in self.remotes.values():
                if remote.up:
                    if now - remote.heard > options.silence:
                        remote.cut(f"no sign of life for {options.silence:g} s")
                    else:
                        remote.ping()
        for flight in self._flights:
            if flight.result is None and options.deadline is not None and now - flight.captured > options.deadline:
                reason = f"not done {options.deadline:g} s after capture"
                self._flights.finish(flight, {}, reason, max(flight.plan, 0), now)
            if flight.flying and now - flight.sent > options.late:
                self._break(f"picture {flight.picture} didn't come back in {options.late:g} s")
                break
        if self._switch is not None and now - self._switch.begun > options.prepare:
            for name in self._switch.waiting:
                self._benched[name] = now + BENCH
            self._want(f"{', '.join(self._switch.waiting)} didn't get ready in {options.prepare:g} s")
            self._switch = None

    def _alive(self, now: float) -> list[str]:
        for name in [name for name, until in self._benched.items() if until <= now]:
            del self._benched[name]
            self._want(f"{name} may try again")
        return [name for name, remote in self.remotes.items() if remote.up and name not in self._benched]

    def _replan(self) -> None:
        now = time.monotonic()
        alive = self._alive(now)
        if now < self._not_before and all(self.remotes[name].up for name in self._strikes):
            return
        if not alive:
            if self._alone_since is None:
                self._alone_since = now
            if now - self._alone_since > self.options.patience or len(self._benched) == len(self.remotes):
                self._give_up(now)
            return
        first = not self.plans
        if (
            first
            and len(alive) < len(self.remotes)
            and now - (self._alone_since or now) < min(self.options.patience, 5.0)
        ):
            return  # the others may be on their way
        self._alone_since = None
        if self._switch is not None and not self._wanted:
            return
        if self._wanted:
            why, self._wanted, self._proposed = self._wanted, "", None
            plan = self.planner(alive, why)
        elif self._proposed is not None and self._route is not None:
            (plan, why), self._proposed = self._proposed, None
        else:
            return
        current = self._route.plan if self._route is not None else None
        if current is not None and plan.stages == current.stages and plan.picture == current.picture:
            self._switch = None
            return
        plan.check(self.model.graph, self.model.digest)
        missing = [stage.worker for stage in plan.stages if stage.worker not in alive]
        if missing:
            raise ConfigError(f"the plan needs {', '.join(missing)}, which can't be reached: {self._reasons(missing)}")
        self._number += 1
        if self._route is None:
            self._retire()
        self.plans.append((self._number, plan, why))
        remotes = [self.remotes[stage.worker] for stage in plan.stages]
        route = Route(self._number, self._epoch, plan, self.model, remotes, self.options)
        self._switch = Switch(route, self.model, self.options, self._hops)

    def _reasons(self, names: Iterable[str]) -> str:
        return "; ".join(f"{name}: {self.remotes[name].why}" for name in names)[:600]

    def _give_up(self, now: float) -> None:
        for flight in self._flights:
            if flight.result is None:
                self._flights.finish(flight, {}, "no worker is left", max(flight.plan, 0), now)
        self._deliver()
        raise LinkError(f"no worker is left. {self._reasons(self.remotes)}")

    def _dispatch(self) -> None:
        route = self._route
        if route is None or not route.whole:
            return
        self._retire()
        flying = self._flights.flying
        redo = self._flights.waiting()
        turn = 0
        while flying < self.options.in_flight:
            if redo:
                flight = redo.pop(0)
            else:
                if len(self._flights) + self._given >= 2 * self.options.in_flight:
                    return
                taken = self._next(turn)
                if taken is None:
                    return
                flight, turn = taken, taken.source + 1
                self._flights.take(flight)
            self._send(route, flight)
            flying += 1

    def _next(self, turn: int) -> Flight | None:
        """A new picture, of the sources in turns."""
        for i in range(len(self._feeders)):
            flight = self._feeders[(turn + i) % len(self._feeders)].take()
            if flight is not None:
                return flight
        return None

    def _send(self, route: Route, flight: Flight) -> None:
        start = time.monotonic()
        ticket = self._flights.send(flight, route.number, start)
        name = self.model.picture.name
        work, arrays, _ = route.sender.encode(flight.source, flight.picture, ticket, {name: flight.pixels})
        encoded = time.monotonic()
        source, picture, size = flight.source, flight.picture, sum(work.lengths)
        spans = flight.spans = [
            Span("capture", source, picture, flight.captured, flight.captured),
            Span("encode", source, picture, start, encoded),
        ]

        def left(begin: float, end: float) -> None:
            spans.append(Span("send", source, picture, begin, end, size))

        route.first.outbox.data(pieces(work, arrays), wait=False, done=left)

    def _deliver(self) -> None:
        for flight in self._flights.deliver():
            self._given += 1
            assert flight.result is not None
            self.results.put(flight.result)


def _ranges(nodes: Sequence[int]) -> str:
    return f"{nodes[0]}–{nodes[-1]}" if nodes else "nothing"
