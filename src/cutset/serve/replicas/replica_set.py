"""All replicas of a front: requests go to one of them, and on to another when that one is lost."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cutset.engine.delivery import Deliver
from cutset.engine.embedding import EmbeddingJob
from cutset.engine.outputs import Delta, EngineStats
from cutset.engine.params import SamplingParams
from cutset.errors import ConfigError, CutsetError, EngineError
from cutset.link.keys import Keys
from cutset.link.peer import Binding
from cutset.serve.replicas.flight import EmbedFlight, Flight
from cutset.serve.replicas.prefix_routes import PrefixRoutes
from cutset.serve.replicas.replica_connection import NOTHING, ReplicaConnection, Work
from cutset.serve.replicas.replica_launchers import ReplicaLauncher
from cutset.serve.replicas.replica_messages import ReplicaFacts
from cutset.serve.replicas.replica_scale import ReplicaScale

__all__ = ["ReplicaSet", "ReplicaState", "ReplicaTimes"]

log = logging.getLogger(__name__)
MOST_LOSSES = 3  # of replicas without a token in between, after which a request is taken for what ended them
GAUGES = (
    "running",
    "waiting",
    "blocks",
    "blocks_free",
    "blocks_used",
    "in_flight",
)  # of EngineStats; others count
CLOSED = "The engine was closed."


@dataclass(frozen=True, slots=True)
class ReplicaTimes:
    """Seconds."""

    starting: float = 600.0  # until a replica has loaded its model
    refused: float = 15.0  # for which one may refuse this front: it may not know yet that the one before has gone
    silence: float = 20.0  # without a heartbeat, after which one counts as lost
    tick: float = 0.1  # between two looks at what is due
    longest_pause: float = 30.0  # before another try to start one, after several that failed


class ReplicaState(NamedTuple):
    """One replica, for metrics."""

    name: str
    draining: bool
    samples: int
    stats: EngineStats | None


class ReplicaSet:
    """Keeps as many replicas as `scale` wants. Its methods may be called from any thread.

    A request waits here until a replica has room for it, which is as many samples as its engine runs together; so one
    that has just been started takes what waits. `model`: the fingerprint of the model's weights. `keys`: this side's
    pair, where addresses need one. `verify`: says whether a replica's evidence is enough, on each link that is opened.
    `report` gets a line for what an operator should know.
    """

    def __init__(
        self,
        launcher: ReplicaLauncher,
        scale: ReplicaScale,
        *,
        model: str,
        block_size: int,
        keys: Keys | None = None,
        times: ReplicaTimes | None = None,
        verify: Callable[[bytes, Binding], bool] | None = None,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._launcher, self._scale, self._model, self._keys, self._verify = launcher, scale, model, keys, verify
        self._times, self._report = times or ReplicaTimes(), report
        self.facts: ReplicaFacts
        self.lost = self.resumed = 0  # replicas that were lost, and requests that went on elsewhere
        self._lock = threading.RLock()
        self._routes = PrefixRoutes(block_size)
        self._up: dict[str, ReplicaConnection] = {}
        self._starting: set[str] = set()
        self._target = scale.least
        self._failures, self._next_start = 0, 0.0
        self._waiting: deque[Work] = deque()
        self._past = NOTHING  # what was counted of those that are gone
        self._requests = count(1)
        self._closed = threading.Event()
        self._manager = threading.Thread(target=self._manage, name="cutset-replicas", daemon=True)

    def start(self, *, all_of_them: bool = True) -> None:
        """Starts the least number of replicas and waits for them. Raises what the first that fails raises; unless it
        must be `all_of_them`, only where none is there, and the others are tried again."""
        failures: list[Exception] = []

        def one(name: str) -> None:
            try:
                self._open(name)
            except Exception as error:
                failures.append(error)

        names = [f"replica{number}" for number in range(1, self._scale.least + 1)]
        threads = [threading.Thread(target=one, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures and (all_of_them or not self._up):
            self.close()
            raise failures[0]
        self._manager.start()

    def submit(
        self,
        ids: NDArray[np.int32],  # (tokens,) checked
        params: SamplingParams,
        receive: Callable[[Delta], object],
        *,
        salt: str | None = None,
        adapter: str | None = None,
        background: bool = False,
        deliver: Deliver | None = None,
        whole: bool = False,
    ) -> Callable[[], None]:
        """Hands in a request; threads call `receive`, which must not block, with its deltas in order, or `deliver`: see
        AsyncLLM.submit. What is returned cancels it. Raises EngineError once this is closed."""
        if params.seed is None:
            params = replace(params, seed=secrets.randbits(63))
        digests = self._routes.digests(ids, salt, adapter)
        name = f"request-{next(self._requests)}"
        flight = Flight(
            name,
            ids,
            params,
            receive,
            salt=salt,
            adapter=adapter,
            digests=digests,
            background=background,
            deliver=deliver,
            whole=whole,
        )
        self._enqueue(flight)
        return lambda: self._cancel(flight)

    def embed(self, job: EmbeddingJob) -> None:
        """Hands in texts to embed. Raises EngineError once this is closed."""
        self._enqueue(EmbedFlight(job))

    @property
    def alive(self) -> bool:
        """It takes requests; they may have to wait."""
        return not self._closed.is_set()

    @property
    def ready(self) -> bool:
        """There is a replica."""
        return bool(self._up)

    def stats(self) -> EngineStats:
        """Of all replicas together, those included that are gone. Tokens are those that were given out here: what a
        replica generated that nobody got isn't among them, and what it gave before it was lost is."""
        with self._lock:
            total = _added([self._past, *(one.counted for one in self._up.values())])
            waiting = self._samples_waiting()
        return total._replace(waiting=total.waiting + waiting)

    def states(self) -> list[ReplicaState]:
        """Those that are there."""
        with self._lock:
            return [ReplicaState(one.name, one.draining, one.samples, one.stats) for one in self._up.values()]

    def close(self) -> None:
        """Stops all replicas; what still runs ends with an error. A second call does nothing."""
        with self._lock:
            if self._closed.is_set():
                return
            self._closed.set()
            work: list[Work] = [*self._waiting, *(one for each in self._up.values() for one in each.work.values())]
            self._waiting.clear()
            connections = list(self._up.values())
            for each in connections:
                each.work.clear()
        for one in work:
            one.fail(CLOSED)
        for each in connections:
            each.close("this server stops")
        stops = [threading.Thread(target=each.launched.stop) for each in connections]
        for thread in stops:
            thread.start()
        for thread in stops:
            thread.join()
        if self._manager.is_alive() and threading.current_thread() is not self._manager:
            self._manager.join()
        self._launcher.close()

    def _enqueue(self, work: Work) -> None:
        with self._lock:
            if self._closed.is_set():
                raise EngineError(CLOSED)
            self._waiting.append(work)
            self._dispatch()

    def _dispatch(self) -> None:
        """Hands out what waits while there is room, first come, first served."""
        with self._lock:
            while self._waiting and not self._closed.is_set():
                loads = {one.name: one.samples for one in self._up.values() if one.open}
                if not loads:
                    return
                work = self._waiting.popleft()
                if isinstance(work, Flight):
                    name = self._routes.choose(work.digests, loads)
                    self._routes.note(work.digests, name)
                else:
                    name = min(loads, key=lambda one: loads[one])
                self._up[name].submit(work)

    def _cancel(self, flight: Flight) -> None:
        with self._lock:
            if flight.over or flight.cancelled:
                return
            flight.cancelled = True
            waited = flight in self._waiting
            if waited:
                self._waiting.remove(flight)
            for one in self._up.values():
                one.cancel(flight)
        if waited:
            flight.abort()

    def _samples_waiting(self) -> int:
        return sum(one.samples for one in self._waiting)

    def _open(self, name: str) -> None:
        """Starts a replica and waits until it is there. Raises CutsetError or OSError."""
        launched = self._launcher.start(name)
        connection = ReplicaConnection(name, launched, self._lock)
        try:
            connection.dial(
                self._model,
                self._keys,
                starting=self._times.starting,
                refused=self._times.refused,
                stopped=self._closed.is_set,
                verify=self._verify,
            )
            with self._lock:
                facts = connection.facts
                if not hasattr(self, "facts"):
                    self.facts = facts
                longest = min(facts.context, facts.cache_tokens)
                if longest < min(self.facts.context, self.facts.cache_tokens):
                    raise ConfigError(
                        f"{name} takes {longest} tokens of a sequence, and others more: "
                        "give all replicas the same --max-model-len and --cache-mib"
                    )
                if sorted(facts.adapters) != sorted(self.facts.adapters):
                    raise ConfigError(f"{name} has other LoRA adapters than the others: give all the same")
                if self._closed.is_set():
                    raise EngineError(CLOSED)
                self._up[name] = connection
                connection.begin(self._ended, self._dispatch)
        except BaseException:
            connection.abandon()
            launched.stop()
            raise
        self._dispatch()

    def _ended(self, connection: ReplicaConnection) -> None:
        """The link to a replica is over: what ran there goes on elsewhere, before all that waits."""
        with self._lock:
            self._up.pop(connection.name, None)
            self._routes.forget(connection.name)
            self._past = _added([self._past, connection.counted._replace(**dict.fromkeys(GAUGES, 0))])
            work = [one for one in connection.work.values() if not one.cancelled]
            cancelled = [one for one in connection.work.values() if isinstance(one, Flight) and one.cancelled]
            connection.work.clear()
            if self._closed.is_set():
                return
            expected = connection.draining and not work
            self.lost += not expected
            for one in work:
                one.losses += 1
            failed = [one for one in work if one.losses >= MOST_LOSSES]
            going_on = [one for one in work if one.losses < MOST_LOSSES]
            self.resumed += len(going_on)
            self._waiting.extendleft(reversed(going_on))
        if not expected:
            self._report(f"{connection.name} was lost ({connection.why}); {len(going_on)} requests go on elsewhere")
        for flight in cancelled:
            flight.abort()
        for one in failed:
            log.error("a request was given up: %d replicas were lost while they ran it", MOST_LOSSES)
            one.fail(f"The request was lost with {MOST_LOSSES} replicas, one after another.")
        threading.Thread(target=connection.launched.stop, name="cutset-replica-stop", daemon=True).start()
        self._dispatch()

    def _manage(self) -> None:
        while not self._closed.wait(self._times.tick):
            try:
                self._look(time.monotonic())
            except Exception:  # the next look may go better, and without any nobody would start replicas
                log.exception("the replicas couldn't be looked after")

    def _look(self, now: float) -> None:
        """Does what is due."""
        with self._lock:
            up = list(self._up.values())
            for one in up:
                if now - one.heard > self._times.silence:
                    one.close(f"nothing came from it for {self._times.silence:g} s")
                elif one.draining and not one.work:
                    one.close("it has been drained")
                for work in [each for each in one.work.values() if isinstance(each, EmbedFlight) and each.cancelled]:
                    one.cancel(work)
            self._rescale(now, [one for one in up if not one.draining])
            missing = self._target - sum(not one.draining for one in up) - len(self._starting)
            if missing <= 0 or now < self._next_start:
                return
            taken = self._up.keys() | self._starting
            name = next(name for number in count(1) if (name := f"replica{number}") not in taken)
            self._starting.add(name)
        threading.Thread(target=self._start_one, args=(name,), name="cutset-replica-start", daemon=True).start()

    def _rescale(self, now: float, serving: list[ReplicaConnection]) -> None:
        if self._starting:
            return  # it is to help first
        queued = self._samples_waiting()
        inside = sum(one.stats.waiting for one in serving if one.stats is not None)
        samples = queued + sum(one.samples for one in serving)
        before = self._target
        self._target = self._scale.wanted(now, before, samples, self.facts.slots, queued + inside)
        if self._target < len(serving):
            victim = min(serving, key=lambda one: one.samples)
            victim.draining = True
            self._report(f"{victim.name} takes no more requests and stops when it is done: {self._target} are enough")
        elif self._target > before:
            returning = next((one for one in self._up.values() if one.draining and not one.why), None)
            if returning is not None:
                returning.draining = False
            self._report(f"{queued + inside} samples wait: {self._target} replicas from now on")

    def _start_one(self, name: str) -> None:
        try:
            self._open(name)
            self._failures = 0
            self._report(f"{name} is there")
        except (CutsetError, OSError) as error:
            if self._closed.is_set():
                return
            self._failures += 1
            pause = min(self._times.longest_pause, 0.5 * 2.0**self._failures)
            self._next_start = time.monotonic() + pause
            self._report(f"{name} couldn't be started, again in {pause:g} s: {error}")
        finally:
            with self._lock:
                self._starting.discard(name)


def _added(each: list[EngineStats]) -> EngineStats:
    return EngineStats(*(sum(values) for values in zip(*each, strict=True)))
