"""The Gantt chart: lanes without overlap, bars where the spans are, files without network."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from cluster.trace.pipeline import pipeline
from cutset.cluster.trace import gantt
from cutset.cluster.trace.lanes import lanes
from cutset.cluster.trace.spans import Span

NS = "{http://www.w3.org/2000/svg}"


def bars(text: str) -> list[ElementTree.Element]:
    root = ElementTree.fromstring(text)
    [group] = [g for g in root.iter(f"{NS}g") if g.get("id") == "bars"]
    return group.findall(f"{NS}rect")


def test_spans_of_a_lane_stand_one_after_another() -> None:
    spans = [Span("send", 0, k, 0.5 * k, 0.5 * k + 1.2) for k in range(6)] + [Span("encode", 0, 9, 0.1, 0.2)]
    found = lanes(spans)
    assert [lane.name for lane in found] == ["encode", "send", "send 2", "send 3"]
    for lane in found:
        assert all(a.end <= b.start for a, b in zip(lane.spans, lane.spans[1:], strict=False))
    assert {s for lane in found for s in lane.spans} == set(spans)


def test_spans_that_touch_share_a_lane() -> None:
    [lane] = lanes([Span("compute", 0, 1, 2.0, 3.0), Span("compute", 0, 0, 1.0, 2.0 + 1e-12)])
    assert [span.number for span in lane.spans] == [0, 1]


def test_bars_stand_where_the_spans_are() -> None:
    timeline = pipeline(3)
    text = gantt.svg(timeline, "three pictures")
    found = bars(text)
    assert len(found) == sum(map(len, timeline.values()))
    spans = [span for own in timeline.values() for span in own]
    begin = min(span.start for span in spans)
    length = max(span.end for span in spans) - begin
    places = sorted((float(b.get("x", 0)), float(b.get("width", 0))) for b in found)
    scale = 1200 - 190 - 24
    wanted = sorted(
        (190 + scale * (s.start - begin) / length, max(scale * (s.end - s.start) / length, 1.0)) for s in spans
    )
    for (x, width), (x2, width2) in zip(places, wanted, strict=True):
        assert x == pytest.approx(x2, abs=0.02)
        assert width == pytest.approx(width2, abs=0.02)


def test_names_are_escaped_and_nothing_comes_from_a_network() -> None:
    timeline = {"<edge> & co": [Span("compute", 0, 0, 0.0, 1.0, name="</title><script>")]}
    page = gantt.html(timeline, "a <b> title", note="<note>")
    assert "</title><script>" not in page
    assert "&lt;edge&gt; &amp; co" in page
    assert re.findall(r"(?:https?:)?//[a-z][^\s\"]*", page.replace("http://www.w3.org/2000/svg", "")) == []
    ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])


def test_every_picture_has_its_colour_and_sources_are_told_apart() -> None:
    text = gantt.svg(pipeline(2, source=0) | {"b": pipeline(2, source=1)["edge"]}, "two sources")
    classes = {str(bar.get("class")).split()[0] for bar in bars(text)}
    assert len(classes) == 4
    assert ">1:0</text>" in text


def test_an_empty_timeline_is_a_chart_without_bars() -> None:
    assert bars(gantt.svg({}, "nothing")) == []
    assert bars(gantt.svg({"idle": []}, "nothing")) == []


def test_too_many_spans_are_refused() -> None:
    spans = [Span("compute", 0, k, k, k + 1) for k in range(gantt.MOST_BARS + 1)]
    with pytest.raises(ValueError, match="20000"):
        gantt.svg({"edge": spans}, "long")
