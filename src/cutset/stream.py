"""Stream: pictures in, results out, from Python."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cutset.cluster.coordinator.advisor import Advisor
from cutset.cluster.coordinator.coordinator import Coordinator
from cutset.cluster.coordinator.switching import Options
from cutset.cluster.launch import Launcher
from cutset.cluster.launch.local import LocalWorkers
from cutset.cluster.launch.party_evidence import PartyEvidence
from cutset.cluster.launch.supervisor import Supervisor
from cutset.cluster.messages import HANDSHAKE, Report
from cutset.config import StreamSettings, load_stream_settings
from cutset.errors import ConfigError, CutsetError, RequestError
from cutset.link.keys import Keys
from cutset.link.peer import Handshake
from cutset.partition.hop import Hop
from cutset.partition.plan import Plan
from cutset.video.assembly import Addresses, Assembly, Given, assemble
from cutset.video.delta.box_agreement import Detections
from cutset.video.network_model import NetworkModel
from cutset.video.ray_workers import ray_workers
from cutset.video.result import Result
from cutset.video.runtimes.choose import stamped

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Stream", "StreamSettings", "worker_evidence"]

# What settings were called as keywords before there were settings.
EARLIER = {"half": "float16", "speeds": "speed"}


class Stream:
    """Results for the pictures of one or several sources, computed by several workers.

        with Stream("alexnet", pictures, workers=3) as stream:
            for result in stream:
                print(result.picture, result.top(1))

    `model` is a name of the zoo, an ONNX file ("yolo.onnx"), a torch module, or a `NetworkModel`. A source is any
    iterable of pictures, arrays (3, height, width) or (1, 3, height, width) of uint8, or of the dtype that a module of
    your own takes; or a text such as "street.mp4", "camera:0" or "generated:480x720". Results come in order for each
    source; leaving the `with` block early stops everything.
    """

    def __init__(
        self,
        model: str | nn.Module | NetworkModel,
        *sources: str | Path | Iterable[Any],
        settings: StreamSettings | None = None,
        workers: int | Sequence[str] | Addresses | None = None,
        plan: str | Path | Plan | None = None,
        planner: Advisor | Callable[[Any, Sequence[str], str], Plan] | None = None,
        keys: Keys | None = None,
        paces: Mapping[tuple[str, str], Hop] | None = None,
        options: Options | None = None,
        detections: Detections | None = None,
        observe: Callable[[Report, Plan, float], None] | None = None,
        log: Callable[[str], None] = lambda line: None,
        **single: Any,
    ) -> None:
        """`settings` say how the network runs; without, they are loaded as by the command line, and each may be given
        as a keyword (in_flight, rate, threshold, scheduler, … see `cutset config`).

        Objects stand in place of settings: `workers`, by name addresses and public keys; a `plan`; `keys`, this side's
        pair; `paces`, slow connections to emulate by the names of sender and receiver; `options`, which override
        mode, in_flight, rate, deadline, threshold, float16, levels, patience and silence.
        `detections` makes boxes (n, 6) of the outputs by name: left, top, right, bottom, score, class; for
        `min_agreement`.
        `planner(model, workers that are there, why)` makes the plans in place of the scheduler, or an `Advisor` does.
        `observe` hears each party's report of each picture, times on this side's clock, with the plan and the seconds
        that the picture's bytes took to that party; `log` gets a line on what happens. Other threads call both.
        Raises CutsetError: ConfigError, GraphError, ModelError, RequestError, SourceError.
        """
        log = single.pop("tell", log)  # its earlier name
        addresses = workers if isinstance(workers, Mapping) else None
        single |= {} if addresses is not None else {"workers": workers}
        single |= {} if isinstance(plan, Plan) else {"plan": None if plan is None else str(plan)}
        single = {name: value for name, value in single.items() if value is not None}
        given = Given(addresses, plan if isinstance(plan, Plan) else None, planner, keys, paces, options, detections)
        self._begin(assemble(model, sources, _settings(settings, single), given, log=log), observe, log)

    @classmethod
    def of(
        cls,
        assembly: Assembly,
        *,
        observe: Callable[[Report, Plan, float], None] | None = None,
        log: Callable[[str], None] = lambda line: None,
    ) -> Stream:
        """A stream of what `cutset.video.assembly.assemble` put together, which it closes in the end."""
        self = cls.__new__(cls)
        self._begin(assembly, observe, log)
        return self

    def _begin(
        self,
        assembly: Assembly,
        observe: Callable[[Report, Plan, float], None] | None,
        log: Callable[[str], None],
    ) -> None:
        self.settings, self.model, self.accuracy = assembly.settings, assembly.model, assembly.accuracy
        self._assembly, self._over = assembly, False
        self._local: LocalWorkers | None = None
        self._coordinator: Coordinator | None = None
        self._started = contextlib.ExitStack()  # workers, and what looks after them
        launcher: Launcher | None = None
        keys, accuracy = assembly.keys, self.accuracy

        def hear(report: Report, plan: Plan, seconds: float) -> None:
            if accuracy is not None:
                accuracy.heard(report, plan)
            if observe is not None:
                observe(report, plan, seconds)

        try:
            evidence, handshake = worker_evidence(self.settings), _asking(self.settings, log)
            if assembly.ray is not None:
                launcher = placed = ray_workers(assembly.ray, assembly, log, evidence)
                self._started.callback(placed.close)
                keys = placed.keys
            elif isinstance(assembly.workers, int):
                settings = assembly.settings
                local = LocalWorkers(
                    assembly.workers, threads=settings.threads, speeds=assembly.speeds, evidence=evidence
                )
                self._started.callback(local.close)
                launcher, keys = local, local.keys
                self._local = local
                local.stock(self.model)
            if launcher is not None:
                self._started.callback(Supervisor(launcher, log).close)
            self._coordinator = Coordinator(
                self.model,
                launcher.addresses if launcher is not None else assembly.addresses,
                assembly.planner,
                assembly.sources,
                assembly.options,
                inputs=assembly.inputs,
                keys=keys,
                rendezvous=assembly.rendezvous,
                handshake=handshake,
                locate=launcher.locate if launcher is not None else None,
                paces=assembly.links,
                observe=observe if accuracy is None else hear,
                advisor=assembly.advisor,
                log=log,
            )
            if assembly.advisor is not None:
                propose, runtime = self._coordinator.propose, assembly.runtime
                assembly.advisor.propose = lambda plan, why: propose(stamped(plan, runtime), why)
        except BaseException:
            self.close()
            raise

    @property
    def coordinator(self) -> Coordinator:
        """What runs: plans, clock offsets, `propose` for another plan. Raises RequestError once closed."""
        if self._coordinator is None:
            raise RequestError("this stream is closed")
        return self._coordinator

    @property
    def advisor(self) -> Advisor | None:
        """What plans and looks for better plans; None for even splits and a planner that is a function."""
        return self._assembly.advisor

    @property
    def local(self) -> LocalWorkers | None:
        """The workers on this machine, if the stream started them."""
        return self._local

    def __iter__(self) -> Iterator[Result]:
        return self

    def __next__(self) -> Result:
        """Waits for the next result. Raises CutsetError if the stream can't go on."""
        if self._over or self._coordinator is None:
            raise StopIteration
        item = self._coordinator.results.get()
        if isinstance(item, Result):
            if self.accuracy is not None and self.accuracy.check(self.model, item):
                kept = self.accuracy
                self._coordinator.allow(kept.budget, kept.levels, kept.delta_scale, kept.factors)
            self._coordinator.took()
            return item
        self._over = True
        if isinstance(item, CutsetError):
            raise item
        raise StopIteration

    def stop(self) -> None:
        """No further result: iterating ends, also where it waits. From any thread, and from a signal handler."""
        self._over = True
        coordinator = self._coordinator
        if coordinator is not None:
            coordinator.results.put(None)

    def close(self) -> None:
        """Stops whatever is on its way, and the workers that were started. A second call does nothing."""
        coordinator, self._coordinator = self._coordinator, None
        with contextlib.ExitStack() as parts:  # from last to first; a signal meanwhile leaves none of them open
            parts.callback(self._started.close)
            parts.callback(self._assembly.close)
            if self.accuracy is not None:
                parts.callback(self.accuracy.close)
            if coordinator is not None:
                parts.callback(coordinator.close)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def worker_evidence(settings: StreamSettings) -> PartyEvidence | None:
    """What workers show and want that are started for a run; None where they show nothing. Raises ConfigError."""
    if not settings.worker_evidence:
        return None
    from cutset.trust.evidence.party_policy import party_evidence

    carried = bool(settings.ray)
    return party_evidence(settings.worker_evidence, "--worker-policy", settings.worker_policy, carried=carried)


def _asking(settings: StreamSettings, log: Callable[[str], None]) -> Handshake:
    """What every worker is told and asked before it gets anything. Raises ConfigError."""
    if settings.worker_policy is None:
        return HANDSHAKE
    from cutset.trust.evidence.link_evidence import verify_by

    return replace(HANDSHAKE, verify=verify_by(settings.worker_policy, warn=log))


def _settings(settings: StreamSettings | None, single: dict[str, Any]) -> StreamSettings:
    """The settings of a call. Raises ConfigError for ones that are unknown or wrong, or given in both ways."""
    named = {EARLIER.get(name, name): value for name, value in single.items()}
    if "head" in named:
        named["features"] = not named.pop("head")
    if settings is not None and named:
        raise ConfigError("give either settings or single ones, not both")
    return settings or load_stream_settings(named)
