"""The routes that items take: the one in use, those that are being left, and the one that gets ready."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

from cutset.cluster.coordinator.links import Links
from cutset.cluster.coordinator.remote import Remote
from cutset.cluster.coordinator.switching import Options, Route, Switch
from cutset.cluster.inputs import Inputs
from cutset.cluster.messages import Need, Prepared, Ready, Retire
from cutset.cluster.model import Model
from cutset.cluster.wire import piece_bytes
from cutset.partition.hop import Hop
from cutset.partition.plan import COORDINATOR, Plan

__all__ = ["Routes"]

PAST = 8  # plans whose late reports are still understood


class Routes:
    """For the coordinator's thread alone. `oldest` is the lowest plan by which an item is in flight, or None."""

    def __init__(
        self,
        model: Model,
        remotes: Mapping[str, Remote],
        paces: Mapping[tuple[str, str], Hop],
        links: Links,
        inputs: Inputs,
        log: Callable[[str], None],
    ) -> None:
        self._model, self._remotes, self._paces, self._links, self._log = model, remotes, paces, links, log
        self._inputs = inputs
        self.plans: list[tuple[int, Plan, str]] = []  # number, plan, and why it was made
        self.current: Route | None = None
        self.switch: Switch | None = None  # on the way to the next one
        self.past: dict[int, Route] = {}  # by number, for the reports that come late
        self._old: list[Route] = []  # by which items are still in flight
        self._number = self._epoch = self._retired = 0
        self._in_flight = 1

    @property
    def expected(self) -> float:
        """Seconds that links are known to need for the items in flight, whatever changes in them."""
        return max((self._expected(route) for route in self.used), default=0.0)

    def _expected(self, route: Route) -> float:
        parties = [COORDINATOR, *(remote.name for remote in route.remotes), COORDINATOR]
        pairs = zip(pairwise(parties), route.nbytes, strict=True)
        return sum(self._links.expected(*pair, self._in_flight * nbytes) for pair, nbytes in pairs)

    @property
    def used(self) -> list[Route]:
        """By which items are, or may be, in flight."""
        return [*self._old, *([self.current] if self.current is not None else [])]

    def allow(self, options: Options) -> None:
        """What inputs may be off by has changed."""
        for route in [*self.used, *([self.switch.route] if self.switch is not None else [])]:
            route.allow(options)

    def start(self, plan: Plan, why: str, options: Options, oldest: int | None) -> None:
        """Orders the workers to prepare. Raises ConfigError."""
        self._number += 1
        if self.current is None:
            self.retire(oldest)
        self.plans.append((self._number, plan, why))
        remotes = [self._remotes[stage.worker] for stage in plan.stages]
        route = Route(self._number, self._epoch, plan, self._model, remotes, options, self._inputs)
        self.past[self._number] = route
        self.past.pop(self._number - PAST, None)
        self._in_flight = options.in_flight
        route.sender.bandwidth = self._links.bandwidth(COORDINATOR, route.first.name)
        self.switch = Switch(route, self._model, options, self._paces, self._links, Remote.seen_by)

    def answered(self, remote: Remote, message: Need | Prepared | Ready, oldest: int | None) -> None:
        """A worker's word on its preparation. Raises CutsetError for one that makes no sense."""
        switch = self.switch
        if switch is None or message.plan != switch.route.number:
            return
        if isinstance(message, Need):
            carries = self._links.carries(COORDINATOR, remote.name)
            sent = switch.send_weights(self._model, remote, message.weights, piece_bytes(carries))
            self._log(f"{remote.name} gets {len(message.weights)} weights, {sent / 1e6:.1f} MB")
        elif isinstance(message, Prepared):
            switch.prepared(remote.name)
        else:
            switch.connected(remote.name)
            if switch.ready:
                self._begin(switch.route, oldest)

    def _begin(self, route: Route, oldest: int | None) -> None:
        """From now on items take this route."""
        self.switch = None
        if self.current is not None:
            self._old.append(self.current)
        self.current = route
        self._links.forget([pair for used in self.used for pair in used.connections])
        stages = ", ".join(f"{stage.worker} {stage.nodes[0]}–{stage.nodes[-1]}" for stage in route.plan.stages)
        self._log(f"plan {route.number}: {stages}")
        self.retire(oldest)

    def drop(self) -> None:
        """None of those in use can be used any more."""
        self._old, self.current = [], None
        self._epoch += 1

    def retire(self, oldest: int | None) -> None:
        """Ends the plans by which nothing is in flight any more."""
        current = self.current.number if self.current is not None else self._number
        before = min(oldest, current) if oldest is not None else current
        if before > self._retired:
            self._retired = before
            self._old = [route for route in self._old if route.number >= before]
            for remote in self._remotes.values():
                remote.say(Retire(before))
