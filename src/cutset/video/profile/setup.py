"""From a network, a machine and a source of pictures to a problem that planners can solve."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from cutset.config import usable_cores
from cutset.errors import ConfigError, RequestError
from cutset.partition.graph import Graph
from cutset.partition.hop import Hop
from cutset.partition.problem import Machine, Objective, Problem, scaled
from cutset.partition.profile import FORMAT, Profile, Sizes, cpu_name, keep, kept, machine_of, put
from cutset.partition.timing import Run, measure_layers, quickest
from cutset.partition.traffic import Coded, Mode, Traffic, changed, dense
from cutset.video.picture_forms import FORMS, LOSSY
from cutset.video.privacy import picture_like
from cutset.video.runtimes import FUSED, has_onnx, installed, open_stage, packages, reference_of
from cutset.video.runtimes.checked import made_up

if TYPE_CHECKING:
    from cutset.video.delta.pricing import DeltaPrice
    from cutset.video.sources import Picture, VideoCodec

__all__ = [
    "Wish",
    "guessed_traffic",
    "measure_pictures",
    "measure_profile",
    "network_run",
    "no_progress",
    "other_inputs",
    "problem_of",
    "sizes_of",
    "torch_threads",
    "typical_pairs",
]

Progress = Callable[[str, int, int], None]
MOST_HELD = 1 << 29  # bytes of pictures
REFUSED = dict.fromkeys(LOSSY, "it changes the picture")  # encodings that no plan is given unless it is asked for
WORDS = {"": "the pictures", "packets": "the encoded video", **{name: form.words for name, form in FORMS.items()}}
QUICKER = 2.0  # times as quick as remembered: then the machine was busy when it was measured
MORE = 48  # pictures of an encoded source, whose packets differ more than pictures do


def no_progress(what: str, done: int, total: int) -> None:
    """The callback of who shows no progress."""


@dataclass(frozen=True)
class Wish:
    """What a user says of machines, links and what counts; see `Problem` for the words."""

    speeds: Sequence[float] = (1.0,)  # of each worker, as multiples of its profile's machine
    hops: Sequence[Hop] = (Hop(),)
    names: Sequence[str] = ()  # of the workers; none: worker1, worker2, …
    memory: Sequence[int | None] = ()  # bytes of each worker; none: no limits
    objective: Objective = "latency"
    in_flight: int = 1
    rate: float | None = None
    mode: Mode = "delta"
    horizon: float = math.inf
    slack: float = 0.03
    pictures_stay: bool = False
    changed: float = 0.2  # share of every value that changes from picture to picture, where nothing was measured
    jpeg: bool = False  # plans may send JPEG pictures, which changes the results
    profiles: Sequence[Profile] = field(default_factory=tuple)  # of each worker; none: all are the first machine's


def measure_profile(
    name: str,
    graph: Graph,
    digest: str,
    tensors: Mapping[str, Any],
    *,
    threads: int,
    fresh: bool = False,
    progress: Progress = no_progress,
    runtime: str = "",
) -> Profile:
    """This machine's profile of a network, from the cache unless `fresh`, or if the network is much quicker now: the
    machine was busy then. Sets torch's threads for measuring. `tensors` and `runtime` are those of `open_stage`.
    """
    from cutset.codec.costs import measured

    chosen = runtime or reference_of(graph)
    versions = packages("cutset", chosen.partition("+")[0], *([] if has_onnx(graph) else ["torch"]))
    versions |= {"runtime": FUSED} if chosen == FUSED else {}
    with torch_threads(threads, graph):
        run = network_run(graph, tensors, chosen, threads)
        known = None if fresh else kept(digest, threads, versions)
        if known is not None and known.whole <= QUICKER * quickest(run):
            return msgspec.structs.replace(known, model=name)  # a file may be called otherwise now
        times = measure_layers(run, progress=progress)
    costs = measured()
    shape = graph.inputs[0].shape
    profile = Profile(
        format=FORMAT,
        model=name,
        size=(shape[-2], shape[-1]) if len(shape) > 1 else (1, shape[-1]),
        graph=digest,
        cpu=cpu_name(),
        cores=usable_cores(),
        threads=threads,
        versions=versions,
        seconds=times.seconds,
        spread=times.spread,
        whole=times.whole,
        observing=times.overhead,
        rounds=times.rounds,
        encode=costs.encode,
        decode=costs.decode,
    )
    keep(profile)
    return profile


@contextlib.contextmanager
def torch_threads(threads: int, graph: Graph) -> Iterator[None]:
    """Torch with so many threads, where a graph of it is run."""
    if has_onnx(graph):
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def network_run(graph: Graph, tensors: Mapping[str, Any], runtime: str = "", threads: int = 1) -> Run:
    """The whole network on made-up pictures, to be timed. Torch's threads are as they are set.

    Where a runtime fuses the nodes, they are observed as the graph's reference runs them, one by one: what each takes
    of the whole is known from there.
    """
    everything, reference = range(len(graph.nodes)), reference_of(graph)
    inputs = {value.name: made_up(value) for value in graph.inputs}
    whole = open_stage(graph, everything, tensors, runtime, threads=threads)
    apart = whole
    if (runtime or reference) != "torch" and installed(reference):
        apart = open_stage(graph, everything, tensors, reference, threads=threads, by_node=True)

    def run(observe: Callable[[float], None] | None) -> None:
        seen: list[float] = []
        (whole if observe is None else apart).run(0, inputs, seen.append if observe else None)
        if observe is not None:  # without the reference, by what moves and is computed
            for part in seen or [node.flops + sum(v.nbytes for v in node.made) + 1.0 for node in graph.nodes]:
                observe(part)

    return run


def guessed_traffic(graph: Graph, profile: Profile, share: float) -> dict[str, Traffic]:
    """Traffic of values of which that share changes, with this machine's codec: plain, and with a shorter mask."""
    if not 0 <= share <= 1:
        raise ConfigError(f"the share that changes must be from 0 to 1, not {share:g}")
    encode, decode = profile.encode.get("bits", 0.0), profile.decode.get("bits", 0.0)
    copy = profile.decode.get("dense", 0.0)
    return {
        value.name: Traffic((dense(value, copy),), (changed(value, share, encode, decode),))
        for value in graph.values.values()
    }


def measure_pictures(
    graph: Graph,
    tensors: Mapping[str, Any],
    source: str,
    *,
    size: tuple[int, int],
    count: int,
    progress: Progress = no_progress,
) -> Sizes:
    """`sizes_of` the first pictures of a source, at most `MORE` or `count`; of a live one, the `count` that come first.
    They are scaled to `size` where they have another.

    Raises CutsetError for a source that can't be read or has too few pictures.
    """
    from cutset.video.sources import open_source

    room = max(MOST_HELD // (3 * size[0] * size[1]), 2)
    with open_source(source, limit=min(max(count, MORE), room), size=size) as opened:
        pictures = list(islice(opened, count)) if opened.live else list(opened)
        return sizes_of(graph, tensors, pictures, opened.codec, source, count=count, progress=progress)


def sizes_of(
    graph: Graph,
    tensors: Mapping[str, Any],
    pictures: Sequence[Picture],
    codec: VideoCodec | None,
    source: str,
    *,
    count: int,
    among: slice = slice(None),
    progress: Progress = no_progress,
) -> Sizes:
    """What values cost to send for consecutive pictures, and the pictures in their encodings.

    `count` of those `among` them go through the network, as typical pairs. Packets are decoded from the first on, so it
    must open a group. `source` is their name.
    """
    from cutset.video.profile.payloads import measure_sizes, measure_value, measured_inputs

    ways = measured_inputs(codec, pictures)
    chosen = pictures[among]
    groups = typical_pairs([picture.pixels for picture in chosen], count)
    values = measure_sizes(graph, tensors, groups, progress)
    first = graph.inputs[0]
    values[first.name] = measure_value(first, [each.pixels for each in chosen])
    return Sizes(
        source=source,
        items=sum(map(len, groups)),
        values={name: put(one.traffic, one.changed) for name, one in values.items()},
        encodings={name: put(traffic, 1.0) for name, traffic in ways.items()},
    )


def typical_pairs(pictures: Sequence[NDArray[np.uint8]], count: int) -> list[list[NDArray[np.uint8]]]:
    """Pairs of consecutive pictures, `count` pictures in all, in which as much changes as in all pairs.

    Of the pairs in order of how much changes, those at even distances: their median is near that of all.
    """
    wanted = min(count, len(pictures)) // 2
    if wanted < 1:
        raise RequestError("sizes need at least two pictures; the source has fewer")
    shares = [np.count_nonzero(a != b) for a, b in pairwise(pictures)]
    order = sorted(range(len(shares)), key=shares.__getitem__)
    places = sorted(order[int((i + 0.5) * len(order) / wanted)] for i in range(wanted))
    return [list(pictures[at : at + 2]) for at in places]


def problem_of(
    graph: Graph,
    digest: str,
    profile: Profile,
    sizes: Sizes | None,
    wish: Wish,
    price: DeltaPrice | None = None,
) -> Problem:
    """The problem that a user states. With a `price`, measured on this machine, stages may compute what changed alone.

    Raises ConfigError for numbers that don't go together or can't be.
    """
    count = len(wish.speeds)
    names = tuple(wish.names) or tuple(f"worker{i + 1}" for i in range(count))
    profiles = tuple(wish.profiles) or (profile,) * count
    memory = tuple(wish.memory) or (None,) * count
    for what, many in (("names", names), ("profiles", profiles), ("memory limits", memory), ("links", wish.hops)):
        if len(many) != count:
            raise ConfigError(f"there are {count} workers and {len(many)} {what}; give one for each")
    for each in (profile, *profiles):
        each.check(graph, digest, f"the profile of {each.cpu}")
    machines = tuple(
        scaled(_changed(machine_of(own, name, memory=limit, reference=profile), price), speed)
        for own, name, limit, speed in zip(profiles, names, memory, wish.speeds, strict=True)
    )
    traffic = sizes.traffic() if sizes else guessed_traffic(graph, profile, wish.changed)
    return Problem(
        graph=graph,
        digest=digest,
        machines=machines,
        hops=tuple(wish.hops),
        traffic=traffic,
        inputs=picture_inputs(graph, traffic, sizes, jpeg=wish.jpeg),
        objective=wish.objective,
        in_flight=wish.in_flight,
        rate=wish.rate,
        mode=wish.mode,
        horizon=wish.horizon,
        slack=wish.slack,
        private=picture_like(graph) if wish.pictures_stay else frozenset(),
        partial={} if price is None else price.traffic(graph, traffic),
    )


def _changed(machine: Machine, price: DeltaPrice | None) -> Machine:
    """The machine, which computes what changed alone as much quicker or slower than this one as it computes all. What
    dense took beside it counts, not this machine's profile, which may be of a busier hour."""
    if price is None:
        return machine
    return replace(machine, changed=price.work.times(float(machine.seconds.sum()) / max(price.dense, 1e-9)))


def picture_inputs(
    graph: Graph, traffic: Mapping[str, Traffic], sizes: Sizes | None, *, jpeg: bool = False
) -> dict[str, Traffic]:
    """How a plan may send pictures: as payloads of pixels, as packets where the source has them, in lossless forms."""
    known = sizes.inputs() if sizes else {}
    forms = [name for name, form in FORMS.items() if form.planned and (not form.lossy or (jpeg and name == "jpeg"))]
    encodings = ["packets", *forms]
    return {"": traffic[graph.inputs[0].name], **{name: known[name] for name in encodings if name in known}}


def other_inputs(problem: Problem, sizes: Sizes | None) -> dict[str, Traffic]:
    """Encodings that are shown for comparison, whether or not plans may choose them: all forms that were measured, and
    floating-point numbers, as older systems send them, in any case."""
    first = problem.graph.inputs[0]
    others = {"float32": Traffic((Coded(4 * first.nbytes),))} if first.dtype == "uint8" else {}
    known = sizes.inputs() if sizes else {}
    return {**others, **{name: known[name] for name in FORMS if name in known}}
