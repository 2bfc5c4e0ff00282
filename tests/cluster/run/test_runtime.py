"""A run without torch and without pictures: stages, sources and an input encoding of another kind are handed in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.run.running import Running
from cutset.cluster.coordinator.coordinator import Coordinator
from cutset.cluster.coordinator.even import even_plan
from cutset.cluster.coordinator.switching import Options
from cutset.cluster.inputs import PlainInputs, SourceItem
from cutset.cluster.messages import Report
from cutset.cluster.model import Model
from cutset.cluster.stage import WeightFile
from cutset.cluster.values import Array, Bytes
from cutset.cluster.worker.settings import WorkerSettings
from cutset.errors import ConfigError, CutsetError, FrameError
from cutset.partition.graph import Graph
from cutset.partition.node import Node, Read, Value, Weight
from cutset.partition.plan import Plan, StagePlan

SHAPE = (1, 5)
VALUE = Value("x", SHAPE, "float32")


def sums() -> Model:
    """x → running sum of x in its source → that plus a weight."""
    nodes = (
        Node("sum", "", "sum", (Read("x"),), (), (Value("s", SHAPE, "float32"),), False, 5),
        Node("shift", "", "shift", (Read("s"), Weight("w")), (), (Value("y", SHAPE, "float32"),), False, 5),
    )
    graph = Graph((VALUE,), ("y",), nodes, {"w": Value("w", SHAPE, "float32")})
    return Model(graph, {"w": np.arange(5, dtype=np.float32).reshape(SHAPE)})


class Sums:
    """A stage with state: what came before, source by source."""

    def __init__(self, graph: Graph, nodes: Collection[int], weights: Mapping[str, Array]) -> None:
        self.inputs, self.outputs = graph.boundary(nodes)
        self._nodes, self._weights = [graph.nodes[i] for i in nodes], weights
        self._before: dict[int, Array] = {}

    def run(
        self, source: int, values: Mapping[str, Array], observe: Callable[[float], None] | None = None
    ) -> dict[str, Array]:
        found = dict(values)
        for node in self._nodes:
            if node.op == "sum":
                found["s"] = self._before[source] = self._before.get(source, np.float32(0)) + found["x"]
            else:
                found["y"] = found["s"] + self._weights["w"]
            if observe is not None:
                observe(0.25)
        return {name: found[name] for name in self.outputs}


class Halves:
    """Inputs as float16, both ends. What is said of an item is its number."""

    limit = 10

    def encode(self, source: int, number: int, given: SourceItem) -> tuple[bytes, list[Bytes]]:
        return b"%d" % number, [given.array.astype(np.float16).reshape(-1).view(np.uint8)]

    def decode(self, source: int, head: bytes, arrays: Sequence[Bytes]) -> Array:
        if not head.isdigit() or len(arrays) != 1:
            raise FrameError("no halves")
        return arrays[0].view(np.float16).astype(np.float32).reshape(SHAPE)


class SumsRuntime:
    software, device = "numpy", "here"

    def begin_thread(self) -> None:
        pass

    def stage(self, graph: Graph, nodes: Collection[int], weights: Mapping[str, Array]) -> Sums:
        return Sums(graph, nodes, weights)

    def decoder(self, encoding: str, value: Value, settings: bytes) -> Halves:
        if (encoding, settings) != ("halves", b"agreed"):
            raise ConfigError(f"there is no encoding {encoding}")
        return Halves()

    def open_weights(self, path: Path) -> WeightFile:
        raise AssertionError("no file was given")


class HalvesInputs(PlainInputs):
    def check(self, encoding: str, value: Value) -> None:
        if encoding != "halves":
            super().check(encoding, value)

    def settings(self, encoding: str) -> bytes:
        return b"agreed"

    def encoder(self, encoding: str, value: Value) -> Halves:
        return Halves()


@pytest.fixture
def addresses(tmp_path: Path) -> Iterator[dict[str, tuple[str, bytes | None]]]:
    workers = [Running(f"ipc://{tmp_path}/{i}", WorkerSettings(SumsRuntime())) for i in range(2)]
    yield {f"w{i}": (worker.address, None) for i, worker in enumerate(workers)}
    for worker in workers:
        worker.close()


def items(seed: int, count: int = 12) -> list[Array]:
    return [np.float32(np.random.default_rng([seed, i]).integers(-99, 99, SHAPE)) for i in range(count)]


def played(addresses: Any, plan: Plan, **how: Any) -> tuple[list[Any], list[Report]]:
    reports: list[Report] = []
    coordinator = Coordinator(
        sums(),
        addresses,
        lambda alive, why: plan,
        [items(0), items(1)],
        Options(profile=True),
        observe=lambda report, plan, seconds: reports.append(report),
        **how,
    )
    results = []
    try:
        while (result := coordinator.results.get(timeout=30)) is not None:
            if isinstance(result, CutsetError):
                raise result
            results.append(result)
            coordinator.took()
    finally:
        coordinator.close()
    return results, reports


@pytest.mark.parametrize("encoding", ["", "halves"])
def test_stages_of_another_kind_keep_state_source_by_source(addresses: Any, encoding: str) -> None:
    model = sums()
    plan = Plan(model.digest, (StagePlan("w0", (0,)), StagePlan("w1", (1,))), encoding)
    results, reports = played(addresses, plan, inputs=HalvesInputs())
    for source in (0, 1):
        wanted = np.cumsum(items(source), 0, dtype=np.float32) + model.weights["w"]
        mine = [result for result in results if result.source == source]
        assert [result.number for result in mine] == list(range(12))
        assert all(np.array_equal(one.output, right) for one, right in zip(mine, wanted, strict=True))
        assert all(np.array_equal(one.input, given) for one, given in zip(mine, items(source), strict=True))
    first = [report for report in reports if report.party == "w0"]
    assert sorted((report.source, report.number) for report in first) == [(s, n) for s in (0, 1) for n in range(12)]
    assert all(report.layer_seconds == [0.25] for report in first)
    kinds = {edge.kind for report in first for edge in report.received}
    assert kinds <= ({"input"} if encoding else {"key", "delta"}), "how items reached the first stage"
    assert not encoding or {edge.nbytes for report in first for edge in report.received} == {10}


def test_an_encoding_that_the_sources_do_not_have_is_refused(addresses: Any) -> None:
    plan = Plan(sums().digest, even_plan(sums(), list(addresses)).stages, "halves")
    with pytest.raises(ConfigError, match="sends inputs as halves, which these sources don't have"):
        played(addresses, plan)
