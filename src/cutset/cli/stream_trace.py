"""`cutset stream trace`: where the time of a run went, as tables and as a Gantt chart."""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutset.cli.options import add_json, different, output_ending
from cutset.cli.output import say, table
from cutset.errors import RequestError
from cutset.files import write_atomically, write_json

if TYPE_CHECKING:
    from cutset.cluster.trace.record import Trace
    from cutset.cluster.trace.spans import Span
    from cutset.cluster.trace.table import Latency, PartyWork

__all__ = ["DESCRIPTION", "HELP", "configure", "run", "write_chart"]

HELP = "show where the time of a run went"
DESCRIPTION = (
    "Reads a trace that `cutset stream run --trace FILE` wrote, and prints what every party did and what the latency "
    "of a picture is made of; or one of `generate`, `chat` or `serve` with --stages, where pictures are steps. With -o "
    "it draws the Gantt chart. The same file opens in ui.perfetto.dev."
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", metavar="FILE", type=Path, help="the trace")
    parser.add_argument(
        "-o", "--output", type=output_ending(".svg", ".html"), metavar="FILE.svg|FILE.html", help="draw the Gantt chart"
    )
    parser.add_argument("--pictures", metavar="A-B", help="only pictures A to B, and the time of those")
    parser.add_argument("--picture", type=int, metavar="N", help="show the way of this picture (default: the slowest)")
    add_json(parser, "the tables")


def run(args: argparse.Namespace) -> int:
    different(args, "output", "json")
    first, last = _range(args.pictures) if args.pictures else (0, 1 << 62)

    from cutset.cluster.trace.chrome import read_trace
    from cutset.cluster.trace.table import latencies, mean_split, window, work

    whole = read_trace(args.trace)
    trace = whole.only(first, last)
    pictures = latencies(trace.timeline)
    if not pictures:
        raise RequestError(f"{args.trace} has no pictures" + (f" {args.pictures}" if args.pictures else ""))
    begin, end = window(trace.timeline)
    works = work(whole.timeline, begin, end)
    say(trace.title)
    for name, note in trace.notes.items():
        say(f"{name}: {note}")
    print(f"\n{table(_work_rows(works, end - begin), right=range(1, 12))}\n")
    done = [picture for picture in pictures if picture.delivered]
    counted = done or pictures
    split = mean_split(counted)
    mean = statistics.fmean(picture.seconds for picture in counted)
    print(_headline(pictures, done, end - begin))
    print(f"\n{table(_split_rows(split, mean), right=(2, 3))}\n")
    shown = _shown(counted, pictures, args.picture)
    say(_way(shown, whole))
    if args.output:
        hint = "choose some pictures, as --pictures 0-99"
        write_chart(args.output, trace.timeline, trace.title, trace.notes.get("plan", ""), hint)
    if args.json:
        write_json(args.json, _document(trace, works, pictures, end - begin))
    return 0


def _range(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,12})(?:-([0-9]{1,12}))?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if first > last:
        raise RequestError(f"--pictures must be a range as 10-20, not {text!r}")
    return first, last


def _work_rows(works: tuple[PartyWork, ...], wall: float) -> list[tuple[str, ...]]:
    from cutset.cluster.trace.lanes import KINDS

    kinds = [kind for kind in KINDS if any(one.seconds[kind] for one in works)]
    rows: list[tuple[str, ...]] = [("share of the time", *kinds, "idle", "received, kB", "sent, kB")]
    for one in works:
        shares = [
            f"{100 * seconds / wall if wall else 0:.1f} %"
            for seconds in (*(one.seconds[kind] for kind in kinds), one.idle)
        ]
        rows.append((one.party, *shares, f"{one.received / 1e3:,.1f}", f"{one.sent / 1e3:,.1f}"))
    return rows


def _headline(pictures: tuple[Latency, ...], done: list[Latency], wall: float) -> str:
    if not done:
        return f"{len(pictures)} pictures, none with a result; the times are of what was done for them"
    missing = f"; {len(pictures) - len(done)} had no result" if len(done) < len(pictures) else ""
    return (
        f"{len(done)} pictures in {wall:.3f} s, {len(done) / wall if wall else 0:.2f} a second{missing}\n"
        f"from capture to result: {_summary([picture.seconds for picture in done])}\n"
        f"from sending to result: {_summary([picture.in_flight for picture in done])}"
    )


def _summary(seconds: list[float]) -> str:
    late = sorted(seconds)[round(0.95 * (len(seconds) - 1))]
    return (
        f"median {statistics.median(seconds) * 1e3:.1f} ms, mean {statistics.fmean(seconds) * 1e3:.1f}, "
        f"95 % below {late * 1e3:.1f}"
    )


def _split_rows(split: dict[Any, float], mean: float) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("from capture to result, mean", "", "ms", "share")]
    for (party, part), seconds in split.items():
        rows.append((party, part, f"{seconds * 1e3:.2f}", f"{100 * seconds / mean if mean else 0:.1f} %"))
    return [*rows, ("sum", "", f"{sum(split.values()) * 1e3:.2f}", "")]


def _shown(counted: list[Latency] | tuple[Latency, ...], pictures: tuple[Latency, ...], wanted: int | None) -> Latency:
    if wanted is None:
        return max(counted, key=lambda picture: picture.seconds)
    for picture in pictures:
        if picture.number == wanted:
            return picture
    raise RequestError(f"the trace has no picture {wanted}")


def _way(shown: Latency, whole: Trace) -> str:
    """The way of one picture, segment by segment."""
    from cutset.cluster.trace.path import by_item, path

    segments = path(by_item(whole.timeline)[shown.source, shown.number], whole.timeline)
    rows: list[tuple[str, ...]] = [(f"picture {shown.number}", "", "from, ms", "ms", "")]
    for segment in segments:
        others = ", ".join(map(str, segment.behind)) if len(segment.behind) < 9 else f"{len(segment.behind)} pictures"
        behind = f"behind {others}" if segment.behind else ""
        start = segment.start - segments[0].start
        rows.append((segment.party, segment.part, f"{start * 1e3:.2f}", f"{segment.seconds * 1e3:.2f}", behind))
    return table(rows, right=(2, 3))


def write_chart(path: Path, timeline: Mapping[str, Sequence[Span]], title: str, note: str, hint: str) -> None:
    """Draws a Gantt chart into an .svg or .html file. Raises RequestError, with the `hint`, for too many bars."""
    from cutset.cluster.trace import gantt

    count = sum(map(len, timeline.values()))
    if count > gantt.MOST_BARS:
        raise RequestError(f"{count:,} bars are too many for a chart; {hint}")
    write_atomically(path, (gantt.html if path.suffix == ".html" else gantt.svg)(timeline, title, note))


def _document(trace: Trace, works: tuple[PartyWork, ...], pictures: tuple[Latency, ...], wall: float) -> dict[str, Any]:
    return {
        "command": "cutset stream trace",
        "title": trace.title,
        "notes": dict(trace.notes),
        "seconds": wall,
        "parties": [
            {"party": w.party, "seconds": w.seconds, "idle": w.idle, "received": w.received, "sent": w.sent}
            for w in works
        ],
        "pictures": [
            {
                "source": picture.source,
                "picture": picture.number,
                "delivered": picture.delivered,
                "latency": picture.seconds,
                "in_flight": picture.in_flight,
                "split": [{"party": p, "part": part, "seconds": s} for (p, part), s in picture.split().items()],
            }
            for picture in pictures
        ],
    }
