"""`cutset stream run`: plays videos through a network on several workers."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from cutset.cli.options import add_json
from cutset.cli.output import printable, say
from cutset.cli.stream_dashboard import add_dashboard, dashboard, explainer
from cutset.cli.stream_graph import picture_size
from cutset.cli.stream_planner import add_planning, advisor
from cutset.errors import ConfigError, RequestError

if TYPE_CHECKING:
    from cutset.serve.feed import StreamFeed
    from cutset.stream.api import Stream
    from cutset.stream.check import Check
    from cutset.stream.coordinator.result import Result
    from cutset.stream.coordinator.summary import Summary
    from cutset.stream.model import Model

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "play videos through a network on several workers"
DESCRIPTION = (
    "Splits a network over workers and plays one or several sources through it. Prints one line a picture, in order; "
    "what happens, and the summary, go to stderr. The exit code is 1 where --check found a difference."
)
RELATIVE = 1e-5  # error that --check allows in exact mode: other processors round otherwise


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="alexnet, vgg16, vgg19, googlenet or resnet50")
    parser.add_argument(
        "--source",
        action="append",
        required=True,
        metavar="VIDEO",
        help="a file, folder, camera:0, rtsp://…, or generated:480x720; may be repeated",
    )
    parser.add_argument("--size", metavar="HxW", help="scale pictures to so many rows and columns")
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many pictures of each source")
    parser.add_argument("--rate", type=float, metavar="R", help="pictures a second of each source")
    parser.add_argument("--deadline", type=float, metavar="S", help="drop what isn't done S seconds after capture")

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
    parties.add_argument("--threads", type=int, default=1, metavar="N", help="of each local worker (default 1)")
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
    out.add_argument("--trace", type=Path, metavar="FILE", help="write what every party did when")
    add_dashboard(out)
    out.add_argument("--quiet", action="store_true", help="no line for each picture")
    add_json(parser, "the summary and every picture's figures")


def run(args: argparse.Namespace) -> int:
    _check_arguments(args)
    # Before torch is loaded, which reads it then: --check needs the workers' number for the same bits.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(args.threads)
    from cutset.stream.sources import Source, open_source

    size = picture_size(args.size) if args.size else None
    with contextlib.ExitStack() as stack:
        sources: list[Source] = []
        for text in args.source:
            sources.append(open_source(text, limit=args.limit, size=size))
            stack.callback(sources[-1].close)
        sizes = {source.size for source in sources}
        if len(sizes) > 1:
            raise RequestError("the sources have pictures of different sizes; give --size")
        return _play(args, sources, stack.enter_context(dashboard(args.dashboard, _tell)))


def _check_arguments(args: argparse.Namespace) -> None:
    for name in ("limit", "rate", "deadline", "patience", "silence", "look"):
        value = getattr(args, name)
        if value is not None and not 0 < value < 1e9:
            raise RequestError(f"--{name} must be above 0, not {value:g}")
    if not 1 <= args.in_flight <= 1024:
        raise RequestError(f"--in-flight must be from 1 to 1024, not {args.in_flight}")
    if not 1 <= args.threads <= 1024:
        raise RequestError("--threads must be from 1 to 1024")


def _tell(line: str) -> None:
    print(printable(f"stream: {line}"), file=sys.stderr, flush=True)


def _play(args: argparse.Namespace, sources: list[Any], feed: StreamFeed | None) -> int:
    import torch

    from cutset.stream.check import Check

    stream, summary, recorder = _open(args, sources, feed)
    torch.set_num_threads(args.threads)
    check = Check(stream.model) if args.check else None
    pictures: list[dict[str, Any]] = []

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with stream:
            forecast = stream.advisor.forecast if stream.advisor is not None else None
            for result in stream:
                summary.result(result)
                if forecast is not None and result.source == 0:
                    forecast.picture(result.pixels)
                if feed is not None:
                    feed.plans(stream.coordinator.plans, result.picture)
                    feed.result(result)
                error = check.compare(result) if check is not None else None
                if not args.quiet:
                    say(_line(result, len(sources) > 1, args.features), flush=True)
                if args.json:
                    pictures.append(_figures(result, error))
            plans = list(stream.coordinator.plans)
    finally:
        signal.signal(signal.SIGTERM, before)
        if recorder is not None:
            from cutset.files import write_atomically
            from cutset.stream.trace.chrome import write_trace

            write_atomically(args.trace, write_trace(recorder.trace()).decode())
        for line in summary.lines():
            _tell(line)
        if stream.accuracy is not None:
            _tell(stream.accuracy.line())
        if check is not None:
            _tell(check.line())
    if args.json:
        _write(args, summary, plans, pictures, check)
    lossy = args.threshold or args.float16 or args.levels or args.max_error
    exact = not lossy and all(plan.picture != "jpeg" for _, plan, _ in plans)
    return 1 if check is not None and exact and not check.within(RELATIVE) else 0


def _open(args: argparse.Namespace, sources: list[Any], feed: StreamFeed | None) -> tuple[Stream, Summary, Any]:
    """The stream, its summary, and what records the trace; the dashboard, if there is one, is told what comes."""
    from cutset.stream.api import Stream
    from cutset.stream.coordinator.summary import Summary
    from cutset.stream.coordinator.switching import Options
    from cutset.stream.delta import Budget
    from cutset.stream.messages import Report
    from cutset.stream.planning.plan import COORDINATOR, Plan, read_plan
    from cutset.stream.trace.record import Recorder

    workers, names, keys = _workers(args)
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
    if args.scheduler != "even" and (args.scheduler or not args.plan):
        live = sources[0].live
        advised = advisor(args, model, names, speeds, args.source[0], live, _tell)
    if feed is not None:
        feed.explain = None if advised is None else explainer(advised.planner)
        rate = args.rate or sources[0].rate
        feed.begin(model.graph, model=args.model, source=args.source[0], workers=names, mode=args.mode, rate=rate)
    stream = Stream(
        model,
        *sources,
        workers=workers,
        plan=read_plan(args.plan) if args.plan else None,
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
    return stream, summary, recorder


def _model(args: argparse.Namespace, size: tuple[int, int]) -> Model:
    from cutset.stream.zoo import build

    network = build(args.model, head=not args.features, weights=args.weights, seed=args.seed, tell=_tell)
    from cutset.stream.model import Model

    return Model.of(network, (1, 3, *size))


def _workers(args: argparse.Namespace) -> tuple[Any, list[str], Any]:
    """A number or addresses with keys, the names, and this side's own keys."""
    from cutset.link.keys import load_keys, load_public
    from cutset.stream.coordinator.local import MOST_WORKERS

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
    from cutset.stream.emulation import parse_speeds

    return parse_speeds(args.speed, count) if args.speed else ()


def _paces(args: argparse.Namespace, names: list[str]) -> dict[tuple[str, str], Any] | None:
    """Every connection of the line of parties, emulated."""
    import math

    from cutset.stream.emulation import parse_hops, path
    from cutset.stream.messages import Pace
    from cutset.stream.planning.plan import COORDINATOR

    if not args.link:
        return None
    hops, parties = parse_hops(args.link, len(names)), [COORDINATOR, *names]
    found = {}
    for i, sender in enumerate(parties):
        for j, receiver in enumerate(parties):
            if i != j:
                hop = path(hops, i, j)
                found[sender, receiver] = Pace(0.0 if math.isinf(hop.bandwidth) else hop.bandwidth, hop.latency)
    return found


def _line(result: Result, several: bool, features: bool) -> str:
    start = f"{result.source} " if several else ""
    start += f"{result.picture:>6} {result.time:9.3f} s"
    if result.dropped:
        return f"{start}  dropped: {result.dropped}"
    end = f"{result.latency * 1e3:8.1f} ms"
    if features:
        shape = "×".join(map(str, result.output.shape))
        zero = float((result.output == 0).mean())
        return f"{start}  {shape}  mean {float(result.output.mean()):+.6f}  zero {zero:.1%} {end}"
    best = "  ".join(f"{number:>4} {share:.4f}" for number, share in result.top(3))
    return f"{start}  {best} {end}"


def _figures(result: Result, error: float | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "source": result.source,
        "picture": result.picture,
        "plan": result.plan,
        "latency_s": result.latency,
        "age_s": result.age,
        "attempts": result.attempts,
    }
    return found | ({"dropped": result.dropped} if result.dropped else {}) | ({} if error is None else {"error": error})


def _write(args: argparse.Namespace, summary: Summary, plans: Any, pictures: Any, check: Check | None) -> None:
    from cutset.bench.results import Row, machine, summarise
    from cutset.files import write_json
    from cutset.stream.sources.live import without_secrets

    # An address of a camera may hold its password.
    names = [without_secrets(source) if "://" in source else source for source in args.source]
    workload = f"{args.model}, {', '.join(names)}, {args.mode}"
    rows = []
    if summary.latencies:
        rows.append(summarise(workload, "cutset stream", "latency", summary.latencies, "s"))
    if summary.rate is not None:
        rows.append(Row(workload, "cutset stream", "throughput", summary.rate, "pictures/s"))
    for (sender, receiver), sizes in summary.hops.items():
        name = f"bytes {sender} to {receiver}"
        rows.append(summarise(workload, "cutset stream", name, [float(size) for size in sizes], "B"))
    if check is not None:
        rows.append(Row(workload, "cutset stream", "largest error", check.largest, "absolute"))
    document = {
        "command": "cutset stream run",
        "machine": machine(args.threads, ("torch",)),
        "rows": rows,
        "plans": [
            {
                "number": number,
                "why": why,
                "scheduler": plan.scheduler,
                "picture": plan.picture,
                "stages": [{"worker": stage.worker, "nodes": list(stage.nodes)} for stage in plan.stages],
            }
            for number, plan, why in plans
        ],
        "pictures": pictures,
    }
    write_json(args.json, document)
