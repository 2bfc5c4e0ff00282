"""Which values would show a picture."""

from __future__ import annotations

import pytest

from cutset.partition.graph import Graph
from cutset.partition.node import Argument, Node, Read, Value, Weight
from cutset.video.privacy import picture_like

WEIGHTS = {
    "k3": Value("k3", (8, 3, 3, 3), "float32"),
    "k1": Value("k1", (8, 3, 1, 1), "float32"),
    "each": Value("each", (3, 1, 3, 3), "float32"),
    "matrix": Value("matrix", (10, 100), "float32"),
    "vector": Value("vector", (3,), "float32"),
}


def graph(*nodes: tuple[str, str, tuple[Argument, ...]]) -> Graph:
    made = tuple(
        Node(name, name, f"aten.{op}.default", args, (), (Value(name, (4,), "float32"),), False, 1)
        for name, op, args in nodes
    )
    return Graph((Value("x", (4,), "uint8"),), (nodes[-1][0],), made, WEIGHTS)


def conv(read: str, weight: str, groups: int = 1) -> tuple[Argument, ...]:
    return Read(read), Weight(weight), None, (1, 1), (1, 1), (1, 1), groups


@pytest.mark.parametrize(
    ("op", "args", "shows"),
    [
        ("conv2d", conv("x", "k3"), False),
        ("conv2d", (Read("x"), Weight("k3"), None), False),
        ("conv2d", conv("x", "k1"), True),
        ("conv2d", conv("x", "each", 3), True),
        ("convolution", (*conv("x", "k3")[:6], False, (0, 0), 1), False),
        ("convolution", (*conv("x", "each")[:6], False, (0, 0), 3), True),
        ("linear", (Read("x"), Weight("matrix"), None), False),
        ("sub", (Read("x"), Weight("vector")), True),
        ("max_pool2d", (Read("x"), (2, 2)), True),
        ("relu", (Read("x"),), True),
        ("permute", (Read("x"), (0, 2, 3, 1)), True),
    ],
)
def test_layers_that_mix_and_those_that_do_not(op: str, args: tuple[Argument, ...], shows: bool) -> None:
    assert ("y" in picture_like(graph(("y", op, args)))) is shows


def test_every_path_must_mix() -> None:
    """A sum with the picture shows the picture, however deep the other side is."""
    found = picture_like(
        graph(
            ("scaled", "div", (Read("x"),)),
            ("a", "conv2d", conv("scaled", "k3")),
            ("b", "relu", (Read("a"),)),
            ("sum", "add", (Read("b"), Read("scaled"))),
            ("c", "conv2d", conv("sum", "k3")),
        )
    )
    assert found == {"x", "scaled", "sum"}
