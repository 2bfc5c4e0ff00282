"""Where the lines of a drawn graph run: one node a row, and a lane for each value while somebody still reads it."""

from __future__ import annotations

from dataclasses import dataclass

from cutset.partition.graph import Graph

__all__ = ["Edge", "Lanes", "lay_out"]


@dataclass(frozen=True)
class Edge:
    """From the row that makes a value, down its lane, to a row that reads it."""

    lane: int
    start: tuple[int, int]  # row, lane
    end: tuple[int, int]


@dataclass(frozen=True)
class Lanes:
    """Row 0 is the input, row k the k-th node, the last row the output; `lanes` is the lane of each row's dot."""

    lanes: tuple[int, ...]
    edges: tuple[Edge, ...]
    width: int


def lay_out(graph: Graph) -> Lanes:
    """A node takes the leftmost lane of the values that end with it, so that a trunk stays where it is."""
    end = len(graph.nodes) + 1
    last = {name: max(readers, default=-1) + 1 for name, readers in graph.readers.items()}
    busy: dict[int, str] = {}  # lane: the value in it
    lane_of: dict[str, int] = {}
    row_of = {name: at + 1 for name, at in graph.maker.items()}
    dots: list[int] = []
    edges: list[Edge] = []
    width = 1

    def take(name: str) -> None:
        nonlocal width
        lane = next(k for k in range(len(busy) + 1) if k not in busy)
        busy[lane], lane_of[name] = name, lane
        width = max(width, lane + 1)

    for row in range(end + 1):
        node = graph.nodes[row - 1] if 0 < row < end else None
        reads = node.reads if node else tuple(dict.fromkeys(graph.outputs)) if row == end else ()
        ending = [lane_of[name] for name in reads if last[name] == row]
        free = next(k for k in range(len(busy) + 1) if k not in busy)
        dot = min(ending, default=free)
        dots.append(dot)
        width = max(width, dot + 1)
        for name in reads:
            edges.append(Edge(lane_of[name], (row_of[name], dots[row_of[name]]), (row, dot)))
        for lane in ending:
            del busy[lane]
        made = node.made if node else graph.inputs if row == 0 else ()
        wanted = [value.name for value in made if last[value.name] > row]
        for k, name in enumerate(wanted):
            if k == 0 and dot not in busy:
                busy[dot], lane_of[name] = name, dot
            else:
                take(name)
    return Lanes(tuple(dots), tuple(edges), width)
