"""Plans: their edges, their file, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cutset.errors import CutsetError
from cutset.partition.graph import Graph
from cutset.partition.node import Node, Read, Value
from cutset.partition.plan import Plan, StagePlan, read_plan, write_plan


def _node(name: str, *reads: str) -> Node:
    return Node(
        name, name, "aten.relu.default", tuple(Read(r) for r in reads), (), (Value(name, (4,), "float32"),), False, 4
    )


GRAPH = Graph(
    (Value("x", (4,), "float32"),),
    ("d",),
    (_node("a", "x"), _node("b", "a"), _node("c", "b"), _node("d", "c", "a")),
    {},
)
PLAN = Plan("g", (StagePlan("u", (0,)), StagePlan("v", (1,)), StagePlan("w", (2, 3))), "", "hand")


def test_a_value_that_a_later_stage_needs_is_on_every_hop_up_to_there() -> None:
    PLAN.check(GRAPH, "g")
    assert PLAN.edges(GRAPH) == (("x",), ("a",), ("a", "b"), ("d",))


def test_the_file_gives_the_plan_back(tmp_path: Path) -> None:
    plan = replace(PLAN, stages=(StagePlan("u", (0, 2, 3, 4, 9)), StagePlan("v", (1,))))
    (tmp_path / "p.json").write_bytes(write_plan(plan))
    assert read_plan(tmp_path / "p.json") == plan == read_plan(write_plan(plan))


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ((("u", (0, 1)),), "runs 2 of"),
        ((("u", (0, 1)), ("v", (1, 2, 3))), "earlier stage"),
        ((("u", (1, 0)), ("v", (2, 3))), "rising"),
        ((("u", (0, 2)), ("v", (1, 3))), "no cut"),
        ((("u", (0, 1)), ("u", (2, 3))), "twice"),
        ((("u", ()), ("v", (0, 1, 2, 3))), "rising"),
    ],
)
def test_what_is_no_plan_for_the_graph_is_refused(stages: tuple[tuple[str, tuple[int, ...]], ...], says: str) -> None:
    with pytest.raises(CutsetError, match=says):
        replace(PLAN, stages=tuple(StagePlan(*stage) for stage in stages)).check(GRAPH, "g")


def test_a_plan_for_another_graph_is_refused() -> None:
    with pytest.raises(CutsetError, match="another model"):
        PLAN.check(GRAPH, "h")


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"format":"x","graph":"g","stages":[],"picture":"uint8","scheduler":""}']
)
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(CutsetError, match="not a plan"):
        read_plan(text.encode())


OLD = b'{"format":"cutset-plan-1","graph":"g","stages":[{"worker":"u","nodes":[[0,3]]}],"picture":"%s","scheduler":""}'


@pytest.mark.parametrize(("written", "meant"), [("uint8", ""), ("packets", "packets"), ("jpeg", "jpeg")])
def test_files_of_earlier_versions_are_read(written: str, meant: str) -> None:
    plan = read_plan(OLD % written.encode())
    assert plan == Plan("g", (StagePlan("u", (0, 1, 2, 3)),), meant)
    assert written.encode() in write_plan(plan), "and earlier versions read ours"


@pytest.mark.parametrize("written", ["", "x" * 41])
def test_names_of_encodings_are_short(written: str) -> None:
    with pytest.raises(CutsetError, match="not a plan"):
        read_plan(OLD % written.encode())


@pytest.mark.parametrize("nodes", ["[[3,1]]", "[-1]", "[[0,1,2]]", "[[0,99999999]]"])
def test_absurd_ranges_are_refused(nodes: str) -> None:
    with pytest.raises(CutsetError, match="no range"):
        read_plan(
            b'{"format":"cutset-plan-1","graph":"g","stages":[{"worker":"u","nodes":%s}],"picture":"uint8","scheduler":""}'
            % nodes.encode()
        )
