"""The thread that decides: which plan is used, and what to do when something breaks.

Where workers keep state, an item is sent by the thread that gives it, and its result is taken by the thread that
receives it, as long as nobody else is at it (see `Events`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cutset.cluster.codecs import Gap
from cutset.cluster.coordinator.advisor import Advisor
from cutset.cluster.coordinator.dispatch import Dispatcher
from cutset.cluster.coordinator.feeding import Inbox
from cutset.cluster.coordinator.links import Links, aligned
from cutset.cluster.coordinator.membership import Membership
from cutset.cluster.coordinator.plans import NoPlan, check_fits, crowded, lacking
from cutset.cluster.coordinator.remote import Remote, RemoteEvent, dial_all
from cutset.cluster.coordinator.routes import Routes
from cutset.cluster.coordinator.run_events import Events
from cutset.cluster.coordinator.switching import Options
from cutset.cluster.inputs import Inputs, PlainInputs
from cutset.cluster.messages import (
    HANDSHAKE,
    Allow,
    Failed,
    Holds,
    Inventory,
    Lost,
    Need,
    Prepared,
    Ready,
    Report,
    Reports,
    Tune,
)
from cutset.cluster.model import Model
from cutset.cluster.wire import ArrivedItem, piece_bytes
from cutset.codec import Budget, KeyRequest
from cutset.errors import ConfigError, CutsetError, FrameError, LinkError
from cutset.link.peer import Handshake
from cutset.link.rendezvous import Rendezvous
from cutset.partition.hop import Hop
from cutset.partition.plan import COORDINATOR, Plan

__all__ = ["Coordinator", "Planner"]

# Who is there, in the order in which workers were named, and why a plan is wanted.
Planner = Callable[[Sequence[str], str], Plan]

TICK = 0.05  # seconds
IDLE_TICK = 0.2  # the same while nothing is on its way
AGAIN = 0.25  # seconds after which a planner that found no plan is asked again
MOST_LATE = 3  # times that items may be sent again because they don't come back, without a result in between
LONG_MESSAGE = 16 << 10  # bytes; what workers say is rarely longer
LAST_WORDS = 0.5  # seconds that reports of the last items may come after their results


class Coordinator:
    """Runs from its making until `close`. `results` gets each Result in order for its source, then None or an error."""

    def __init__(
        self,
        model: Model,
        workers: Mapping[str, tuple[str, bytes | None]],
        planner: Planner,
        sources: Sequence[Iterable[Any] | Inbox],
        options: Options,
        *,
        inputs: Inputs | None = None,
        keys: Any = None,
        rendezvous: Rendezvous | None = None,
        handshake: Handshake = HANDSHAKE,
        locate: Callable[[str], tuple[str, bytes | None]] | None = None,
        paces: Mapping[tuple[str, str], Hop] | None = None,
        observe: Callable[[Report, Plan, float], None] | None = None,
        advisor: Advisor | None = None,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`workers`: name to address and public key; `inputs` says what sources give (arrays, without it); `log` is
        called with lines that say what happens.

        `rendezvous`: where those dial in whose address is join://NAME; `locate`: where a worker is now (see Launcher).
        `handshake`: what each side must prove; `paces`: emulated connections, by their ends; workers get theirs.
        `observe` gets every report, times on this side's clock, its plan, and the seconds of the report's hop.
        `advisor` gets the same of machines, links and values, and what workers report of their weights and memory.
        """
        if not workers:
            raise ConfigError("a run needs at least one worker")
        self.model, self.options, self.planner = model, options, planner
        self._events = Events(self._take, self._report, self._move, at_once=options.stateful)
        self._observe, self._log = observe, log
        self._advisor = advisor
        self._inputs: Inputs = PlainInputs() if inputs is None else inputs
        self._paces = dict(paces or {})
        self.links = Links(self._paces, self._ours, self._relays, lambda name: self.remotes[name].trips.seconds / 2)
        self._proposed: tuple[Plan, str] | None = None
        self._wanted = "the run begins"  # why a plan is wanted, or empty
        self._offered = ""  # why another plan is possible, once the one that gets ready is used
        self._planless: float | None = None  # since when the planner has found none
        self._again = 0.0  # when it is asked again
        self._begun = time.monotonic()
        self._moved = time.monotonic()  # when a party last reported an item
        self._late = 0  # how often items were late since the last result
        self._owed = 0  # reports of items whose results are there
        self._stopped = False
        self._ticked = 0.0  # when it was last looked whether something is to be done
        how = {"keys": keys, "rendezvous": rendezvous, "handshake": handshake, "locate": locate}
        self.remotes = dial_all(workers, self._events.put, paces=self._paces, **how)
        self._routes = Routes(model, self.remotes, self._paces, self.links, self._inputs, log)
        self._members = Membership(self.remotes, options, self._queued, log)
        self._dispatcher = Dispatcher(model, sources, self._inputs, options, lambda: self._events.put(None))
        self.results = self._dispatcher.results
        self._thread = threading.Thread(target=self._run, name="cutset-coordinator", daemon=True)
        self._thread.start()

    # Other threads.

    @property
    def plans(self) -> list[tuple[int, Plan, str]]:
        """Number and plan of all there were, and why each was made."""
        return self._routes.plans

    @property
    def plan(self) -> Plan | None:
        """The plan by which items are sent; None while there is none."""
        route = self._routes.current
        return route.plan if route is not None and route.whole else None

    @property
    def weights_sent(self) -> tuple[int, int]:
        """Frames of weights that have left for the plan that gets ready, and how many there are so far."""
        switch = self._routes.switch
        return (0, 0) if switch is None else switch.weights

    @property
    def offsets(self) -> dict[str, float]:
        """Seconds to take from each worker's clock to have this one's."""
        now = time.monotonic()
        return {name: now - remote.clock.ours(now) for name, remote in self.remotes.items()}

    def propose(self, plan: Plan, why: str) -> None:
        """Goes over to another plan while items are in flight, unless a disturbance comes first.

        Raises ConfigError for a plan of another model, other workers or other sources. Where one of its workers isn't
        there any more, the planner is asked again.
        """
        check_fits(plan, self.model, self.remotes, self._inputs)

        def take() -> None:
            self._proposed = (plan, why)

        self._events.put(take)

    def allow(
        self,
        budget: Budget,
        levels: int,
        delta_scale: float | None = None,
        delta_factors: Mapping[str, float] | None = None,
    ) -> None:
        """From now on activations may be off by the budget, and uint8 inputs by levels, wherever they are sent.

        `delta_scale` is that of stages that compute what changed alone, `delta_factors` what single values' thresholds
        are multiplied with; None leaves either.
        """

        def change() -> None:
            scale = self.options.delta_scale if delta_scale is None else delta_scale
            factors = self.options.delta_factors if delta_factors is None else delta_factors
            self.options = replace(self.options, budget=budget, levels=levels, delta_scale=scale, delta_factors=factors)
            self._routes.allow(self.options)
            said = None if delta_factors is None else dict(delta_factors)
            for remote in self.remotes.values():
                remote.say(Allow(budget.threshold, budget.half, levels, scale, said))

        self._events.put(change)

    def took(self) -> None:
        """A result was taken from `results`: there is room for another item."""
        self._events.put(self._dispatcher.took, small=True)

    def close(self) -> None:
        """Ends the run, whatever is in flight."""
        self._stopped = True
        self._events.wake()
        self._thread.join(10.0)

    # The coordinator's thread, all of it; what takes and moves items also others (see `Events`).

    def _run(self) -> None:
        end: CutsetError | None = None
        try:
            while not self._stopped and not self._done:
                idle = not len(self._dispatcher.items) and self._routes.current and not self._routes.switch
                self._events.wait(TICK, IDLE_TICK if idle else TICK)
                with self._events.turn:
                    if self._events.take_all() or time.monotonic() - self._ticked >= TICK:
                        self._ticked = time.monotonic()
                        self._tick()
                        self._replan()
                    self._move()
            until = time.monotonic() + LAST_WORDS
            while self._owed > 0 and not self._stopped and time.monotonic() < until:
                self._events.wait(TICK, TICK)
                with self._events.turn:
                    self._events.take_all()
        except CutsetError as error:
            end = error
        except Exception as error:  # a bug, here or in a planner: whoever waits for results must get it
            end = LinkError(f"the coordinator failed: {type(error).__name__}: {error}")
            end.__cause__ = error
        finally:
            self._dispatcher.close()
            closers = [threading.Thread(target=remote.close, daemon=True) for remote in self.remotes.values()]
            for closer in closers:
                closer.start()
            for closer in closers:
                closer.join(3.0)
            self.results.put(end)

    @property
    def _done(self) -> bool:
        """Every item was delivered. Raises what a source, or a thread that took an event, ended with."""
        with self._events.turn:
            if self._events.failure is not None:
                raise self._events.failure
            return self._dispatcher.done

    def _move(self) -> None:
        """Sends what may be sent, and delivers what has come."""
        route = self._routes.current
        if route is not None and route.whole:
            self._routes.retire(self._dispatcher.items.oldest_plan())
            self._dispatcher.dispatch(route)
        self._events.report(self._dispatcher.deliver())

    def _take(self, event: RemoteEvent) -> None:
        remote, message = event.remote, event.message
        if isinstance(message, CutsetError):
            if event.link == remote.links:
                self._down(remote, str(message))
        elif event.link != remote.links or not remote.up:
            return
        elif message == "up":
            self._log(f"{remote.name} is there: {remote.card.cpu if remote.card else ''}")
            if self._advisor is not None:
                if remote.card is not None:
                    self._advisor.memory(remote.name, remote.card.memory)
                weights = {name: self.model.weight_digest(name) for name in self.model.graph.weights}
                remote.say(Inventory(self.model.digest, remote.description(self.model), weights))
            if self._routes.current is not None or self._routes.switch is not None:
                if self._members.comes_and_goes(remote.name):
                    self._offered = f"{remote.name} came again"
                else:
                    self._want(f"{remote.name} came")
        elif isinstance(message, ArrivedItem):
            self._result(remote, message)
        elif isinstance(message, Report):
            self._owed -= 1
            self._report(message)
        elif isinstance(message, Reports):
            self._owed -= len(message.reports)
            for report in message.reports:
                self._report(report)
        elif isinstance(message, Lost):
            item = self._dispatcher.items.ended(message.plan, message.source, message.number)
            if self.options.stateful and item is not None:
                self._break(f"{remote.name} lost an item: {message.reason}")
        elif isinstance(message, Failed):
            self._failed(remote, message)
        elif isinstance(message, KeyRequest):
            for route in self._routes.used:
                if route.number == message.plan and route.first is remote:
                    route.sender.request(message)
        elif isinstance(message, Holds):
            if self._advisor is not None and message.graph == self.model.digest:
                self._advisor.holds(remote.name, message.weights)
        elif isinstance(message, Need | Prepared | Ready):
            before = self._routes.current
            self._routes.answered(remote, message, self._dispatcher.items.oldest_plan())
            if self.options.stateful and before is not None and self._routes.current is not before:
                self._dispatcher.lose("another plan is used")

    def _result(self, remote: Remote, arrival: ArrivedItem) -> None:
        work = arrival.work
        route = next((r for r in self._routes.used if r.number == work.plan and r.last is remote), None)
        if route is None:
            return
        try:
            self._dispatcher.came(route, arrival)
        except Gap as gap:
            for wanted in gap.requests:
                remote.say(wanted)
            self._dispatcher.items.ended(work.plan, work.source, work.number)
            if self.options.stateful:
                self._break("a result can't be read")
            return
        except FrameError as error:
            self._failed(remote, Failed(work.plan, remote.name, str(error)))
            return
        self._owed += len(route.remotes)
        self._late = 0
        self._members.worked(remote.name for remote in route.remotes)

    def _report(self, report: Report) -> None:
        """A party's report of an item, this one's included: what links carry, and whoever wants to know."""
        self._moved = time.monotonic()
        route, seconds = self._routes.past.get(report.plan), 0.0
        if route is None or report.hop is None:
            return
        sender = route.sender_to(report.party)
        if sender:
            seconds, bandwidth = self.links.learn(sender, report.party, report.hop)
            if bandwidth is not None and sender == COORDINATOR:
                route.sender.bandwidth = bandwidth
            elif bandwidth is not None:
                self.remotes[sender].say(Tune(report.plan, bandwidth))
        if self._advisor is None and self._observe is None:
            return
        report = aligned(report, sender, self._ours)
        if self._advisor is not None:
            self._advisor.observe(report, route.plan)
            if sender and (hop := self.links.estimate(sender, report.party)) is not None:
                self._advisor.carries(sender, report.party, hop)
        if self._observe is not None:
            self._observe(report, route.plan, seconds)

    def _ours(self, party: str, time: float) -> float:
        """A time of a party's clock on this one's."""
        return time if party == COORDINATOR else self.remotes[party].clock.ours(time)

    def _relays(self, sender: str, receiver: str) -> bool:
        """Whether what one worker sends to another goes through here: the other one can't be dialled."""
        return self.remotes[receiver].joins

    def _down(self, remote: Remote, why: str) -> None:
        self._log(f"{remote.name} is gone: {why}")
        self._members.lost(remote.name, why)
        switch = self._routes.switch
        if switch is not None and remote in switch.route.remotes:
            self._routes.switch = None
            self._want(f"{remote.name} is gone")
        if any(remote in route.remotes for route in self._routes.used):
            self._break(f"{remote.name} is gone")

    def _failed(self, remote: Remote, message: Failed) -> None:
        switch = self._routes.switch
        concerned = switch is not None and switch.route.number == message.plan
        if not concerned and all(route.number != message.plan for route in self._routes.used):
            return  # of a plan that is over
        self._log(f"{remote.name} reports of plan {message.plan}: {message.reason}")
        blamed = message.party if message.party in self.remotes else remote.name
        self._members.failed(blamed, message.reason, remote.name)
        if concerned:
            self._routes.switch = None
            self._want(message.reason)
        else:
            self._break(message.reason)

    def _queued(self, name: str) -> float:
        """Seconds that a heartbeat of a worker may wait behind a message, or a frame of its results."""
        carries = self.links.carries(name, COORDINATOR)
        return max(piece_bytes(carries), LONG_MESSAGE) / carries

    def _want(self, why: str) -> None:
        self._wanted = self._wanted or why

    def _break(self, why: str) -> None:
        """The routes in use can't be: what is in flight is sent again by a new plan, or lost with what workers kept."""
        self._routes.drop()
        if self.options.stateful:
            self._dispatcher.lose(why)
        else:
            self._dispatcher.items.requeue()
        self._want(why)

    def _tick(self) -> None:
        now = time.monotonic()
        self._members.beat(now)
        why = self._dispatcher.overdue(now, self._moved, self.options.late + self._routes.expected)
        if why:
            self._late += 1
            if self._late >= MOST_LATE:
                self._dispatcher.give_up(why)
                raise LinkError(f"{why}, {self._late} times one after the other: give the run up")
            self._break(why)
        switch = self._routes.switch
        most = self.options.prepare + (0.0 if switch is None else switch.expected)
        if switch is not None and switch.stands_still(now) > most:
            for name in switch.waiting:
                self._members.exclude(name, f"it didn't get ready in {most:g} s")
            self._want(f"{', '.join(switch.waiting)} didn't get ready in {most:g} s")
            self._routes.switch = None
        for name in self._members.back(now):
            self._offered = f"{name} may try again"

    def _replan(self) -> None:
        now, routes = time.monotonic(), self._routes
        if self._members.in_doubt(now):
            return
        alive = self._members.alive()
        if self._members.alone(now, bool(alive)) > self.options.patience:
            self._dispatcher.give_up("no worker is left")
            raise LinkError(f"no worker is left. {self._members.reasons(self.remotes)}")
        waited = now - self._begun
        gather = self.options.gather + max(remote.emulated for remote in self.remotes.values())
        if not alive or (not routes.plans and len(alive) < len(self.remotes) and waited < gather):
            return
        if routes.switch is None and self._offered:  # it doesn't take the others from what they get ready for
            self._want(self._offered)
        if self._wanted and now >= self._again:
            why, self._wanted, self._offered, self._proposed = self._wanted, "", "", None
            try:
                plan = self.planner(alive, why)
            except NoPlan as error:
                self._no_plan(error, why, now)
                return
            self._planless = None
        elif self._proposed is not None and routes.current is not None and routes.switch is None:
            (plan, why), self._proposed = self._proposed, None
            if missing := lacking(plan, alive):
                # Who proposed it didn't know yet, and takes it for the plan that is used.
                self._want(f"a plan was proposed for {', '.join(missing)}, no longer there")
                return
        else:
            return
        current = routes.current.plan if routes.current is not None else None
        if current is not None and (plan.stages, plan.input) == (current.stages, current.input):
            routes.switch = None
            return
        check_fits(plan, self.model, self.remotes, self._inputs)
        if missing := lacking(plan, alive):
            reasons = self._members.reasons(missing)
            raise ConfigError(f"the plan needs {', '.join(missing)}, which can't be reached: {reasons}")
        if self.options.stateful and current is not None and crowded(self.remotes, plan, current):
            self._break(why)
            self._wanted = ""
        routes.start(plan, why, self.options, self._dispatcher.items.oldest_plan())

    def _no_plan(self, error: NoPlan, why: str, now: float) -> None:
        """Those who are there don't do. What runs goes on; otherwise whoever comes is waited for."""
        routes = self._routes
        if routes.current is not None or routes.switch is not None:
            return
        if self._planless is None:
            self._planless = now
            self._log(f"no plan: {error}")
        self._again = now + AGAIN
        if now - self._planless > self.options.patience:
            self._dispatcher.give_up(str(error))
            absent = [name for name in self.remotes if name not in self._members.alive()]
            reasons = f". {self._members.reasons(absent)}" if absent else ""
            raise LinkError(f"{error}{reasons}")
        self._want(why)
