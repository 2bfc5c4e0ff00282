"""What `cutset stream run` gives: a line a picture, the summary, and files that are written however the run ends."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING, Any

from cutset.cli.output import say
from cutset.config import StreamSettings
from cutset.errors import SourceLost

if TYPE_CHECKING:
    from cutset.cli.stream_detections import DetectionOutputs
    from cutset.cluster.trace.record import Recorder
    from cutset.partition.plan import Plan, StagePlan
    from cutset.serve.feed import StreamFeed
    from cutset.video.accuracy import Accuracy
    from cutset.video.check import ResultCheck
    from cutset.video.detection import Detections
    from cutset.video.result import Result
    from cutset.video.sources import Source
    from cutset.video.summary import Summary

__all__ = ["RunResults", "SourceWatch"]

SYSTEM = "cutset stream"
MOST_SHOWN = 5  # detections in a picture's line


class SourceWatch:
    """The sources of a run: passes on their messages, to a dashboard too. `lost`: why one of them never came back."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self.sources: list[Source] = []
        self.feed: StreamFeed | None = None
        self.lost = ""

    def message(self, line: str) -> None:
        """Takes a message of a source; from any thread."""
        self._log(line)
        if self.feed is not None:
            self.feed.sources(self.sources)

    def results(self, stream: Iterable[Result]) -> Iterator[Result]:
        """A stream's results. Where a source was lost and never came back they end, when those of all others do."""
        try:
            yield from chain(stream)  # a stream's own iterator would be closed with this one
        except SourceLost as error:
            self.lost = str(error)
            self._log(self.lost)

    def figures(self) -> list[dict[str, Any]]:
        """For a result file."""
        return [{"name": source.name, **asdict(source.faults)} for source in self.sources]

    def lines(self) -> list[str]:
        """For the end: what went wrong, where something did."""
        return [f"{source.name}: {line}" for source in self.sources if (line := source.faults.line())]


class RunResults:
    """Collects results: `add` each one; `finish` prints and writes them."""

    def __init__(
        self,
        args: argparse.Namespace,
        settings: StreamSettings,
        summary: Summary,
        recorder: Recorder | None,
        watch: SourceWatch,
    ) -> None:
        self.summary, self.recorder, self._watch = summary, recorder, watch
        self.check: ResultCheck | None = None
        self.accuracy: Accuracy | None = None
        self.outputs: DetectionOutputs | None = None
        self.plans: Sequence[tuple[int, Plan, str]] = ()
        self.mode: str = settings.mode  # as the figures name it
        self._args, self._settings = args, settings
        self._pictures: list[dict[str, Any]] = []

    def add(self, result: Result) -> Detections | None:
        """Compares a picture, if that is wanted, writes and prints what is in it; what that is, of a detector."""
        self.summary.result(result)
        error = self.check.compare(result) if self.check is not None else None
        found = self.outputs.add(result) if self.outputs is not None else None
        if not self._args.quiet:
            say(_line(result, len(self._args.source) > 1, self._settings.features, found), flush=True)
        if self._args.json:
            self._pictures.append(_figures(result, error, found))
        return found

    def finish(self, log: Callable[[str], None], ended: str) -> None:
        """Says the summary and writes the files, each whole; `ended` is why the run is over. Raises ConfigError."""
        if self.outputs is not None:
            self.outputs.close()
        for line in (*self.summary.lines(), *self._watch.lines(), *(self.outputs.lines() if self.outputs else ())):
            log(line)
        if self.accuracy is not None:
            log(self.accuracy.line())
        if self.check is not None:
            log(self.check.line())
        with contextlib.ExitStack() as both:  # a file that can't be written doesn't keep the other one from it
            if self._args.json:
                both.callback(self._write, ended)
            if self.recorder is not None:
                both.callback(self._write_trace, self.recorder)

    def _write_trace(self, recorder: Recorder) -> None:
        from cutset.cluster.trace.chrome import write_trace
        from cutset.files import write_atomically

        write_atomically(self._args.trace, write_trace(recorder.trace()).decode())

    def _write(self, ended: str) -> None:
        from cutset.compare.results import machine
        from cutset.files import write_json

        document = {
            "command": "cutset stream run",
            "machine": machine(self._settings.threads, ("torch", "onnxruntime", "openvino")),
            "rows": self._rows(),
            "ended": ended,
            "in_flight": self._settings.in_flight,
            "plans": [
                {
                    "number": number,
                    "why": why,
                    "scheduler": plan.scheduler,
                    "picture": plan.input or "uint8",
                    "stages": [_stage(stage) for stage in plan.stages],
                }
                for number, plan, why in self.plans
            ],
            "sources": self._watch.figures(),
            "pictures": self._pictures,
        }
        write_json(self._args.json, document)

    def _rows(self) -> list[Any]:
        from cutset.compare.results import Row, summarise
        from cutset.video.sources.live import without_secrets
        from cutset.video.summary import quantile

        args, summary = self._args, self.summary
        # An address of a camera may hold its password.
        names = [without_secrets(source) if "://" in source else source for source in args.source]
        workload = f"{args.model}, {', '.join(names)}, {self.mode}"
        rows = []
        for metric, seconds in (("latency", summary.latencies), ("links and layers", summary.transits)):
            if seconds:
                rows.append(summarise(workload, SYSTEM, metric, seconds, "s"))
                rows.append(Row(workload, SYSTEM, f"{metric}, 95 %", quantile(seconds, 0.95), "s"))
                rows.append(Row(workload, SYSTEM, f"{metric}, largest", max(seconds), "s"))
        if summary.rate is not None:
            rows.append(Row(workload, SYSTEM, "throughput", summary.rate, "pictures/s"))
        for (sender, receiver), sizes in summary.hops.items():
            name = f"bytes {sender} to {receiver}"
            rows.append(summarise(workload, SYSTEM, name, [float(size) for size in sizes], "B"))
        if self.check is not None:
            rows.append(Row(workload, SYSTEM, "largest error", self.check.largest, "absolute"))
        return rows


def _stage(stage: StagePlan) -> dict[str, Any]:
    named = {"runtime": stage.runtime} if stage.runtime else {}
    return {"worker": stage.worker, "nodes": list(stage.nodes), **named}


def _line(result: Result, several: bool, features: bool, detections: Detections | None) -> str:
    start = f"{result.source} " if several else ""
    start += f"{result.picture:>6} {result.time:9.3f} s"
    if result.dropped:
        return f"{start}  dropped: {result.dropped}"
    end = f"{result.age * 1e3:8.1f} ms"
    if detections is not None:
        return f"{start}  {_detected(detections)} {end}"
    if features:
        shape = "×".join(map(str, result.output.shape))
        zero = float((result.output == 0).mean())
        return f"{start}  {shape}  mean {float(result.output.mean()):+.6f}  zero {zero:.1%} {end}"
    best = "  ".join(f"{number:>4} {share:.4f}" for number, share in result.top(3))
    return f"{start}  {best} {end}"


def _detected(found: Detections) -> str:
    """The best few, and how many there are."""
    best = "  ".join(f"{found.label(i)} {found.scores[i]:.2f}" for i in range(min(len(found), MOST_SHOWN)))
    rest = f"  and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else ""
    return (best or "nothing") + rest


def _figures(result: Result, error: float | None, detections: Detections | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "source": result.source,
        "picture": result.picture,
        "plan": result.plan,
        "latency_s": result.latency,  # from capture
        "age_s": result.age,
        "transit_s": result.transit,  # from the last sending: links and layers alone
        "attempts": result.attempts,
    }
    if result.dropped:
        found["dropped"] = result.dropped
    elif detections is not None:
        found["detections"] = len(detections)
    return found if error is None else found | {"error": error}
