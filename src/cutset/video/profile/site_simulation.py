"""Many sites of cameras and one cloud: a plan for each site, and pictures on their way through both, event by event.

A site is a problem of two workers, its box and a machine of the cloud, for the rate of all of its cameras; the plans
are those of `cutset stream plan`, by the same costs. Each site takes the one of least latency that its box and link
bear. Where the cloud is asked for more than it has, sites take work back, those first for which that costs least.

Cameras take pictures at regular times that have nothing to do with each other. What is done at a site is done for one
picture after the other, at the cloud by whichever machine is free.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cutset.partition.choices import compare
from cutset.partition.cost import Part
from cutset.partition.graph import Graph
from cutset.partition.profile import Profile
from cutset.video.profile.setup import Wish, problem_of
from cutset.video.profile.site_scenario import CameraSite, SiteScenario

__all__ = ["Bearing", "SitePlan", "SiteRun", "plan_sites", "run_sites"]

Floats = NDArray[np.float64]
NAMES = ("optimal", "edge", "cloud", "balance")
FULL = 0.9  # of a box, a link or the cloud that plans may use
EDGE, CLOUD = "edge", "cloud"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class SitePlan:
    """One way for a site: what every picture passes. `load`: seconds of box, link and cloud that a picture takes."""

    name: str  # where the pictures are computed: edge, cloud or both
    parts: tuple[Part, ...]

    @property
    def latency(self) -> float:
        """Of a picture that passes alone."""
        return sum(part.seconds + part.latency for part in self.parts)

    def seconds(self, what: str) -> float:
        """That a picture takes of the box (edge), the way to the cloud (link), or a machine of the cloud."""
        return sum(part.seconds for part in self.parts if part_of(part) == what)

    @property
    def nbytes(self) -> float:
        """Over the link to the cloud."""
        return sum(part.nbytes for part in self.parts if part_of(part) == "link")


@dataclass(frozen=True)
class Bearing:
    """How much of the load something bears, in times of what is asked."""

    name: str
    times: float


@dataclass(frozen=True)
class SiteRun:
    """What came of it. Seconds."""

    latency: Floats  # of all simulated pictures
    bearings: list[Bearing]  # what breaks first comes first
    offered: float  # pictures a second
    nbytes: float  # a second over all links
    cloud_load: float  # share of the cloud's machines that work


def part_of(part: Part) -> str:
    """Whose time a part takes: edge, cloud, link, local, or camera, where each has its own."""
    if part.kind == "link":
        return "local" if CLOUD not in (part.party, part.to) else "link"
    return part.party if part.party in (EDGE, CLOUD) else "camera"


def plan_sites(
    scenario: SiteScenario, graph: Graph, digest: str, profile: Profile, progress: Progress
) -> list[SitePlan]:
    """A plan for each site."""
    ways: dict[CameraSite, list[SitePlan]] = {}
    for number, site in enumerate(scenario.sites):
        progress("planning sites", number, len(scenario.sites))
        alike = replace(site, name="", cost=0.0)
        if alike not in ways:
            ways[alike] = _ways(site, scenario, graph, digest, profile)
    progress("planning sites", len(scenario.sites), len(scenario.sites))
    each = [ways[replace(site, name="", cost=0.0)] for site in scenario.sites]
    chosen = [_best(ways, site, scenario) for ways, site in zip(each, scenario.sites, strict=True)]
    spare = FULL * scenario.cloud.machines - _cloud_load(scenario, chosen)
    if spare < 0:
        moves = []
        for number, (options, site) in enumerate(zip(each, scenario.sites, strict=True)):
            now, rate = chosen[number], site.cameras * scenario.rate
            for way in options:
                saved = (now.seconds(CLOUD) - way.seconds(CLOUD)) * rate
                if saved > 0 and _bears(way, site, scenario):
                    moves.append(((way.latency - now.latency) * rate / saved, number, saved, way))
        moved: set[int] = set()
        for _, number, saved, way in sorted(moves, key=lambda move: move[:2]):
            if spare >= 0:
                break
            if number not in moved:
                moved.add(number)
                chosen[number], spare = way, spare + saved
    return chosen


def _ways(site: CameraSite, scenario: SiteScenario, graph: Graph, digest: str, profile: Profile) -> list[SitePlan]:
    wish = Wish(
        speeds=(site.speed, scenario.cloud.speed),
        hops=(site.local, site.link),
        names=(EDGE, CLOUD),
        in_flight=4,
        rate=site.cameras * scenario.rate,
        changed=scenario.changed,
    )
    found: dict[tuple[Part, ...], SitePlan] = {}
    for one in compare(problem_of(graph, digest, profile, None, wish), NAMES):
        if one.plan is not None and one.cost is not None and not one.why_not:
            workers = {stage.worker for stage in one.plan.stages}
            found.setdefault(one.cost.parts, SitePlan(workers.pop() if len(workers) == 1 else "both", one.cost.parts))
    return list(found.values())


def _bears(way: SitePlan, site: CameraSite, scenario: SiteScenario) -> bool:
    rate = site.cameras * scenario.rate
    return all(way.seconds(what) * rate <= FULL for what in (EDGE, "link", "local"))


def _best(ways: list[SitePlan], site: CameraSite, scenario: SiteScenario) -> SitePlan:
    """Of those that box and link bear the quickest; where there is none, the one that is nearest to it."""
    good = [way for way in ways if _bears(way, site, scenario)]
    if good:
        return min(good, key=lambda way: way.latency)
    return min(ways, key=lambda way: max(way.seconds(what) for what in (EDGE, "link", "local")))


def _cloud_load(scenario: SiteScenario, plans: list[SitePlan]) -> float:
    """Machines that work, in the mean."""
    pairs = zip(scenario.sites, plans, strict=True)
    return sum(site.cameras * scenario.rate * plan.seconds(CLOUD) for site, plan in pairs)


def run_sites(scenario: SiteScenario, plans: list[SitePlan]) -> SiteRun:
    """Simulates some seconds, in which each site takes `scenario.pictures` pictures or one of each camera."""
    random = np.random.default_rng(scenario.seed)
    least = min(site.cameras for site in scenario.sites)
    seconds = max(1, -(-scenario.pictures // least)) / scenario.rate
    begun, reached, after = [], [], []
    wanted: list[Floats] = []
    for site, plan in zip(scenario.sites, plans, strict=True):
        rounds = max(1, round(seconds * scenario.rate))
        rounds = min(rounds, max(1, -(-scenario.pictures // site.cameras)))
        phases = random.uniform(0, 1 / scenario.rate, site.cameras)
        start = np.sort((phases[:, None] + np.arange(rounds) / scenario.rate).ravel())
        now, cloud, rest = start, 0.0, 0.0
        for part in plan.parts:
            who = part_of(part)
            if who == CLOUD:
                cloud += part.seconds
            elif cloud:
                rest += part.seconds + part.latency
            elif who == "camera":
                now = now + part.seconds + part.latency
            else:
                now = _one_by_one(now, part.seconds) + part.latency
        begun.append(start)
        reached.append(now)
        wanted.append(np.full(len(now), cloud))
        after.append(np.full(len(now), rest))
    starts, at, work, rest_of = (np.concatenate(one) for one in (begun, reached, wanted, after))
    done = _by_many(at, work, scenario.cloud.machines)
    offered = sum(site.cameras for site in scenario.sites) * scenario.rate
    load = _cloud_load(scenario, plans) / scenario.cloud.machines
    nbytes = sum(s.cameras * scenario.rate * p.nbytes for s, p in zip(scenario.sites, plans, strict=True))
    return SiteRun(done + rest_of - starts, _bearings(scenario, plans, load), offered, nbytes, load)


def _bearings(scenario: SiteScenario, plans: list[SitePlan], load: float) -> list[Bearing]:
    found = [Bearing("the cloud", 1 / load)] if load else []
    words = {EDGE: "the box of", "link": "the link of", "local": "the network of"}
    for site, plan in zip(scenario.sites, plans, strict=True):
        rate = site.cameras * scenario.rate
        for what, text in words.items():
            if taken := plan.seconds(what) * rate:
                found.append(Bearing(f"{text} {site.name}", 1 / taken))
    return sorted(found, key=lambda one: one.times)


def _one_by_one(arrive: Floats, seconds: float) -> Floats:
    """(pictures,) when each is done by somebody who does one after the other, by when they come, in order."""
    number = np.arange(len(arrive))
    # The end is the largest of what began a busy time before it: arrivals less what was to be done before each.
    done: Floats = np.maximum.accumulate(arrive - number * seconds) + (number + 1) * seconds
    return done


def _by_many(arrive: Floats, seconds: Floats, machines: int) -> Floats:
    """(pictures,) when each is done by the first of so many that is free, in the order in which they come."""
    done = np.array(arrive)
    free = [0.0] * min(machines, len(arrive))
    for picture in np.argsort(arrive, kind="stable").tolist():
        if seconds[picture]:
            begin = max(float(arrive[picture]), free[0])
            done[picture] = begin + float(seconds[picture])
            heapq.heapreplace(free, float(done[picture]))
    return done
