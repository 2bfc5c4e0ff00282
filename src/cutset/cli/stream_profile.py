"""`cutset stream profile`: what every layer costs on this machine, and what its values cost to send."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cutset.cli.options import add_json, add_settings, output_path, settings_from, stream_settings_from
from cutset.cli.output import log, table
from cutset.cli.progress import Progress
from cutset.cli.stream_network import NETWORK_SETTINGS, add_network, network_from
from cutset.config import STREAM_OPTIONS
from cutset.errors import RequestError
from cutset.files import write_atomically

if TYPE_CHECKING:
    from cutset.partition.graph import Graph
    from cutset.partition.profile import Profile

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "measure what every layer costs on this machine"
DESCRIPTION = (
    "Runs a network here and prints the median time of every layer. With --source it also runs the first pictures "
    "through the network and the encoder, and prints how much of every value changes and how many bytes that costs. "
    "Times are remembered for this network, picture size, machine, threads and versions."
)


def configure(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    parser.add_argument("--source", metavar="SOURCE", help="a video, a folder of pictures, generated:HxW, …")
    parser.add_argument("--pictures", type=int, default=8, metavar="N", help="of the source to measure (default 8)")
    parser.add_argument("--fresh", action="store_true", help="measure again what is remembered")
    parser.add_argument("-o", "--out", type=output_path, metavar="FILE", help="write the profile, for --profile FILE")
    add_json(parser, "the same as --out")
    add_settings(parser, *NETWORK_SETTINGS, options=STREAM_OPTIONS)
    add_settings(parser, "threads")


def run(args: argparse.Namespace) -> int:
    if not 2 <= args.pictures <= 1000:
        raise RequestError("--pictures must be from 2 to 1000")
    threads, settings = settings_from(args).thread_count, stream_settings_from(args)

    import msgspec

    from cutset.video.planning import load_network

    network = network_from(args, log)
    with Progress() as progress:
        net = load_network(network, settings, args.source, threads=threads, log=log)
        profile = net.profile(threads, fresh=args.fresh, progress=progress)
        if args.source:
            profile = msgspec.structs.replace(profile, sizes=net.sizes(args.pictures, progress=progress))
    print(table(_rows(net.model.graph, profile), right=range(2, 10)))
    print(
        f"\n{profile.model}, {profile.size[0]}x{profile.size[1]}: {profile.whole * 1e3:,.1f} ms a picture with "
        f"{profile.threads} thread{'s' if profile.threads > 1 else ''} of {profile.cpu}"
        f"\n±: half the range between the quartiles of {profile.rounds} runs. The layers' times are scaled so that "
        f"they add up to the time of a run that nobody observes; observing cost {profile.observing:+.1%}."
    )
    if profile.sizes:
        print(f"changed, delta: medians over {profile.sizes.items} pictures of {profile.sizes.source}")
    for path in (args.out, args.json):
        if path:
            from cutset.partition.profile import write_profile

            write_atomically(path, write_profile(profile))
    return 0


def _rows(graph: Graph, profile: Profile) -> list[tuple[str, ...]]:
    from cutset.partition.node import short_name

    head = ("layer", "operator", "ms", "±, %", "GFLOP/s")
    sizes = ("changed, %", "key, kB", "delta, kB", "packed, kB", "codec, ms") if profile.sizes else ()
    rows: list[tuple[str, ...]] = [(*head, *sizes)]
    if profile.sizes:
        rows.append((graph.inputs[0].name, "", "", "", "", *_sizes(graph.inputs[0].name, profile)))
    for node, seconds, spread in zip(graph.nodes, profile.seconds, profile.spread, strict=True):
        rate = f"{node.flops / seconds / 1e9:,.1f}" if seconds > 0 and node.flops else "–"
        row = (node.name, short_name(node.op), f"{seconds * 1e3:,.3f}", f"{spread * 100:.0f}", rate)
        value = node.made[0].name if node.made else ""
        rows.append((*row, *_sizes(value, profile)))
    return rows


def _sizes(name: str, profile: Profile) -> tuple[str, ...]:
    if profile.sizes is None:
        return ()
    cost = profile.sizes.values.get(name)
    if cost is None:
        return ("", "", "", "", "")
    plain, packed = cost.delta[0], cost.delta[-1]
    return (
        f"{cost.changed * 100:.1f}",
        f"{cost.key[0][0] / 1e3:,.1f}",
        f"{plain[0] / 1e3:,.1f}",
        f"{packed[0] / 1e3:,.1f}",
        f"{(plain[1] + plain[2]) * 1e3:.2f}",
    )
