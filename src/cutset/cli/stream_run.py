"""`cutset stream run`: runs videos through a network on several workers."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cutset.cli.interruption import Interrupted, Interruption
from cutset.cli.options import add_json, add_settings, different, output_path, stream_settings_from
from cutset.cli.output import log
from cutset.cli.progress import Progress
from cutset.cli.stream_detections import (
    DetectionOutputs,
    add_detections,
    add_outputs,
    camera_names,
    decoder_from,
    own_limits,
    result_decoder,
    wanted_for,
)
from cutset.cli.stream_network import add_network, network_from
from cutset.cli.stream_private import add_private, asks_private, run_private
from cutset.cli.stream_results import RunResults, SourceWatch
from cutset.config import STREAM_OPTIONS, StreamSettings
from cutset.errors import ConfigError

if TYPE_CHECKING:
    from cutset.cluster.messages import Report
    from cutset.partition.plan import Plan
    from cutset.serve.feed import StreamFeed
    from cutset.stream import Stream
    from cutset.video.assembly import Assembly
    from cutset.video.check import ResultCheck
    from cutset.video.detection.late_boxes import LateBoxes

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "play videos through a network on several workers"
DESCRIPTION = (
    "Splits a network over workers and plays one or several sources through it. Prints one line a picture, in order; "
    "what happens, and the summary, go to stderr. The exit code is 1 where --check found another bit, or a camera was "
    "lost and didn't come back. Ctrl-C and SIGTERM end a run in order: the summary and all files are of what was done "
    "until then; the second ends it at once."
)
HERE = "127.0.0.1:8001"


def configure(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    parser.add_argument(
        "--source",
        action="append",
        required=True,
        metavar="VIDEO",
        help="a video, a picture, a folder of them, camera:0, rtsp://…, or generated:480x720; may be repeated",
    )
    add_settings(parser, options=STREAM_OPTIONS)
    add_private(parser)
    add_detections(parser)
    add_outputs(parser)
    out = parser.add_argument_group("output")
    out.add_argument("--check", action="store_true", help="run the whole network here too, and compare")
    out.add_argument("--trace", type=output_path, metavar="FILE", help="write what every party did when")
    out.add_argument(
        "--dashboard",
        nargs="?",
        const=HERE,
        metavar="[HOST:]PORT",
        help=f"show the stream in a browser (default {HERE}); where others reach HOST, CUTSET_API_KEY is needed",
    )
    out.add_argument("--quiet", action="store_true", help="no line for each picture")
    add_json(parser, "the summary and every picture's figures")


def run(args: argparse.Namespace) -> int:
    different(args, "json", "trace", "detections", "events", "annotate")
    args.quiet = args.quiet or args.detections == Path("/dev/stdout")
    if asks_private(args):
        return run_private(args, _log)
    settings = stream_settings_from(args)
    # Before torch is loaded, which reads it then: --check needs the workers' number for the same bits.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(settings.threads)
    from cutset.video.assembly import Given, assemble, options_of
    from cutset.video.detection.late_boxes import LateBoxes

    network = network_from(args, _log)
    rates, deadlines = own_limits(args.camera)
    boxes = LateBoxes() if settings.min_agreement is not None else None
    given = Given(options=replace(options_of(settings), rates=rates, deadlines=deadlines), detections=boxes)
    watch = SourceWatch(_log)
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(Interruption())
        watch.feed = stack.enter_context(dashboard(args.dashboard, _log))
        with Progress() as progress:
            assembly = assemble(
                network, args.source, settings, given, log=_log, on_source=watch.message, progress=progress
            )
        stack.callback(assembly.close)
        outputs = _outputs(args, assembly, stack, boxes)
        return _play(args, assembly, watch, signals, outputs)


def _log(line: str) -> None:
    log(f"stream: {line}")


def _outputs(
    args: argparse.Namespace, assembly: Assembly, stack: contextlib.ExitStack, boxes: LateBoxes | None
) -> DetectionOutputs | None:
    """Where detections go, if the network finds any; and `boxes` knows the decoder from now on."""
    needed = wanted_for(args) or ("" if boxes is None else "--min-agreement")
    if assembly.settings.features and args.detector == "auto" and not needed:
        return None
    decoder = decoder_from(args, assembly.model.graph, assembly.model.metadata, needed)
    cameras = camera_names([source.name for source in assembly.opened], args.camera)
    if decoder is None:
        return None
    if boxes is not None:
        boxes.decoder = decoder
    rates = [assembly.options.rate_of(i) or source.rate for i, source in enumerate(assembly.opened)]
    outputs = DetectionOutputs(args, result_decoder(args, decoder), cameras, rates, _log)
    stack.callback(outputs.close)
    return outputs


def _play(
    args: argparse.Namespace,
    assembly: Assembly,
    watch: SourceWatch,
    signals: Interruption,
    outputs: DetectionOutputs | None,
) -> int:
    from cutset.video.picture_forms import LOSSY
    from cutset.video.runtimes import has_onnx

    settings, feed = assembly.settings, watch.feed
    stream, results = _open(args, assembly, watch)
    if not has_onnx(stream.model.graph):
        import torch

        torch.set_num_threads(settings.threads)
    results.check = check = _check(assembly, stream) if args.check else None
    results.accuracy, results.outputs = stream.accuracy, outputs
    try:
        with stream:
            signals.on_signal(stream.stop)
            forecast = stream.advisor.forecast if stream.advisor is not None else None
            try:
                for result in watch.results(stream):
                    if forecast is not None and result.source == 0:
                        forecast.saw(result.pixels)
                    if feed is not None:
                        feed.plans(stream.coordinator.plans, result.picture)
                    found = results.add(result)
                    if feed is not None:
                        feed.result(result, found)
            finally:
                results.plans = list(stream.coordinator.plans)
    except Interrupted:  # the second signal: at once
        raise
    except BaseException as error:
        results.finish(_log, str(error) or type(error).__name__)
        raise
    if signals.number:
        _log(f"{signals.name}: what was done is written")
    results.finish(_log, signals.name or watch.lost or "all pictures are done")
    exact = not _may_differ(settings) and all(plan.input not in LOSSY for _, plan, _ in results.plans)
    if watch.lost or (check is not None and exact and not (check.kept if check.tolerance else check.exact)):
        return 1
    return 128 + signals.number if signals.number else 0


def _check(assembly: Assembly, stream: Stream) -> ResultCheck:
    """What --check compares with: the network in one piece, but where a runtime fuses layers and no tolerance was
    given, the stages of the plan one after the other."""
    from cutset.video.check import ResultCheck
    from cutset.video.plan_pieces import Pieces

    settings = assembly.settings
    named = assembly.runtime or any(stage.runtime for stage in (assembly.plan.stages if assembly.plan else ()))
    if settings.tolerance or not named:
        return ResultCheck(stream.model, settings.tolerance)
    return ResultCheck(stream.model, 0.0, Pieces(stream.model, lambda: stream.coordinator.plans, settings.threads))


def _may_differ(settings: StreamSettings) -> bool:
    """Whether something may be left out of what is sent."""
    return bool(
        settings.threshold or settings.float16 or settings.levels or settings.max_error or settings.delta_compute
    )


def _open(args: argparse.Namespace, assembly: Assembly, watch: SourceWatch) -> tuple[Stream, RunResults]:
    """The stream, and what takes its results; the dashboard, if there is one, gets them too."""
    from cutset.cluster.trace.record import Recorder
    from cutset.partition.plan import COORDINATOR
    from cutset.stream import Stream
    from cutset.video.planning import expected_costs
    from cutset.video.summary import Summary

    watch.sources, settings, feed = assembly.opened, assembly.settings, watch.feed
    summary = Summary(graph=assembly.model.graph)
    recorder = None
    if args.trace:
        recorder = Recorder(f"cutset stream run {args.model}", [COORDINATOR, *assembly.names])

    def observe(report: Report, plan: Plan, seconds: float) -> None:
        summary.report(report, plan, seconds)
        if recorder is not None:
            recorder.add(report.party, report.spans)
        if feed is not None:
            feed.report(report, plan, seconds)

    if feed is not None:
        if feed.metrics is not None:
            names = camera_names([source.name for source in assembly.opened], args.camera)
            feed.metrics.begin(names, assembly.opened)
        if assembly.advisor is not None:
            planner = assembly.advisor.planner
            feed.explain = lambda plan: expected_costs(planner, plan)
        feed.begin(
            assembly.model.graph,
            model=args.model,
            source=args.source[0],
            workers=assembly.names,
            mode=settings.mode,
            rate=settings.rate or watch.sources[0].rate,
        )
    stream = Stream.of(assembly, observe=observe, log=_log)
    return stream, RunResults(args, settings, summary, recorder, watch)


@contextlib.contextmanager
def dashboard(where: str | None, log: Callable[[str], None]) -> Iterator[StreamFeed | None]:
    """The feed of a dashboard that is served meanwhile, or None where none was asked for. Raises ConfigError."""
    if where is None:
        yield None
        return
    host, _, port = where.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise ConfigError(f"--dashboard takes [HOST:]PORT, as {HERE}, not {where[:100]!r}")
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError:
        raise ConfigError("--dashboard needs a few packages more: pip install 'cutset[serve]'") from None
    from cutset.serve.auth import keys_from
    from cutset.serve.feed import StreamFeed
    from cutset.serve.panel import open_panel
    from cutset.serve.stream_metrics import StreamMetrics

    metrics = StreamMetrics()
    keys = keys_from([], variable=os.environ.get("CUTSET_API_KEY", ""))
    with open_panel(host.strip("[]") or "127.0.0.1", int(port), keys, metrics.text) as (hub, url):
        log(f"dashboard at {url}/")
        yield StreamFeed(hub, metrics=metrics)
