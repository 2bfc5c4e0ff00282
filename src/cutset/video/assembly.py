"""From settings to what a stream runs on: sources, the network's graph, workers, links and who makes plans.

Both faces build their streams with `assemble`; the commands that only plan or measure use its parts.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cutset.cluster.coordinator.advisor import Advisor
from cutset.cluster.coordinator.coordinator import Planner
from cutset.cluster.coordinator.joining import check_joining, joiners, open_rendezvous
from cutset.cluster.coordinator.plans import check_fits, even_plan, lacking
from cutset.cluster.coordinator.reach import Addresses
from cutset.cluster.coordinator.switching import Options
from cutset.cluster.emulation import parse_speeds
from cutset.cluster.launch.party_evidence import check_evidence
from cutset.cluster.launch.ray_launcher import RayOptions, check_ray
from cutset.codec import Budget
from cutset.config import StreamSettings
from cutset.errors import ConfigError, RequestError, first_line
from cutset.link.keys import Keys, load_keys, load_public
from cutset.link.rendezvous import Rendezvous
from cutset.partition.hop import DIRECT, Hop, connections, parse_hops
from cutset.partition.node import ITEM_BYTES
from cutset.partition.plan import COORDINATOR, Plan, read_plan
from cutset.video.accuracy import CALIBRATED, DELTA_ERROR, Accuracy
from cutset.video.delta.box_agreement import Detections, Disagreement
from cutset.video.delta.calibrator import Calibrator
from cutset.video.network_model import NetworkModel
from cutset.video.networks import open_file, open_network, own_size, profile_name
from cutset.video.picture_inputs import PictureInputs
from cutset.video.planning import check_promise, measured_planner, source_price, source_sizes
from cutset.video.profile.setup import Progress, Wish, no_progress
from cutset.video.runtimes.choose import choose_runtime, stamped, whole_network
from cutset.video.sources import Source, Tolerance, VideoCodec, open_source
from cutset.video.sources.faults import no_log
from cutset.video.sources.letterboxed import LetterboxedSource

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Addresses", "Assembly", "Given", "assemble", "open_sources"]

STARTING = 30.0  # seconds that workers on a busy machine may take to start, and others to dial in


@dataclass(frozen=True)
class Given:
    """What a program hands to a stream as objects, in place of settings that would name or describe it."""

    workers: Addresses | None = None  # by name: address and public key
    plan: Plan | None = None
    planner: Advisor | Callable[[Any, Sequence[str], str], Plan] | None = None
    keys: Keys | None = None
    links: Mapping[tuple[str, str], Hop] | None = None  # to emulate, by sender and receiver
    options: Options | None = None
    detections: Detections | None = None  # of the outputs, for `min_agreement`


@dataclass
class Assembly:
    """All that a coordinator is made of. `close` ends the planner and closes the sources that were opened here."""

    settings: StreamSettings
    model: NetworkModel
    sources: list[Iterable[Any]]
    workers: int | Addresses  # so many to start here, or where they are
    options: Options
    keys: Keys | None
    links: Mapping[tuple[str, str], Hop] | None
    plan: Plan | None
    advisor: Advisor | None
    planner: Planner
    accuracy: Accuracy | None
    parts: contextlib.ExitStack = field(repr=False)
    rendezvous: Rendezvous | None = None  # where workers dial in
    ray: RayOptions | None = None  # how Ray places those that are started here
    runtime: str = ""  # what plans name that name nothing else; "": the network's reference

    @property
    def names(self) -> list[str]:
        """Of the workers, nearest to the camera first."""
        return _names(self.workers)

    @property
    def addresses(self) -> Addresses:
        """Of workers that aren't started here."""
        return {} if isinstance(self.workers, int) else self.workers

    @property
    def speeds(self) -> tuple[float, ...]:
        """Of each local worker, as a share of this machine's; () where nothing is emulated."""
        return parse_speeds(self.settings.speed, len(self.names)) if self.settings.speed else ()

    @property
    def opened(self) -> list[Source]:
        """The sources that were opened, and others of their kind; not those that are any iterable."""
        return [source for source in self.sources if isinstance(source, Source)]

    @property
    def codecs(self) -> list[VideoCodec | None]:
        """Of each source; None where its packets can't be forwarded."""
        return [getattr(source, "codec", None) for source in self.sources]

    @property
    def inputs(self) -> PictureInputs:
        """What a coordinator must know of the sources' pictures."""
        return PictureInputs(self.codecs)

    def close(self) -> None:
        """A second call does nothing."""
        self.parts.close()


def assemble(
    model: str | nn.Module | NetworkModel,
    sources: Sequence[Any],
    settings: StreamSettings,
    given: Given | None = None,
    *,
    log: Callable[[str], None] = no_log,
    on_source: Callable[[str], None] | None = None,
    progress: Progress = no_progress,
) -> Assembly:
    """Opens sources, exports the network, and measures what planners need. Messages of sources go to
    `on_source`, all others (and, without it, those too) to `log`.

    A source is a text for `open_source`, or any iterable of pictures. Raises CutsetError, and leaves nothing open.
    """
    given = given or Given()
    if not sources:
        raise RequestError("a stream needs a source of pictures")
    measures = given.planner is None and _measures(settings, given)
    with contextlib.ExitStack() as parts:
        options = given.options or options_of(settings)
        accuracy = _accuracy(settings, options, given)
        if accuracy is not None:
            options = replace(options, budget=accuracy.budget, levels=accuracy.levels, delta_scale=accuracy.delta_scale)
        workers = given.workers if given.workers is not None else workers_of(settings)
        ray = _ray(settings, workers)
        _check_evidence(settings, workers)
        if isinstance(workers, int):  # they are on their way
            options = replace(options, gather=max(options.gather, STARTING))
        plan = given.plan or (read_plan(settings.plan) if settings.plan else None)
        keys = given.keys or (load_keys(settings.key) if settings.key and not isinstance(workers, int) else None)
        names = _names(workers)
        rendezvous = None
        if not isinstance(workers, int) and joiners(workers):
            rendezvous = open_rendezvous(settings.workers_listen, workers, keys, log)
            options = replace(options, gather=max(options.gather, STARTING))
        if rendezvous is not None:
            parts.callback(rendezvous.close)
        network = open_file(model)
        read = open_sources(sources, settings, settings.picture_size or own_size(network), parts, on_source or log)
        if isinstance(network, NetworkModel):
            label, exported = "a network", network
        else:
            first, read[0] = _peek(read[0])
            label, exported = _exported(network, first, settings, log)
        runtime = choose_runtime(exported, settings.runtime, settings.tolerance, settings.threads, log)
        if accuracy is not None and settings.delta_compute:
            _measure_beside(accuracy, exported, runtime, settings.threads, log)
        found = Assembly(
            settings=settings,
            model=exported,
            sources=read,
            workers=workers,
            options=options,
            keys=keys,
            rendezvous=rendezvous,
            links=given.links or _links(settings, names),
            plan=plan,
            advisor=given.planner if isinstance(given.planner, Advisor) else None,
            planner=lambda alive, why: even_plan(exported, alive),
            accuracy=accuracy,
            parts=parts,
            ray=ray,
            runtime=runtime,
        )
        if plan is not None:
            check_fits(plan, exported, names, found.inputs)
            if idle := set(names) - {stage.worker for stage in plan.stages}:
                log(f"the plan gives nothing to do to {', '.join(name for name in names if name in idle)}")
        if measures:
            source = sources[0] if isinstance(sources[0], str | Path) else read[0]
            live, price = getattr(read[0], "live", False), None
            if accuracy is not None and settings.delta_compute and not live:
                price = source_price(exported, source, settings, runtime=runtime, progress=progress)
            if accuracy is not None and price is not None:
                accuracy.begin(price.scale)
                found.options = replace(found.options, delta_scale=accuracy.delta_scale)
            found.advisor = measured_planner(
                label,
                exported,
                settings,
                _wish(found),
                None if live else source_sizes(exported, source, progress),
                packets=None not in found.codecs,
                runtime=runtime,
                price=price,
                log=log,
                progress=progress,
            )
        if found.advisor is not None:
            parts.callback(found.advisor.close)
        check_promise(settings, plan, found.advisor.planner if found.advisor is not None else None)
        found.planner = _planner(found, given.planner, log)
        found.parts = parts.pop_all()
        return found


def _accuracy(settings: StreamSettings, options: Options, given: Given) -> Accuracy | None:
    """What keeps the error within its limit; None where everything is exact. Raises ConfigError."""
    limit, disagreement = settings.max_error, None
    if settings.min_agreement is not None:
        if not settings.delta_compute:
            raise ConfigError("--min-agreement is for --delta-compute; --max-error limits what links leave out")
        if limit is not None:
            raise ConfigError("give either --max-error or --min-agreement, not both")
        if given.detections is None:
            raise ConfigError("--min-agreement needs a detector: nothing says what this network's outputs detect")
        limit, disagreement = 1 - settings.min_agreement, Disagreement(given.detections)
    elif limit is None and settings.delta_compute:
        limit = DELTA_ERROR
    if limit is None:
        return None
    return Accuracy(
        limit, options.budget, options.levels, incremental=settings.delta_compute, disagreement=disagreement
    )


def _measure_beside(
    accuracy: Accuracy, model: NetworkModel, runtime: str, threads: int, log: Callable[[str], None]
) -> None:
    """Lets pictures be checked by the runtime that plans name, and thresholds be found for each layer."""
    if runtime:
        accuracy.dense = whole_network(model, runtime, threads)
    if accuracy.limit:
        # With a stage of its own, since it has its own thread: a module that is being trained is in one mode at a time.
        dense = whole_network(model, runtime, threads)
        accuracy.calibrator = Calibrator(
            model, dense, accuracy.moved, CALIBRATED, threads=threads, runtime=runtime, log=log
        )


def _measures(settings: StreamSettings, given: Given) -> bool:
    """Whether plans are made from measurements, or only a given one and even splits are played.

    Raises ConfigError for a setting of planners that was given by hand and would then be ignored.
    """
    if settings.scheduler != "even" and not (settings.scheduler == "auto" and (settings.plan or given.plan)):
        return True
    flags = [f"--{name}" for name in ("objective", "profile", "sparsity", "look") if settings.by_hand(name)]
    if flags:
        why = "--scheduler even splits" if settings.scheduler == "even" else "--plan alone plays a plan"
        raise ConfigError(f"{' and '.join(flags)}: {why} without measuring; name a planner, as --scheduler optimal")
    return False


def options_of(settings: StreamSettings) -> Options:
    """How pictures travel."""
    return Options(
        deltas=settings.mode == "delta",
        in_flight=settings.in_flight,
        budget=Budget(settings.threshold, settings.float16),
        levels=settings.levels,
        deadline=settings.deadline,
        rate=settings.rate,
        patience=settings.patience,
        silence=settings.silence,
    )


def workers_of(settings: StreamSettings) -> int | Addresses:
    """How many are to be started here, or their names with addresses and public keys. Raises ConfigError."""
    if isinstance(settings.workers, int):
        for name in ("key", "worker_keys", "workers_listen"):
            if getattr(settings, name) and settings.by_hand(name):
                flag = name.replace("_", "-")
                raise ConfigError(f"--{flag} is for workers at addresses: name them with --workers tcp://…")
        return settings.workers
    if settings.speed and settings.by_hand("speed"):
        raise ConfigError("--speed is for workers that are started here; give it to `cutset stream worker`")
    names, public = settings.workers, [load_public(path) for path in settings.worker_keys]
    if public and len(public) != len(names):
        raise ConfigError(f"--worker-keys names {len(public)} keys for {len(names)} workers")
    if not names or len(set(names)) != len(names):
        raise ConfigError("--workers names a worker twice" if names else "--workers names no worker")
    found: Addresses = {name: (name, public[i] if public else None) for i, name in enumerate(names)}
    check_joining(settings.workers_listen, found, "workers")
    return found


def _ray(settings: StreamSettings, workers: int | Addresses) -> RayOptions | None:
    counted, insecure = isinstance(workers, int), settings.insecure_ray
    return check_ray(settings.ray, settings.place, insecure=insecure, counted=counted, flag="--workers")


def _check_evidence(settings: StreamSettings, workers: int | Addresses) -> None:
    """Raises ConfigError for a policy that workers can't be asked by, and evidence that nobody asks for."""
    places = [] if isinstance(workers, int) else [where for where, _ in workers.values()]
    # Those that were started for a run by its settings are at addresses, too, where it has several streams.
    here = isinstance(settings.workers, int) and bool(settings.worker_evidence)
    check_evidence("worker", settings.worker_policy, settings.worker_evidence, () if here else places)


def _names(workers: int | Addresses) -> list[str]:
    return [f"worker{i + 1}" for i in range(workers)] if isinstance(workers, int) else list(workers)


def _links(settings: StreamSettings, names: Sequence[str]) -> Mapping[tuple[str, str], Hop] | None:
    """Every connection on the line of parties, to be emulated."""
    if not settings.link:
        return None
    return connections([COORDINATOR, *names], parse_hops(settings.link, len(names)))


def open_sources(
    sources: Sequence[Any],
    settings: StreamSettings,
    size: tuple[int, int] | None,
    parts: contextlib.ExitStack,
    log: Callable[[str], None],
) -> list[Iterable[Any]]:
    """The sources, those that are named opened until `parts` ends. Raises CutsetError."""
    letterbox = settings.fit == "letterbox"
    if letterbox and size is None:
        raise ConfigError("--fit letterbox needs the rows and columns that the network takes: --size 640x640")
    tolerance = Tolerance(settings.bad_packets, settings.source_timeout, settings.source_patience)
    found: list[Iterable[Any]] = []
    for source in sources:
        if isinstance(source, str | Path):
            opened = open_source(
                str(source), limit=settings.limit, size=None if letterbox else size, tolerance=tolerance, log=log
            )
            parts.callback(opened.close)
            if letterbox and size is not None:
                opened = LetterboxedSource(opened, size)
            found.append(opened)
        else:
            found.append(source if settings.limit is None else _limited(source, settings.limit))
    if len({source.size for source in found if hasattr(source, "size")}) > 1:
        raise RequestError("the sources have pictures of different sizes; give --size")
    return found


def _limited(source: Iterable[Any], limit: int) -> Iterable[Any]:
    """At most so many pictures."""
    return source[:limit] if isinstance(source, list | tuple) else itertools.islice(source, limit)


def _peek(source: Iterable[Any]) -> tuple[Any, Iterable[Any]]:
    """The first picture of a source, and the source with it. Raises RequestError."""
    if isinstance(source, Source):
        return np.zeros((3, *source.size), np.uint8), source
    rest = iter(source)
    first = next(rest, None)
    if first is None:
        raise RequestError("the source has no picture")
    return first, source if isinstance(source, list | tuple) else itertools.chain([first], rest)


def _exported(
    network: Any, first: Any, settings: StreamSettings, log: Callable[[str], None]
) -> tuple[str, NetworkModel]:
    """The network for pictures like this one, and its name in a profile. Raises CutsetError."""
    try:
        picture = np.asarray(getattr(first, "pixels", first))
    except (TypeError, ValueError, RuntimeError) as error:
        raise RequestError(f"a picture must be an array: {first_line(error)}") from None
    if picture.dtype.name not in ITEM_BYTES:
        raise RequestError(f"pictures of dtype {picture.dtype} can't be sent; known: {', '.join(ITEM_BYTES)}")
    shape = picture.shape if picture.ndim == 4 else (1, *picture.shape)
    if len(shape) != 4 or shape[0] != 1:
        raise RequestError(f"a picture has shape (channels, height, width), not {list(picture.shape)}")
    model = open_network(network, shape, picture.dtype.name, settings, picture=picture, log=log)
    return profile_name(network, settings.features), model


def _wish(found: Assembly) -> Wish:
    """What planners are to count with."""
    links, names = found.links or {}, found.names
    return Wish(
        speeds=found.speeds or (1.0,) * len(names),
        hops=tuple(links.get(pair, DIRECT) for pair in itertools.pairwise([COORDINATOR, *names])),
        names=names,
        objective=found.settings.objective,
        in_flight=found.options.in_flight,
        rate=_rate(found.options, len(found.sources)),
        mode="delta" if found.options.deltas else "full",
        pictures_stay=found.settings.pictures_stay,
    )


def _rate(options: Options, sources: int) -> float | None:
    """Pictures a second of all sources, where that is known."""
    rates = [options.rate_of(i) for i in range(sources)]
    return sum(rate for rate in rates if rate is not None) if None not in rates else None


def _planner(found: Assembly, given: Any, log: Callable[[str], None]) -> Planner:
    """Plays the plan that was given while its workers are there, and asks whoever makes plans else."""

    def plan(alive: Sequence[str], why: str) -> Plan:
        return stamped(chosen(alive, why), found.runtime)

    def chosen(alive: Sequence[str], why: str) -> Plan:
        if found.plan is not None:
            missing = lacking(found.plan, alive)
            if not missing:
                return found.plan
            log(f"the plan that was given needs {', '.join(missing)}, not there now: another one is made")
        if found.advisor is not None:
            return found.advisor.plan(alive, why)
        made: Plan = given(found.model, alive, why) if given is not None else even_plan(found.model, alive)
        return made

    return plan
