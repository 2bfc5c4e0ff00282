"""`cutset stream plan`: what every scheduler's plan would cost on these machines and links, and which is best."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from cutset.cli.options import add_json, different, output_path, worker_threads
from cutset.cli.progress import Progress
from cutset.cli.stream_network import add_network, network
from cutset.errors import RequestError

if TYPE_CHECKING:
    from cutset.partition.profile import Profile
    from cutset.video.profile.setup import Wish

__all__ = ["DESCRIPTION", "HELP", "add_outputs", "add_threads", "basis", "configure", "run"]

HELP = "show what every plan would cost, and which is best"
DESCRIPTION = (
    "Compares the plans of all schedulers, and sending the pictures to one machine, under one cost model: layers "
    "measured here (or a profile file), sizes measured on the first pictures of the source, and the links and speeds "
    "that you name. Workers are on a line, the one nearest to the camera first: link 1 leads to it, link 2 from there "
    "to the second worker, and so on."
)


def configure(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    parser.add_argument(
        "--link", action="append", default=[], metavar="8MB/s,20ms", help="to the next worker; once for all, or each"
    )
    parser.add_argument(
        "--speed", default="1", metavar="0.125,0.25,1", help="of each worker, as multiples of the profile's machine"
    )
    parser.add_argument("--workers", default="", metavar="NAMES", help="names of the workers, with commas")
    parser.add_argument("--memory", default="", metavar="500MB,-", help="that each worker may use; - for no limit")
    parser.add_argument("--objective", choices=("latency", "throughput"), default="latency")
    parser.add_argument("--in-flight", type=int, default=4, metavar="N", help="pictures on their way (default 4)")
    parser.add_argument("--rate", type=float, metavar="R", help="pictures a second that come")
    parser.add_argument("--mode", choices=("delta", "full"), default="delta")
    parser.add_argument(
        "--horizon", type=float, default=math.inf, metavar="N", help="pictures that keys are spread over"
    )
    parser.add_argument("--pictures-stay", action="store_true", help="no picture leaves the first worker")
    parser.add_argument("--jpeg", action="store_true", help="plans may send JPEG, which changes the results")
    parser.add_argument(
        "--changed", type=float, default=0.2, metavar="SHARE", help="of every value, without --source (default 0.2)"
    )
    parser.add_argument("--pictures", type=int, default=8, metavar="N", help="of the source to measure (default 8)")
    parser.add_argument(
        "--profile", type=Path, metavar="FILE", help="of `cutset stream profile`, in place of measuring"
    )
    add_outputs(parser)
    add_threads(parser)


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Adds `--threads` with the default of `cutset stream run`, so that a plan is for what a run does."""
    parser.add_argument(
        "--threads",
        type=worker_threads,
        default=1,
        metavar="N",
        help="of each worker, as for a run (default 1)",
    )


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Adds what `plan` and `simulate` write, and which scheduler's plan."""
    parser.add_argument("--scheduler", metavar="NAME", help="take this one's plan (default: the best)")
    parser.add_argument("-o", "--out", type=output_path, metavar="FILE", help="write the plan, for `run --plan FILE`")
    parser.add_argument("--gantt", type=output_path, metavar="FILE.svg|FILE.html", help="draw simulated pictures")
    parser.add_argument("--simulate", type=int, default=12, metavar="N", help="pictures to simulate (default 12)")
    add_json(parser, "the table")


def run(args: argparse.Namespace) -> int:
    from cutset.cli.stream_table import check_outputs, show
    from cutset.partition.profile import read_profile
    from cutset.video.profile.setup import other_inputs, problem_of

    check_outputs(args)
    different(args, "out", "gantt", "json")
    if not 2 <= args.pictures <= 1000:
        raise RequestError("--pictures must be from 2 to 1000")
    wish = _wish(args)
    given = read_profile(args.profile) if args.profile else None
    with Progress() as progress:
        net = network(args)
        profile = given or net.profile(args.threads, tell=progress)
        profile.check(net.graph, net.digest, str(args.profile or "the profile"))
        if args.source:
            profile = net.with_sizes(profile, args.pictures, tell=progress)
    problem = problem_of(net.graph, net.digest, profile, profile.sizes, wish)
    print(f"{net.name}, {net.size[0]}x{net.size[1]}; {basis(profile, wish)}")
    show(problem, other_inputs(problem, profile.sizes), args, f"cutset stream plan {net.name}", profile.threads)
    return 0


def basis(profile: Profile, wish: Wish) -> str:
    """Where the numbers are from."""
    sizes, many = profile.sizes, profile.threads > 1
    threads = f"{profile.threads} thread{'s' if many else ''} a worker"
    threads += f" (`cutset stream run` gives it 1: say --threads {profile.threads} there)" if many else ""
    values = f"sizes: {sizes.items} pictures of {sizes.source}" if sizes else f"{wish.changed:.0%} of values change"
    return f"layers: {profile.cpu}, {threads}; {values}"


def _wish(args: argparse.Namespace) -> Wish:
    from cutset.cli.stream_table import memory_limits, speeds
    from cutset.partition.hop import parse_hops
    from cutset.video.profile.setup import Wish

    names = tuple(name for name in args.workers.split(",") if name)
    limits = memory_limits(args.memory)
    count = max(len(names), len(limits), len(args.link), args.speed.count(",") + 1)
    if len(limits) == 1:
        limits *= count
    return Wish(
        speeds=speeds(args.speed, count),
        hops=parse_hops(args.link, count),
        names=names,
        memory=limits,
        objective=args.objective,
        in_flight=args.in_flight,
        rate=args.rate,
        mode=args.mode,
        horizon=args.horizon,
        pictures_stay=args.pictures_stay,
        changed=args.changed,
        jpeg=args.jpeg,
    )
