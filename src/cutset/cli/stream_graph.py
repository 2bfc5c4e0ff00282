"""`cutset stream graph`: a network's layers, what each costs, and what a cut after it would send."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from cutset.cli.options import add_json, add_settings, different, output_ending, stream_settings_from
from cutset.cli.output import log, table
from cutset.cli.stream_network import add_network, network_from
from cutset.config import STREAM_OPTIONS, StreamSettings
from cutset.files import write_atomically, write_json

if TYPE_CHECKING:
    from cutset.partition.graph import Graph

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "show the layers of a network and where it can be cut"
DESCRIPTION = (
    "Prints the layers of a network with what each costs, and how many bytes a cut after it sends, uncompressed. "
    "For a network of the zoo it computes nothing and needs no weights. With -o it draws the same."
)
HEAD = ("layer", "operator", "output", "MFLOP", "weights, kB", "cut, kB", "tensors", "")


def configure(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    parser.add_argument(
        "-o", "--output", type=output_ending(".svg", ".html"), metavar="FILE.svg|FILE.html", help="draw it"
    )
    add_json(parser, "the graph and its cuts")
    add_settings(parser, "size", "features", "pixels", "bgr", options=STREAM_OPTIONS)


def run(args: argparse.Namespace) -> int:
    different(args, "output", "json")
    settings = stream_settings_from(args)
    network = network_from(args, log)

    from cutset.partition.drawing import count, html, svg
    from cutset.video.networks import open_file, open_network, own_size

    network = open_file(network)
    height, width = settings.picture_size or own_size(network) or (480, 720)
    if isinstance(network, str):
        graph = _shapes_only(network, settings, height, width)
    else:
        graph = open_network(network, (1, 3, height, width), "uint8", settings).graph
    print(table(_rows(graph), right=(3, 4, 5, 6)))
    weights = graph.weight_bytes(range(len(graph.nodes)))
    print(f"\n{len(graph.nodes)} layers, {count(graph.flops)}FLOP a picture, {count(weights)}B of weights")
    print("*: fewer bytes than every cut before it")
    if args.output:
        name = f"{args.model}{' --features' if settings.features else ''}, {height}×{width}"
        write_atomically(args.output, (html if args.output.suffix == ".html" else svg)(graph, name))
    if args.json:
        write_json(args.json, _document(graph, args.model, settings.features))
    return 0


def _shapes_only(name: str, settings: StreamSettings, height: int, width: int) -> Graph:
    """The graph of a network of the zoo, without weights."""
    from cutset.video.zoo import build

    network = build(name, head=not settings.features, shapes_only=True)
    # Loaded after the zoo, which says so where torch is missing.
    import torch

    from cutset.video.imports.export import export

    return export(network, torch.empty(1, 3, height, width, dtype=torch.uint8, device="meta")).graph


def _rows(graph: Graph) -> list[tuple[str, ...]]:
    from cutset.partition.drawing import kilobytes, lows, shape_text
    from cutset.partition.node import short_name

    low = lows(graph)
    first = graph.cuts[0]
    shapes = ", ".join(map(shape_text, graph.inputs))
    rows: list[tuple[str, ...]] = [
        HEAD,
        ("input", "", shapes, "", "", kilobytes(first.nbytes), str(len(first.values)), "*"),
    ]
    for i, node in enumerate(graph.nodes):
        cut, weights = graph.cuts[i + 1], graph.weight_bytes([i])
        rows.append(
            (
                node.name,
                short_name(node.op),
                ", ".join(map(shape_text, node.made)),
                f"{node.flops / 1e6:,.1f}",
                kilobytes(weights) if weights else "–",
                kilobytes(cut.nbytes),
                str(len(cut.values)),
                "*" if i + 1 in low else "",
            )
        )
    return rows


def _document(graph: Graph, model: str, features: bool) -> dict[str, Any]:
    from cutset.partition.description import describe, graph_digest

    cuts = [{"after": k, "tensors": list(cut.values), "bytes": cut.nbytes} for k, cut in enumerate(graph.cuts)]
    return {
        "command": "cutset stream graph",
        "model": model,
        "features": features,
        "digest": graph_digest(graph),
        "flops": graph.flops,
        "weight_bytes": graph.weight_bytes(range(len(graph.nodes))),
        "cuts": cuts,
        "graph": describe(graph),
    }
