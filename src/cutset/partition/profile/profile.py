"""A profile as a file: seconds of each layer on a machine, what its codec costs, and what values cost to send."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np

from cutset.errors import ConfigError
from cutset.partition.graph import Graph
from cutset.partition.machines import Machine
from cutset.partition.traffic import Coded, Traffic
from cutset.reading import read_bytes, read_struct

__all__ = ["Profile", "Sizes", "forms", "machine_of", "put", "read_profile", "write_profile"]

FORMAT = "cutset-profile-1"
MOST_BYTES = 64 << 20  # of a file
Positive = Annotated[float, msgspec.Meta(ge=0)]
Way = tuple[Positive, Positive, Positive]
Name = Annotated[str, msgspec.Meta(max_length=1000)]
Ways = Annotated[list[Way], msgspec.Meta(max_length=8)]
Times = Annotated[tuple[Positive, ...], msgspec.Meta(max_length=100_000)]


class Cost(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What one value costs to send: ways of [bytes, seconds to encode, seconds to decode]."""

    key: Ways
    delta: Ways
    changed: Positive  # share of its elements that changed from picture to picture
    mean: Positive = 1.0  # see Traffic


class Sizes(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What the values cost to send, for pictures of one source."""

    source: Name
    pictures: int
    values: dict[Name, Cost]
    forms: dict[Literal["float32", "jpeg", "packets"], Cost]  # of a picture, beside the input's own

    def traffic(self) -> dict[str, Traffic]:
        """By the values' names."""
        return {name: _traffic(cost) for name, cost in self.values.items()}


class Profile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One machine and one network, for pictures of one size."""

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
                f"{where} is of another model, picture size or version of torch ({self.model}, "
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


def put(traffic: Traffic, changed: float) -> Cost:
    """A value's traffic as the file has it."""
    return Cost(list(traffic.key), list(traffic.delta), changed, traffic.mean)


def _traffic(cost: Cost) -> Traffic:
    return Traffic(tuple(Coded(*way) for way in cost.key), tuple(Coded(*way) for way in cost.delta), cost.mean)


def forms(sizes: Sizes) -> Mapping[Literal["float32", "jpeg", "packets"], Traffic]:
    """The forms of a picture, beside the input's own."""
    return {form: _traffic(cost) for form, cost in sizes.forms.items()}
