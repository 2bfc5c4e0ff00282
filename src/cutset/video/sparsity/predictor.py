"""What is said of the changed fraction of every value before a picture is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cutset.errors import ConfigError, GraphError
from cutset.partition.description import describe, graph_digest, read_description
from cutset.partition.graph import Graph
from cutset.partition.node import Node
from cutset.video.sparsity.archive import read_archive, write_archive
from cutset.video.sparsity.changes import TILES, channels
from cutset.video.sparsity.layers import KINDS, Layer

__all__ = ["Errors", "LastPicture", "Predictor", "Trained", "choose", "read_trained", "run", "start", "write_trained"]

FORMAT = "cutset-sparsity-1"
WHAT = "a sparsity model of `cutset stream train`"

Fractions = NDArray[np.floating[Any]]


class Predictor(Protocol):
    """Says how much of every value of a network will change, before a picture is run."""

    @property
    def name(self) -> str: ...

    def predict(self, picture: Fractions) -> dict[str, float]:
        """The fraction of every value that will change, for a picture of these features (see `changes.features`)."""
        ...

    def observe(self, measured: Mapping[str, float]) -> None:
        """What did change, of those values that were looked at."""
        ...


class LastPicture:
    """As much as at the last picture. What was never looked at: `prior`, or everything."""

    name = "last picture"

    def __init__(self, graph: Graph, prior: Mapping[str, float] | None = None) -> None:
        self._input = graph.inputs[0]
        self._last = dict.fromkeys(graph.values, 1.0) | dict(prior or {})

    def predict(self, picture: Fractions) -> dict[str, float]:
        """As much as was observed last."""
        return self._last | {self._input.name: float(np.mean(picture[: channels(self._input)]))}

    def observe(self, measured: Mapping[str, float]) -> None:
        self._last |= measured


@dataclass(frozen=True)
class Errors:
    """On pictures that the training hasn't seen, those after `seen`: mean absolute error of changed fractions."""

    seen: int  # number of the last picture that it was trained on
    pictures: int
    trained: Mapping[str, float]
    last: Mapping[str, float]

    def nbytes(self, graph: Graph, errors: Mapping[str, float]) -> float:
        """The errors of all values as bytes of them, summed: what planning by them is off by."""
        return sum(errors[name] * value.nbytes for name, value in graph.values.items())


@dataclass(frozen=True)
class Trained:
    """A model of each layer that was fitted to the pictures of one video, and propagates through the graph.

    `mean` is the changed fraction of each value in training, `mask` the bytes of a delta's mask there as a share of a
    bit an element: what `sizes.delta_bytes` wants.
    """

    graph: Graph
    source: str
    layers: Mapping[str, Layer]  # of each value that a node makes
    mean: Mapping[str, float]
    mask: Mapping[str, float]
    errors: Errors
    name: str = "trained"

    def propagate(self, pictures: Fractions) -> dict[str, NDArray[np.float64]]:
        """Every value's fractions (P, channels) for the features of pictures (P, features)."""
        known = np.asarray(pictures, np.float64)
        found = start(self.graph, known)
        for node in self.graph.nodes:
            for value in node.made:
                found[value.name] = run(self.layers[value.name], node, found, known)
        return found

    def predict(self, picture: Fractions) -> dict[str, float]:
        return {name: float(array.mean()) for name, array in self.propagate(np.asarray(picture)[None]).items()}

    def observe(self, measured: Mapping[str, float]) -> None:
        """Is what it is."""

    def check(self, digest: str) -> None:
        """Raises ConfigError unless it was trained for the graph of this digest."""
        own = graph_digest(self.graph)
        if own != digest:
            raise ConfigError(
                f"the sparsity model is of another network or picture size (graph {own[:12]}, not {digest[:12]}); "
                "train one with `cutset stream train`"
            )


def choose(trained: Trained) -> tuple[Predictor, str]:
    """The predictor that was better on held-out pictures, and a line that says so."""
    errors = trained.errors
    ours, last = (errors.nbytes(trained.graph, e) / 1e3 for e in (errors.trained, errors.last))
    said = f"on {errors.pictures} held-out pictures it was {ours:,.0f} kB off, the last picture {last:,.0f} kB"
    if ours < last:
        return trained, f"changes are predicted by the trained model: {said}"
    return LastPicture(trained.graph, trained.mean), f"changes are predicted by the last picture, not the model: {said}"


def start(graph: Graph, known: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The fractions (P, channels) of the graph's inputs: the picture's, and 1 for others, of which nothing is known."""
    first, *others = graph.inputs
    found = {value.name: np.ones((len(known), channels(value))) for value in others}
    return {first.name: known[:, : channels(first)]} | found


def run(
    layer: Layer, node: Node, found: Mapping[str, NDArray[np.float64]], known: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What a layer says, given what was found of the values before it, and what is known of the pictures."""
    if layer.of_picture:
        return layer([known])
    # A constant reads nothing and never changes.
    return layer([found[name] for name in node.reads] or [np.zeros((len(known), 1))])


def write_trained(path: Path, trained: Trained) -> None:
    """Raises ConfigError where it can't be written."""
    names = list(trained.graph.values)
    errors = trained.errors
    header = {
        "format": FORMAT,
        "source": trained.source,
        "graph": describe(trained.graph),
        "seen": errors.seen,
        "held_out": errors.pictures,
        "layers": {name: layer.kind for name, layer in trained.layers.items()},
    }
    table = np.array([[of[name] for name in names] for of in (errors.trained, errors.last, trained.mean, trained.mask)])
    arrays: dict[str, np.ndarray[Any, Any]] = {"table": table}
    for k, name in enumerate(names):
        if name in trained.layers:
            layer = trained.layers[name]
            arrays |= {f"{k} {field.name}": getattr(layer, field.name) for field in fields(layer)}
    write_archive(path, header, arrays)


def read_trained(path: Path) -> Trained:
    """Raises ConfigError for what is no such file."""
    header, arrays = read_archive(path, FORMAT, WHAT)
    try:
        graph = read_description(header["graph"])
        names = list(graph.values)
        table = arrays["table"]
        if table.shape != (4, len(names)) or not np.isfinite(table).all() or not graph.inputs:
            raise ValueError("its table of errors is damaged")
        ours, last, mean, mask = (dict(zip(names, row.tolist(), strict=True)) for row in table)
        layers = {
            value.name: _layer(graph, value.name, header["layers"][value.name], names.index(value.name), arrays)
            for node in graph.nodes
            for value in node.made
        }
        seen, count = int(header["seen"]), int(header["held_out"])
        source = str(header["source"])[:200]
    except (AttributeError, GraphError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{str(path)!r} is not {WHAT}: {error}") from None
    return Trained(graph, source, layers, mean, mask, Errors(seen, count, ours, last))


def _layer(graph: Graph, name: str, kind: str, number: int, arrays: Mapping[str, Any]) -> Layer:
    of = KINDS[kind]
    layer: Layer = of(*(arrays[f"{number} {field.name}"].astype(np.float64) for field in fields(of)))
    node = graph.nodes[graph.maker[name]]
    reads = [channels(graph.values[read]) for read in node.reads] or [1]
    if layer.of_picture:
        reads = [channels(graph.inputs[0]) + len(TILES)]
    if not layer.fits(reads, channels(graph.values[name])) or not all(
        np.isfinite(getattr(layer, field.name)).all() for field in fields(layer)
    ):
        raise ValueError(f"the layer {name} is damaged")
    return layer
