"""`cutset stream run`: plays videos through a network on several workers."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutset.cli.interruption import Interrupted, Interruption
from cutset.cli.options import add_json, different, output_path, worker_threads
from cutset.cli.output import printable
from cutset.cli.stream_dashboard import add_dashboard, dashboard, explainer
from cutset.cli.stream_graph import picture_size
from cutset.cli.stream_planner import add_planning, advisor, allowed, plans_are_made
from cutset.cli.stream_results import RunResults
from cutset.cli.stream_sources import SourceWatch, add_tolerance, tolerance_from
from cutset.errors import ConfigError, RequestError

if TYPE_CHECKING:
    from cutset.cluster.model import Model
    from cutset.stream import Stream

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "play videos through a network on several workers"
DESCRIPTION = (
    "Splits a network over workers and plays one or several sources through it. Prints one line a picture, in order; "
    "what happens, and the summary, go to stderr. The exit code is 1 where --check found another bit, or a camera was "
    "lost and didn't come back. Ctrl-C and SIGTERM end a run in order: the summary and all files are of what was done "
    "until then; the second ends it at once."
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="alexnet, vgg16, vgg19, googlenet or resnet50")
    parser.add_argument(
        "--source",
        action="append",
        required=True,
        metavar="VIDEO",
        help="a video, a picture, a folder of them, camera:0, rtsp://…, or generated:480x720; may be repeated",
    )
    parser.add_argument("--size", metavar="HxW", help="scale pictures to so many rows and columns, whatever theirs are")
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many pictures of each source")
    parser.add_argument("--rate", type=float, metavar="R", help="pictures a second of each source")
    parser.add_argument("--deadline", type=float, metavar="S", help="drop what isn't done S seconds after capture")

    add_tolerance(parser)
    network = parser.add_argument_group("network")
    network.add_argument("--features", action="store_true", help="stop before the head")
    network.add_argument("--weights", type=Path, metavar="FILE", help="safetensors, or weights that torch saved")
    network.add_argument("--seed", type=int, default=0, metavar="N", help="of random weights (default 0)")

    parties = parser.add_argument_group("workers")
    parties.add_argument(
        "--workers", default="2", metavar="N|A,B,C", help="processes here, or addresses, nearest first (default 2)"
    )
    parties.add_argument("--key", type=Path, metavar="FILE", help="with tcp: this side's secret key")
    parties.add_argument("--worker-keys", metavar="A,B,C", help="with tcp: the workers' public keys, in their order")
    parties.add_argument(
        "--threads", type=worker_threads, default=1, metavar="N", help="of each local worker (default 1)"
    )
    parties.add_argument(
        "--link", action="append", default=[], metavar="8MB/s,20ms", help="emulate the link to each next worker"
    )
    parties.add_argument("--speed", metavar="S,S,S", help="emulate slower local workers: 0.125,0.5,1")

    travel = parser.add_argument_group("how pictures travel")
    travel.add_argument("--mode", choices=("delta", "full"), default="delta", help="send what changed, or all")
    travel.add_argument("--in-flight", type=int, default=4, metavar="N", help="pictures on their way (default 4)")
    travel.add_argument("--threshold", type=float, default=0.0, metavar="T", help="activations that are off by T stay")
    travel.add_argument("--levels", type=int, default=0, metavar="N", help="pixels that are off by N of 255 stay")
    travel.add_argument(
        "--max-error",
        type=float,
        metavar="E",
        help="choose the threshold so that the output is off by this share of its largest element; every 16th picture "
        "is computed here too. --threshold, --levels and --float16 are then the most that is tried",
    )
    travel.add_argument("--float16", action="store_true", help="send activations as float16")
    travel.add_argument("--patience", type=float, default=20.0, metavar="S", help="wait so long for lost workers")
    travel.add_argument("--silence", type=float, default=3.0, metavar="S", help="take a worker for dead after S")

    add_planning(parser)
    out = parser.add_argument_group("output")
    out.add_argument("--check", action="store_true", help="run the whole network here too, and compare")
    out.add_argument("--trace", type=output_path, metavar="FILE", help="write what every party did when")
    add_dashboard(out)
    out.add_argument("--quiet", action="store_true", help="no line for each picture")
    add_json(parser, "the summary and every picture's figures")


def run(args: argparse.Namespace) -> int:
    _check_arguments(args)
    # Before torch is loaded, which reads it then: --check needs the workers' number for the same bits.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(args.threads)
    from cutset.video.sources import open_source

    watch, tolerance = SourceWatch(_tell), tolerance_from(args)
    size = picture_size(args.size) if args.size else None
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(Interruption())
        for text in args.source:
            source = open_source(text, limit=args.limit, size=size, tolerance=tolerance, tell=watch.heard)
            watch.sources.append(source)
            stack.callback(source.close)
        sizes = {source.size for source in watch.sources}
        if len(sizes) > 1:
            raise RequestError("the sources have pictures of different sizes; give --size")
        watch.feed = stack.enter_context(dashboard(args.dashboard, _tell))
        return _play(args, watch, signals)


def _check_arguments(args: argparse.Namespace) -> None:
    different(args, "json", "trace")
    for name in ("limit", "rate", "deadline", "patience", "silence", "look"):
        value = getattr(args, name)
        if value is not None and not 0 < value < 1e9:
            raise RequestError(f"--{name} must be above 0, not {value:g}")
    plans_are_made(args)
    if args.workers.isascii() and args.workers.isdigit() and (args.key or args.worker_keys):
        raise ConfigError("--key and --worker-keys are for workers at addresses: name them with --workers tcp://…")
    if not 1 <= args.in_flight <= 1024:
        raise RequestError(f"--in-flight must be from 1 to 1024, not {args.in_flight}")


def _tell(line: str) -> None:
    print(printable(f"stream: {line}"), file=sys.stderr, flush=True)


def _play(args: argparse.Namespace, watch: SourceWatch, signals: Interruption) -> int:
    import torch

    from cutset.video.check import Check

    feed = watch.feed
    stream, results = _open(args, watch)
    torch.set_num_threads(args.threads)
    results.check = check = Check(stream.model) if args.check else None
    results.accuracy = stream.accuracy
    try:
        with stream:
            signals.on_signal(stream.stop)
            forecast = stream.advisor.forecast if stream.advisor is not None else None
            try:
                for result in watch.results(stream):
                    if forecast is not None and result.source == 0:
                        forecast.picture(result.pixels)
                    if feed is not None:
                        feed.plans(stream.coordinator.plans, result.picture)
                        feed.result(result)
                    results.add(result)
            finally:
                results.plans = list(stream.coordinator.plans)
    except Interrupted:  # the second signal: at once
        raise
    except BaseException as error:
        results.finish(_tell, str(error) or type(error).__name__)
        raise
    if signals.number:
        _tell(f"{signals.name}: what was done is written")
    results.finish(_tell, signals.name or watch.lost or "all pictures are done")
    lossy = args.threshold or args.float16 or args.levels or args.max_error
    exact = not lossy and all(plan.input != "jpeg" for _, plan, _ in results.plans)
    if watch.lost or (check is not None and exact and not check.exact):
        return 1
    return 128 + signals.number if signals.number else 0


def _open(args: argparse.Namespace, watch: SourceWatch) -> tuple[Stream, RunResults]:
    """The stream, and what takes its results; the dashboard, if there is one, is told what comes."""
    from cutset.cluster.coordinator.summary import Summary
    from cutset.cluster.coordinator.switching import Options
    from cutset.cluster.messages import Report
    from cutset.cluster.trace.record import Recorder
    from cutset.codec import Budget
    from cutset.partition.plan import COORDINATOR, Plan, read_plan
    from cutset.stream import Stream

    sources, feed = watch.sources, watch.feed
    workers, names, keys = _workers(args)
    plan = read_plan(args.plan) if args.plan else None
    summary = Summary()
    recorder = None
    if args.trace:
        recorder = Recorder(f"cutset stream run {args.model}", [COORDINATOR, *names])

    def observe(report: Report, plan: Plan, seconds: float) -> None:
        summary.report(report, plan, seconds)
        if recorder is not None:
            recorder.add(report.party, report.spans)
        if feed is not None:
            feed.report(report, plan, seconds)

    options = Options(
        deltas=args.mode == "delta",
        in_flight=args.in_flight,
        budget=Budget(args.threshold, args.float16),
        levels=args.levels,
        deadline=args.deadline,
        rate=args.rate,
        patience=args.patience,
        silence=args.silence,
    )
    model = _model(args, sources[0].size)
    speeds = _speeds(args, len(names))
    advised = None
    if plans_are_made(args):
        advised = advisor(args, model, names, speeds, args.source[0], sources, _tell)
    if plan is not None or advised is None:
        allowed(args, plan, advised)
    if feed is not None:
        feed.explain = None if advised is None else explainer(advised.planner)
        rate = args.rate or sources[0].rate
        feed.begin(model.graph, model=args.model, source=args.source[0], workers=names, mode=args.mode, rate=rate)
    stream = Stream(
        model,
        *sources,
        workers=workers,
        plan=plan,
        planner=advised,
        max_error=args.max_error,
        threads=args.threads,
        speeds=speeds,
        keys=keys,
        paces=_paces(args, names),
        options=options,
        observe=observe,
        tell=_tell,
    )
    return stream, RunResults(args, summary, recorder, watch)


def _model(args: argparse.Namespace, size: tuple[int, int]) -> Model:
    from cutset.video.zoo import build

    network = build(args.model, head=not args.features, weights=args.weights, seed=args.seed, tell=_tell)
    from cutset.cluster.model import Model

    return Model.of(network, (1, 3, *size))


def _workers(args: argparse.Namespace) -> tuple[Any, list[str], Any]:
    """A number or addresses with keys, the names, and this side's own keys."""
    from cutset.cluster.launch.local import MOST_WORKERS
    from cutset.link.keys import load_keys, load_public

    if args.workers.isascii() and args.workers.isdigit():
        count = int(args.workers[:9])
        if not 1 <= count <= MOST_WORKERS:
            raise ConfigError(f"--workers must be from 1 to {MOST_WORKERS}, or addresses")
        return count, [f"worker{i + 1}" for i in range(count)], None
    names = [name for name in args.workers.split(",") if name]
    if args.speed:
        raise ConfigError("--speed is for workers that are started here; give it to `cutset stream worker`")
    public = [load_public(path) for path in args.worker_keys.split(",")] if args.worker_keys else []
    if public and len(public) != len(names):
        raise ConfigError(f"--worker-keys names {len(public)} keys for {len(names)} workers")
    if len(set(names)) != len(names):
        raise ConfigError("--workers names a worker twice")
    addressed = {name: (name, public[i] if public else None) for i, name in enumerate(names)}
    return addressed, names, load_keys(args.key) if args.key else None


def _speeds(args: argparse.Namespace, count: int) -> tuple[float, ...]:
    from cutset.cluster.emulation import parse_speeds

    return parse_speeds(args.speed, count) if args.speed else ()


def _paces(args: argparse.Namespace, names: list[str]) -> dict[tuple[str, str], Any] | None:
    """Every connection of the line of parties, emulated."""
    from cutset.cluster.emulation import connections, parse_hops
    from cutset.partition.plan import COORDINATOR

    if not args.link:
        return None
    return connections([COORDINATOR, *names], parse_hops(args.link, len(names)))
