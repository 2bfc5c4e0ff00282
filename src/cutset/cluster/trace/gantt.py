"""A timeline as a Gantt chart: parties and their lanes below each other, a colour an item. SVG, or HTML that zooms.

The file needs nothing from a network, and follows the reader's light or dark setting.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from pathlib import Path

from cutset.cluster.trace.lanes import Lane, Timeline, lanes
from cutset.cluster.trace.spans import Kind, Span

__all__ = ["MOST_BARS", "html", "svg"]

MOST_BARS = 20_000  # a browser draws that many without a pause
WIDTH = 1200
LEFT, RIGHT = 190, 24  # of the plot
ROW, BAR = 20, 16  # height of a lane, and of a bar in it
GAP = 12  # between parties
TOP = 96
LEAST = 1.0  # width of a bar that can be seen
MOST_NOTE = 158  # letters of the line below the title
LETTER = 6.6  # width of a letter in a bar
TICKS = 10

PALETTE = {  # in light and in dark
    "paper": ("#ffffff", "#14171a"),
    "ink": ("#1f2328", "#e3e6e9"),
    "faint": ("#656d76", "#9aa3ac"),
    "line": ("#e6e8eb", "#2a2f35"),
    "band": ("#f6f7f8", "#1a1e22"),
}
# Of items, and of the text on them. Legible on both papers.
ITEMS = (
    ("#4477aa", "#ffffff"),
    ("#ee7733", "#111111"),
    ("#228833", "#ffffff"),
    ("#cc3377", "#ffffff"),
    ("#ccbb44", "#111111"),
    ("#8866bb", "#ffffff"),
    ("#33aabb", "#111111"),
    ("#aa6633", "#ffffff"),
)
STRENGTH: dict[Kind, float] = {  # computing is full, work on payloads half, moving them pale
    "compute": 1.0,
    "capture": 0.75,
    "encode": 0.65,
    "decode": 0.65,
    "deliver": 0.5,
    "send": 0.35,
    "receive": 0.35,
    "wait": 0.12,
}
SHAPES = """
text { font: 12px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace; white-space: pre; }
.title { font-size: 17px; font-weight: 600; } .end { text-anchor: end; } .middle { text-anchor: middle; }
.party { font-weight: 600; } .rule { stroke-width: 1; } .number { font-size: 11px; pointer-events: none; }
"""


def svg(timeline: Timeline, title: str, note: str = "") -> str:
    """The chart of `timeline` with `title` and a line of `note` above it. Raises ValueError beyond MOST_BARS spans."""
    return "\n".join(_Chart(timeline, title, note).lines()) + "\n"


def html(timeline: Timeline, title: str, note: str = "") -> str:
    """A page with the chart: the wheel zooms, dragging moves, a double click shows all again."""
    style = (
        "body{margin:0;background:#fff}@media(prefers-color-scheme:dark){body{background:#14171a}}svg{max-width:none}"
    )
    script = Path(__file__).with_name("zoom.js").read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n{svg(timeline, title, note)}"
        f"<script>\n{script}</script>\n</html>\n"
    )


def _style() -> str:
    rules = [
        " ".join(f".{name} {{ fill: {colours[k]}; }}" for name, colours in PALETTE.items())
        + f" .rule {{ stroke: {PALETTE['line'][k]}; }}"
        for k in (0, 1)
    ]
    own = " ".join(f".p{i} {{ fill: {bar}; }} .t{i} {{ fill: {text}; }}" for i, (bar, text) in enumerate(ITEMS))
    strength = " ".join(f".{kind} {{ fill-opacity: {share}; }}" for kind, share in STRENGTH.items())
    return f"{SHAPES}{own}\n{strength}\n{rules[0]}\n@media (prefers-color-scheme: dark) {{ {rules[1]} }}\n"


class _Chart:
    def __init__(self, timeline: Timeline, title: str, note: str) -> None:
        spans = [span for own in timeline.values() for span in own]
        if len(spans) > MOST_BARS:
            raise ValueError(f"{len(spans)} spans; a chart takes {MOST_BARS}")
        self.title, self.note = title, note
        self.rows = [(party, lanes(own)) for party, own in timeline.items()]
        self.begin = min((span.start for span in spans), default=0.0)
        self.length = max((span.end for span in spans), default=0.0) - self.begin or 1.0
        self.several = len({span.source for span in spans}) > 1
        self.items = len({(span.source, span.number) for span in spans})
        self.height = TOP + sum(ROW * max(len(own), 1) + GAP for _, own in self.rows) + 40

    def lines(self) -> Iterator[str]:
        size = f'width="{WIDTH}" height="{self.height}" viewBox="0 0 {WIDTH} {self.height}"'
        data = f'data-left="{LEFT}" data-right="{WIDTH - RIGHT}" data-length="{self.length:.9g}" data-letter="{LETTER}"'
        yield f'<svg xmlns="http://www.w3.org/2000/svg" {size} {data} role="img"><title>{escape(self.title)}</title>'
        yield f"<style>{_style()}</style>"
        yield (
            f'<clipPath id="plot"><rect x="{LEFT}" width="{WIDTH - LEFT - RIGHT}" height="{self.height}"/></clipPath>'
        )
        yield f'<rect width="{WIDTH}" height="{self.height}" class="paper"/>'
        yield from self._head()
        yield from self._bands()
        yield from self._axis()
        yield '<g id="bars" clip-path="url(#plot)">'
        y = TOP
        for party, own in self.rows:
            for lane in own:
                yield from self._lane(party, lane, y)
                y += ROW
            y += GAP + (0 if own else ROW)
        yield "</g></svg>"

    def _head(self) -> Iterator[str]:
        yield f'<text class="title ink" x="24" y="28">{escape(self.title)}</text>'
        words = f"{self.items} items · {len(self.rows)} parties · {_seconds(self.length)}"
        line = " · ".join(filter(None, (words, self.note)))[:MOST_NOTE]
        yield f'<text class="faint" x="24" y="50">{escape(line)}</text>'
        x = LEFT
        for kind, share in STRENGTH.items():
            yield f'<rect x="{x}" y="63" width="14" height="12" class="ink" fill-opacity="{share}"/>'
            yield f'<text class="faint" x="{x + 20}" y="73">{kind}</text>'
            x += 38 + round(7.3 * len(kind))
        yield f'<text class="faint" x="{x + 8}" y="73">a colour is an item</text>'

    def _bands(self) -> Iterator[str]:
        y = TOP
        for party, own in self.rows:
            height = ROW * max(len(own), 1)
            yield f'<rect x="16" y="{y}" width="{WIDTH - 16 - RIGHT}" height="{height}" class="band"/>'
            name = f"{escape(party[:16])}<title>{escape(party)}</title>"
            yield f'<text class="party ink" x="24" y="{y + 14}">{name}</text>'
            for k, lane in enumerate(own):
                yield f'<text class="faint end" x="{LEFT - 8}" y="{y + ROW * k + 14}">{lane.name}</text>'
            y += height + GAP

    def _axis(self) -> Iterator[str]:
        foot = self.height - 40
        unit, scale = ("s", 1.0) if self.length >= 10 else ("ms", 1e3)
        step = _nice(self.length / TICKS)
        yield f'<g id="axis" data-unit="{unit}" data-top="{TOP - 6}" data-foot="{foot}">'
        for k in range(int(self.length / step + 1e-9) + 1):
            x, digits = self._x(k * step), max(0, -math.floor(math.log10(step * scale) + 1e-9))
            yield f'<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{foot}"/>'
            yield f'<text class="faint middle" x="{x:.1f}" y="{foot + 16}">{k * step * scale:.{digits}f}</text>'
        yield "</g>"
        yield f'<text class="faint end" x="{WIDTH - RIGHT}" y="{foot + 33}">time, {unit}</text>'

    def _lane(self, party: str, lane: Lane, y: int) -> Iterator[str]:
        for span in lane.spans:
            start, end = span.start - self.begin, span.end - self.begin
            x, width = self._x(start), max(self._x(end) - self._x(start), LEAST)
            colour = (span.number + 3 * span.source) % len(ITEMS)
            label = f"{span.source}:{span.number}" if self.several else str(span.number)
            yield (
                f'<rect class="p{colour} {span.kind}" x="{x:.2f}" y="{y + (ROW - BAR) / 2:.0f}" width="{width:.2f}" '
                f'height="{BAR}" data-a="{start:.7g}" data-b="{end:.7g}">'
                f"<title>{escape(_words(party, span, self.begin, self.several))}</title></rect>"
            )
            text = f"t{colour}" if STRENGTH[span.kind] > 0.6 else "ink"
            hidden = "" if width > LETTER * len(label) + 4 else ' visibility="hidden"'
            yield f'<text class="number middle {text}" x="{x + width / 2:.1f}" y="{y + 14}"{hidden}>{label}</text>'

    def _x(self, seconds: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * seconds / self.length


def _words(party: str, span: Span, begin: float, several: bool) -> str:
    """What a bar says under the mouse."""
    item = f"item {span.number}" + (f" of source {span.source}" if several else "")
    lines = [f"{party}: {span.kind} {span.name}".rstrip(), item]
    lines.append(f"{_seconds(span.end - span.start)} from {_seconds(span.start - begin)}")
    return "\n".join(lines + ([f"{span.nbytes:,} bytes"] if span.nbytes else []))


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 10 else f"{seconds * 1e3:,.4g} ms"


def _nice(step: float) -> float:
    """The next larger of 1, 2, 5, 10, 20, …"""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * (1 - 1e-9))
