"""A graph as a drawing: a line a layer, its costs as bars, and the values that run past it. SVG, or HTML around it.

The file needs nothing from a network, and follows the reader's light or dark setting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from cutset.partition.description import graph_digest
from cutset.partition.graph import Graph
from cutset.partition.node import Node, Value, short_name

__all__ = ["Edge", "Lanes", "count", "html", "kilobytes", "lay_out", "lows", "shape_text", "svg"]

ROW = 20  # height of a line
DOWN = 4  # from the middle of a line of text to its foot
LANE = 14  # distance of the lines on the left
LETTER = 7.3  # width of a letter of the monospaced text
BAR = 130  # the longest bar
NUMBER = 78  # room for the number before a bar
TOP = 112  # of the first line

# Colours in light and in dark. Classes and no CSS variables, which some programs that show SVG don't know.
PALETTE = {
    "paper": ("#ffffff", "#14171a"),
    "ink": ("#1f2328", "#e3e6e9"),
    "faint": ("#656d76", "#9aa3ac"),
    "line": ("#e6e8eb", "#2a2f35"),
    "flops": ("#4477aa", "#7aa6d6"),
    "weights": ("#9a6fb0", "#bf98d2"),
    "cut": ("#228833", "#5fbf6c"),
    "low": ("#cc3311", "#ff7a5c"),
}
LANES = (
    ("#57606a", "#aab4be"),
    ("#0077bb", "#4db1f0"),
    ("#ee7733", "#ffa266"),
    ("#009988", "#3fc7b5"),
    ("#cc3377", "#f07ab0"),
    ("#8a7a00", "#d8c74a"),
)
SHAPES = """
text { font: 12px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace; white-space: pre; }
.title { font-size: 17px; font-weight: 600; } .end { text-anchor: end; } .low { font-weight: 600; }
.rule { stroke-width: 1; } .edge { fill: none; stroke-width: 2; } .dot { stroke-width: 2; }
.under { opacity: 0; } .row:hover .under { opacity: 1; }
"""


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


def count(number: float) -> str:
    """A large number with a prefix: `1.43 G`, `61.1 M`."""
    for power, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= power:
            return f"{number / power:.3g} {prefix}"
    return f"{number:.0f} "


def kilobytes(nbytes: int) -> str:
    """Bytes in units of 1000: `1,036.8`."""
    return f"{nbytes / 1000:,.1f}"


def shape_text(value: Value) -> str:
    """`1×64×119×179`, with the dtype where it isn't float32."""
    sizes = "×".join(map(str, value.shape)) or "scalar"
    return sizes if value.dtype == "float32" else f"{sizes} {value.dtype}"


def _style() -> str:
    rules = []
    for k in (0, 1):
        fills = [f".{name} {{ fill: {colours[k]}; }}" for name, colours in PALETTE.items()]
        lanes = [f".s{i} {{ stroke: {lane[k]}; }} .f{i} {{ fill: {lane[k]}; }}" for i, lane in enumerate(LANES)]
        rules.append(" ".join([*fills, f".rule {{ stroke: {PALETTE['line'][k]}; }}", *lanes]))
    return f"{SHAPES}{rules[0]}\n@media (prefers-color-scheme: dark) {{ {rules[1]} }}\n"


def html(graph: Graph, title: str, workers: Sequence[str] = ()) -> str:
    """A page with the drawing; rows show more under the mouse."""
    style = (
        "body{margin:0;background:#fff}@media(prefers-color-scheme:dark){body{background:#14171a}}svg{max-width:none}"
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n{svg(graph, title, workers)}</html>\n"
    )


def svg(graph: Graph, title: str, workers: Sequence[str] = ()) -> str:
    """The drawing. `title` stands above it, with the totals; `workers`: who runs each node, by a plan."""
    return "\n".join(_Drawing(graph, title, workers).lines()) + "\n"


class _Drawing:
    def __init__(self, graph: Graph, title: str, workers: Sequence[str] = ()) -> None:
        self.graph, self.title, self.lanes = graph, title, lay_out(graph)
        self.workers = workers
        self.lows = lows(graph)
        nodes = graph.nodes
        at = 24.0 + LANE * self.lanes.width
        self.columns = {}
        for name, words in (
            ("layer", ["layer", *(n.name for n in nodes)]),
            ("operator", ["operator", *(short_name(n.op) for n in nodes)]),
            ("output", ["output", *(_outputs(n.made) for n in nodes), _outputs(graph.inputs)]),
            *([("worker", ["worker", *workers])] if workers else []),
        ):
            self.columns[name] = at
            at += LETTER * max(map(len, words)) + 18
        for name in ("MFLOP", "weights, kB", "cut, kB"):
            self.columns[name] = at + NUMBER
            at += NUMBER + BAR + 24
        self.width = round(at + 16)
        self.height = TOP + ROW * (len(nodes) + 2) + 16
        self.most_flops = max((n.flops for n in nodes), default=0) or 1
        self.most_weights = max((graph.weight_bytes([i]) for i in range(len(nodes))), default=0) or 1
        self.most_cut = max(cut.nbytes for cut in graph.cuts) or 1

    def lines(self) -> Iterator[str]:
        size = f'width="{self.width}" height="{self.height}" viewBox="0 0 {self.width} {self.height}"'
        yield f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"><title>{escape(self.title)}</title>'
        yield f"<style>{_style()}</style>"
        yield f'<rect width="{self.width}" height="{self.height}" class="paper"/>'
        yield from self._head()
        yield from (self._row(row) for row in range(len(self.graph.nodes) + 2))
        yield from (self._edge(edge) for edge in self.lanes.edges)
        yield from (self._dot(row, lane) for row, lane in enumerate(self.lanes.lanes))
        yield "</svg>"

    def _head(self) -> Iterator[str]:
        graph = self.graph
        weights = graph.weight_bytes(range(len(graph.nodes)))
        totals = (
            f"{len(graph.nodes)} layers · {count(graph.flops)}FLOP an item (a multiply-add is two) · "
            f"{count(weights)}B of weights · {len(graph.trunk)} cuts of one tensor · graph {graph_digest(graph)[:12]}"
        )
        yield f'<text class="title ink" x="24" y="28">{escape(self.title)}</text>'
        yield f'<text class="faint" x="24" y="52">{totals}</text>'
        note = (
            '<tspan class="low">red</tspan>: a cut of fewer bytes than every one before it; '
            "pale: one of several tensors (×n); filled dots have weights"
        )
        yield f'<text class="faint" x="24" y="70">{note}</text>'
        for name, x in self.columns.items():
            wide = name in ("MFLOP", "weights, kB", "cut, kB")
            kind, left = ("faint end", x - 8) if wide else ("faint", x)
            yield f'<text class="{kind}" x="{left:.0f}" y="{TOP - 12}">{name}</text>'
        yield f'<line class="rule" x1="16" x2="{self.width - 16}" y1="{TOP - 4}" y2="{TOP - 4}"/>'

    def _row(self, row: int) -> str:
        graph, y = self.graph, self._y(row)
        node = graph.nodes[row - 1] if 0 < row <= len(graph.nodes) else None
        parts = [f'<rect class="under line" x="16" y="{y - ROW / 2}" width="{self.width - 32}" height="{ROW}"/>']

        def text(column: str, words: str, kind: str = "ink") -> None:
            parts.append(f'<text class="{kind}" x="{self.columns[column]:.0f}" y="{y + DOWN}">{escape(words)}</text>')

        if node:
            weights = graph.weight_bytes([row - 1])
            text("layer", node.name)
            text("operator", short_name(node.op), "faint")
            text("output", _outputs(node.made))
            if self.workers:
                text("worker", self.workers[row - 1])
            parts += self._bar("MFLOP", y, node.flops, self.most_flops, f"{node.flops / 1e6:,.1f}", "flops")
            parts += self._bar("weights, kB", y, weights, self.most_weights, kilobytes(weights), "weights")
            parts.append(f"<title>{escape(_details(node))}</title>")
        else:
            text("layer", "input" if row == 0 else "output", "faint")
            values = graph.inputs if row == 0 else tuple(graph.values[name] for name in graph.outputs)
            text("output", _outputs(values))
        if row <= len(graph.nodes):
            cut = graph.cuts[row]
            pale = len(cut.values) > 1
            kind = "low" if row in self.lows else ""
            words = kilobytes(cut.nbytes) + (f" ×{len(cut.values)}" if pale else "")
            parts += self._bar("cut, kB", y, cut.nbytes, self.most_cut, words, "cut", pale, kind)
        return f'<g class="row">{"".join(parts)}</g>'

    def _bar(
        self, column: str, y: float, amount: int, most: int, words: str, colour: str, pale: bool = False, kind: str = ""
    ) -> list[str]:
        if amount == 0:
            return []
        x, width = self.columns[column], max(1.0, BAR * amount / most)
        opacity = ' opacity="0.45"' if pale else ""
        number = f'<text class="end {kind or "faint"}" x="{x - 8:.0f}" y="{y + DOWN}">{words}</text>'
        bar = f'<rect x="{x:.0f}" y="{y - 6}" width="{width:.1f}" height="12" class="{colour}"{opacity}/>'
        return [number, bar]

    def _edge(self, edge: Edge) -> str:
        (first, begin), (last, end) = edge.start, edge.end
        x, y = self._x(begin), self._y(first)
        path = f"M{x},{y}"
        if last == first + 1:
            path += self._curve(begin, first, end)
        else:  # into its lane, down, and out of it
            path += (
                self._curve(begin, first, edge.lane) + f"V{self._y(last - 1)}" + self._curve(edge.lane, last - 1, end)
            )
        return f'<path class="edge s{edge.lane % len(LANES)}" d="{path}"/>'

    def _curve(self, begin: int, row: int, end: int) -> str:
        """From one lane to another, within a row."""
        top, bottom = self._y(row), self._y(row + 1)
        middle = (top + bottom) / 2
        return f"C{self._x(begin)},{middle} {self._x(end)},{middle} {self._x(end)},{bottom}"

    def _dot(self, row: int, lane: int) -> str:
        heavy = 0 < row <= len(self.graph.nodes) and self.graph.nodes[row - 1].weights
        colour = lane % len(LANES)
        kind = f"dot s{colour} {f'f{colour}' if heavy else 'paper'}"
        return f'<circle class="{kind}" cx="{self._x(lane)}" cy="{self._y(row)}" r="4"/>'

    def _x(self, lane: int) -> int:
        return 24 + LANE * lane

    def _y(self, row: int) -> float:
        return TOP + ROW * row + ROW / 2


def lows(graph: Graph) -> tuple[int, ...]:
    """The cuts of the order that are smaller than every cut before them: the others cost more and come later."""
    found, least = [], None
    for k, cut in enumerate(graph.cuts[:-1]):
        if least is None or cut.nbytes < least:
            found.append(k)
            least = cut.nbytes
    return tuple(found)


def _outputs(values: tuple[Value, ...]) -> str:
    return ", ".join(shape_text(value) for value in values)


def _details(node: Node) -> str:
    lines = [f"{node.name}: {node.op}", f"reads {', '.join(node.reads) or 'nothing'}"]
    return "\n".join(lines + ([f"weights {', '.join(node.weights)}"] if node.weights else []))
