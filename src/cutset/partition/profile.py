"""A profile: seconds of each layer on a machine, what its codec costs, and what values cost to send. And its files.

Profiles that were measured before, of the same graph, machine, threads and versions, lie in `cutset/profiles` below
$XDG_CACHE_HOME (~/.cache), a file each, and can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from cutset.config import usable_cores
from cutset.errors import ConfigError
from cutset.files import write_atomically
from cutset.partition.graph import Graph
from cutset.partition.problem import Machine
from cutset.partition.traffic import Coded, Traffic
from cutset.reading import read_bytes, read_struct

__all__ = [
    "Profile",
    "Sizes",
    "ValueCost",
    "cpu_name",
    "keep",
    "kept",
    "machine_of",
    "put",
    "read_profile",
    "write_profile",
]

FORMAT = "cutset-profile-1"
MOST_BYTES = 64 << 20  # of a file
Positive = Annotated[float, msgspec.Meta(ge=0)]
Way = tuple[Positive, Positive, Positive]
Name = Annotated[str, msgspec.Meta(max_length=1000)]
Ways = Annotated[list[Way], msgspec.Meta(max_length=8)]
Times = Annotated[tuple[Positive, ...], msgspec.Meta(max_length=100_000)]


class ValueCost(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What one value costs to send: ways of [bytes, seconds to encode, seconds to decode]."""

    key: Ways
    delta: Ways
    changed: Positive  # share of its elements that changed from item to item
    mean: Positive = 1.0  # see Traffic


class Sizes(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What the values cost to send, for items of one source."""

    source: Name
    items: int = msgspec.field(name="pictures")
    values: dict[Name, ValueCost]
    encodings: dict[Name, ValueCost] = msgspec.field(name="forms")  # of the input, by `Plan.input`

    def traffic(self) -> dict[str, Traffic]:
        """By the values' names."""
        return {name: _traffic(cost) for name, cost in self.values.items()}

    def inputs(self) -> dict[str, Traffic]:
        """Of the input in other encodings than ordinary payloads, by `Plan.input`."""
        return {name: _traffic(cost) for name, cost in self.encodings.items()}


class Profile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One machine and one network, for inputs of one size."""

    format: str
    model: Name
    size: tuple[int, int]  # rows and columns
    graph: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    cpu: Name
    cores: int
    threads: int
    versions: dict[Name, Name]
    seconds: Times
    spread: Times
    whole: Positive
    observing: float  # what observing cost, as a share of `whole`
    rounds: int
    encode: dict[Name, Positive]  # the codec, in seconds a byte; see cutset.codec.costs
    decode: dict[Name, Positive]
    sizes: Sizes | None = None

    def check(self, graph: Graph, digest: str, where: str = "this profile") -> None:
        """Raises ConfigError unless it is of that graph."""
        if self.graph != digest:
            raise ConfigError(
                f"{where} is of another model, input size or version of torch ({self.model}, "
                f"{self.size[0]}x{self.size[1]}, graph {self.graph[:12]}, not {digest[:12]}); "
                "measure one with `cutset stream profile`"
            )
        if len(self.seconds) != len(graph.nodes):
            raise ConfigError(f"{where} has times for {len(self.seconds)} layers; the graph has {len(graph.nodes)}")


def machine_of(profile: Profile, name: str, *, memory: int | None = None, reference: Profile | None = None) -> Machine:
    """The machine of a profile. With `reference`, the profile where sizes were measured, its codec is compared."""
    codec = 1.0
    if reference is not None and reference is not profile:
        pairs = [
            (getattr(profile, side)["bits"], getattr(reference, side)["bits"])
            for side in ("encode", "decode")
            if "bits" in getattr(profile, side) and getattr(reference, side).get("bits", 0.0) > 0
        ]
        codec = math.prod(mine / its for mine, its in pairs) ** (1 / max(len(pairs), 1))
    return Machine(name, np.array(profile.seconds), memory, codec)


def write_profile(profile: Profile) -> str:
    """The text of the file."""
    return msgspec.json.format(msgspec.json.encode(profile), indent=1).decode() + "\n"


def read_profile(path: Path) -> Profile:
    """Raises ConfigError for what is no profile."""
    profile = read_struct(read_bytes(path, MOST_BYTES, "profile"), Profile, f"{path} is not a profile")
    if profile.format != FORMAT:
        raise ConfigError(f"{path} is not a profile: its format is not {FORMAT}")
    if not all(math.isfinite(seconds) for seconds in (*profile.seconds, profile.whole)):
        raise ConfigError(f"{path}: a layer's time is not finite")
    return profile


def put(traffic: Traffic, changed: float) -> ValueCost:
    """A value's traffic as the file has it."""
    return ValueCost(list(traffic.key), list(traffic.delta), changed, traffic.mean)


def _traffic(cost: ValueCost) -> Traffic:
    return Traffic(tuple(Coded(*way) for way in cost.key), tuple(Coded(*way) for way in cost.delta), cost.mean)


def cpu_name() -> str:
    """The processor's model."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()[:200]
    return (platform.processor() or platform.machine() or "unknown")[:200]


def kept(digest: str, threads: int, versions: Mapping[str, str]) -> Profile | None:
    """The profile of that graph on this machine, with so many threads and those versions of what computes.

    It has no sizes. None if there is none.
    """
    try:
        profile = read_profile(_place(digest, threads, versions))
    except ConfigError:
        return None
    return profile if (profile.graph, profile.threads) == (digest, threads) else None


def keep(profile: Profile) -> None:
    """Remembers a profile, where that is possible."""
    place = _place(profile.graph, profile.threads, profile.versions)
    with contextlib.suppress(OSError, ConfigError):
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(place, write_profile(msgspec.structs.replace(profile, sizes=None)))


def _place(digest: str, threads: int, versions: Mapping[str, str]) -> Path:
    key = json.dumps([digest, cpu_name(), usable_cores(), threads, versions], sort_keys=True)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "cutset" / "profiles" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
