"""What a worker computes with. This package knows no framework: whoever starts a worker hands in its `Runtime`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from cutset.cluster.inputs import InputDecoder
from cutset.cluster.values import Array
from cutset.codec.changed import Changed
from cutset.partition.graph import Graph
from cutset.partition.node import Value

if TYPE_CHECKING:
    from cutset.kernels import native

__all__ = [
    "Abilities",
    "ExpectingStage",
    "IncrementalRuntime",
    "IncrementalStage",
    "NativeStage",
    "Runtime",
    "Stage",
    "WeightFile",
]

# The weight of this name from a file, as that value; None where the file has none of that shape.
WeightFile = Callable[[str, Value], Array | None]


@dataclass(frozen=True)
class Abilities:
    """What a worker says of how it can compute, for whoever must have the same everywhere."""

    build: str = ""  # what results depend on beside version and instruction set
    isas: Sequence[str] = ()  # instruction sets, weakest first
    speeds: Sequence[float] = ()  # with each, as shares of the last one's
    dtypes: Sequence[str] = ()
    kv_dtypes: Sequence[str] = ()


class Stage(Protocol):
    """One worker's share of a plan: values in, values out, each an array as `cutset.cluster.values` describes it.

    Items of one source come in order, and a stage may keep what it needs of them for the next one, source by source.
    It is forgotten when its plan is over.
    """

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the values that it takes."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the values that others need of it."""

    def run(
        self, source: int, values: Mapping[str, Array], observe: Callable[[float], None] | None = None
    ) -> dict[str, Array]:
        """The outputs of an item. `values` has the inputs, and may have more; the stage doesn't write to them.

        `observe` is called with the seconds of each node, in the order of the graph; not at all where they aren't run
        one by one. Raises CutsetError.
        """


class IncrementalStage(Stage, Protocol):
    """A stage that computes again only what changed since the item before of the same source."""

    scale: float  # of the thresholds within which what is held stays; 0: every bit is followed
    factors: Mapping[str, float]  # of the thresholds of single values, by name, where it isn't 1

    @property
    def shares(self) -> list[float]:
        """Of each node, in the order of the graph, the share of its output that the last item took."""

    def run(
        self,
        source: int,
        values: Mapping[str, Array],
        observe: Callable[[float], None] | None = None,
        changed: Mapping[str, Changed] | None = None,
    ) -> dict[str, Array]:
        """`changed` says, of inputs of which it is known, which elements were replaced since the item before."""


@runtime_checkable
class ExpectingStage(Protocol):
    """A stage that can begin with an item when it has the graph's input alone (see `Options.direct`)."""

    def expect(self, source: int, values: Mapping[str, Array]) -> None:
        """`run` will be called with these very arrays, among others. Not always by the thread that computes; what is
        wrong with them is said by `run`."""


@runtime_checkable
class NativeStage(ExpectingStage, Protocol):
    """An ExpectingStage whose steps native code can start with what comes in a ring (native.StepHop): the one value of
    a hop, whose bytes are the step's hidden states."""

    @property
    def linears(self) -> native.Linears:
        """What computes the products of its steps."""

    def ready_step(self, values: Mapping[str, Array]) -> native.Step | None:
        """A step for the oldest item that is expected, whose input this is; None where it must be `run`. `close_step`
        is called before anything else."""

    def close_step(
        self, values: Mapping[str, Array], step: native.Step, end: native.HopEnd | None, *, sent: bool = False
    ) -> dict[str, Array]:
        """The outputs of that item, as `run` gives them; {} where the step wasn't started, so that `run` may still be
        called, or its outputs were `sent`. Raises CutsetError."""


class Runtime(Protocol):
    """Makes what a worker needs to compute. Used from several threads."""

    @property
    def software(self) -> str:
        """Its name and version, for the worker's card."""

    @property
    def device(self) -> str:
        """Where it computes."""

    def begin_thread(self) -> None:
        """To be called first by every thread that makes or runs stages."""

    def stage(self, graph: Graph, nodes: Collection[int], weights: Mapping[str, Array], runtime: str = "") -> Stage:
        """A stage of these nodes, ready for its first item. Raises GraphError where it can't be one or run here.

        `runtime` is what the plan says that it is to be computed with, "" where it says nothing: see `StagePlan`.
        """

    def decoder(self, encoding: str, value: Value, settings: bytes) -> InputDecoder:
        """The worker's end of an input encoding. Raises ConfigError for one that it doesn't know."""

    def open_weights(self, path: Path) -> WeightFile:
        """A file of weights. Raises CheckpointError."""


@runtime_checkable
class IncrementalRuntime(Runtime, Protocol):
    """A runtime whose stages may compute what changed alone."""

    def incremental_stage(
        self, graph: Graph, nodes: Collection[int], weights: Mapping[str, Array], scale: float, runtime: str = ""
    ) -> IncrementalStage:
        """Like `stage`; `runtime` computes dense. Raises ConfigError and DeviceError where it can't be done here."""
