"""`cutset stream quantize`: writes a network in integers, whose products may be multiplied by somebody else."""

from __future__ import annotations

import argparse
import contextlib
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutset.cli.options import add_settings, output_folder, stream_settings_from
from cutset.cli.output import log, say
from cutset.cli.progress import Progress
from cutset.cli.stream_network import add_network, network_from
from cutset.config import STREAM_OPTIONS, StreamSettings
from cutset.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from cutset.cluster.values import Array
    from cutset.video.network_model import NetworkModel
    from cutset.video.quantised.integer_network import IntegerNetwork

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "write a network in integers, for private pictures"
DESCRIPTION = (
    "Rounds weights to 8 bits and finds the scales of activations by pictures like those that the network is for. Both "
    "`cutset stream run DIR --private ADDRESS` and `cutset accelerator DIR` take the directory. It is for pictures of "
    "one size."
)


def configure(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    parser.add_argument("-o", "--output", type=output_folder, required=True, metavar="DIR", help="a new directory")
    parser.add_argument(
        "--calibrate", action="append", required=True, metavar="VIDEO", help="pictures, as --source of `stream run`"
    )
    parser.add_argument(
        "--pictures", type=int, default=16, metavar="N", help="of each video, spread over its first minute (default 16)"
    )
    parser.add_argument("--bits", type=int, default=12, metavar="N", help="of activations, 8 to 12 (default 12)")
    parser.add_argument(
        "--least",
        type=float,
        metavar="R",
        help="multiply layers here that have fewer products than R for each element that would travel (default 16)",
    )
    names = ("size", "fit", "features", "weights", "seed", "pixels", "bgr", "threads")
    add_settings(parser, *names, options=STREAM_OPTIONS)


def run(args: argparse.Namespace) -> int:
    settings = stream_settings_from(args)
    if not 8 <= args.bits <= 12 or not 1 <= args.pictures <= 4096:
        raise ConfigError("--bits must be from 8 to 12, --pictures from 1 to 4096")
    if args.least is not None and not 0 <= args.least <= 1e9:
        raise ConfigError("--least must be from 0 to 1000000000")
    if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        raise ModelError(f"{args.output} is not an empty directory; name a new one")
    model, pictures = _opened(args, settings)

    from cutset.offload.client.picture_costs import picture_costs
    from cutset.private_pictures import products_of
    from cutset.video.profile.setup import torch_threads
    from cutset.video.quantised.integer_network import write_network
    from cutset.video.quantised.quantising import LEAST_SHARE, quantise_network

    least = LEAST_SHARE if args.least is None else args.least
    with Progress() as progress, torch_threads(settings.threads, model.graph):
        network = quantise_network(
            model, pictures, Path(str(args.model)).name, bits=args.bits, least=least, progress=progress
        )
        try:
            write_network(network, args.output)
        except OSError as error:
            raise ModelError(f"{args.output} can't be written: {error.strerror}") from None
        for line in _lines(network, model, pictures, settings.threads, args.output):
            say(line)
        say(picture_costs(products_of(network), settings.threads).words)
    return 0


def _opened(args: argparse.Namespace, settings: StreamSettings) -> tuple[NetworkModel, list[Array]]:
    """The network and pictures that it takes."""
    from cutset.video.assembly import open_sources
    from cutset.video.networks import open_file, open_network, own_size

    network = open_file(network_from(args, log))
    with contextlib.ExitStack() as parts:
        size = settings.picture_size or own_size(network)
        sources = open_sources(args.calibrate, settings, size, parts, log)
        pictures = [picture for source in sources for picture in _spread(source, args.pictures)]
    if not pictures:
        raise ConfigError("--calibrate has no picture")
    return open_network(network, pictures[0].shape, "uint8", settings, picture=pictures[0], log=log), pictures


def _spread(source: Iterable[Any], count: int) -> list[Array]:
    """So many pictures of a source, apart from each other where it has more."""
    rate, live = getattr(source, "rate", None), getattr(source, "live", False)
    step = 1 if live or not rate else max(1, int(60 * rate / count))
    found: list[Array] = []
    seen: list[Array] = []
    for i, picture in enumerate(itertools.islice(source, step * count)):
        if i % step == 0:
            found.append(picture.pixels)
        elif len(seen) < count:
            seen.append(picture.pixels)
        if len(found) == count:
            break
    return found + seen[: count - len(found)]


def _lines(
    network: IntegerNetwork, model: NetworkModel, pictures: list[Array], threads: int, where: Path
) -> Iterable[str]:
    """What was made, and how near it is."""
    from cutset.video.check import Ranges
    from cutset.video.quantised.integer_stage import IntegerModel
    from cutset.video.quantised.picture_products import LocalProducts

    sent = sum(layer.shape.work for layer in network.layers)
    bits = sorted({layer.bits for layer in network.layers})
    yield (
        f"{where}: {len(network.layers)} products of {len(model.graph.nodes)} layers, {sent / 1e9:.3f} G "
        f"multiplications a picture, activations of {' and '.join(map(str, bits))} bits"
    )
    integers = IntegerModel(network, LocalProducts(network.layers, threads))
    ranges, most, same = Ranges(), dict[str, float](), 0
    for picture in pictures:
        wanted, got = model.run(picture), integers.run(picture)
        ranges.add(wanted)
        for name, error in ranges.errors(got, wanted).items():
            most[name] = max(error, most.get(name, 0.0))
        same += all(int(got[name].argmax()) == int(wanted[name].argmax()) for name in wanted)
    yield (
        f"off by {ranges.share(most):.2e} of the output's range against floats; the largest element is the same for "
        f"{same} of {len(pictures)} pictures"
    )
