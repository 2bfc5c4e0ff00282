"""`cutset stream show`: pictures of experiments."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutset.cli.options import add_json, different, output_ending, stream_settings_from
from cutset.cli.stream_network import MODEL_HELP
from cutset.cli.stream_train import add_measuring, changes_from, measured
from cutset.errors import RequestError
from cutset.files import write_json
from cutset.partition.description import graph_digest

if TYPE_CHECKING:
    from cutset.partition.profile import Profile
    from cutset.video.views.figure import Draw
    from cutset.video.views.runs import Run

__all__ = ["DESCRIPTION", "HELP", "VIEWS", "configure", "run"]

HELP = "draw changed fractions, sizes, prediction errors, costs or latencies"
VIEWS = {
    "changed": "changed fraction by layer, of all pictures",
    "channels": "the same by channel, of one picture (--picture)",
    "pair": "between two image files: show pair MODEL A B",
    "spread": "changed fraction of layers (--layer) over that of the picture, with fits",
    "sizes": "bytes by layer: raw, measured deltas, predicted ones (--sparsity)",
    "errors": "prediction error by picture and layer (--sparsity)",
    "costs": "time by layer and worker: show costs PROFILE …",
    "dirty": "what delta compute does, by layer and picture (--scale; predicted too: --sparsity)",
    "latency": "latency by pictures in flight: show latency RUN …",
}
DESCRIPTION = "Views: " + "; ".join(f"{name}: {words}" for name, words in VIEWS.items()) + "."


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("view", metavar="VIEW", help=", ".join(VIEWS))
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="image files or traces, as the view wants")
    add_measuring(parser)
    parser.add_argument("--sparsity", type=Path, metavar="FILE.npz", help="a model of `cutset stream train`")
    parser.add_argument("--picture", type=int, default=1, metavar="N", help="for channels (default 1)")
    parser.add_argument(
        "--scale", type=float, default=1.0, metavar="X", help="for dirty: times the thresholds, 0 for none (default 1)"
    )
    parser.add_argument("--layer", action="append", default=[], metavar="NAME", help="for spread; may be repeated")
    parser.add_argument(
        "-o", "--output", type=output_ending(".png", ".svg"), metavar="FILE.png|FILE.svg", help="draw it"
    )
    parser.add_argument("--dark", action="store_true", help="on a dark background")
    add_json(parser, "what is drawn")


def run(args: argparse.Namespace) -> int:
    if args.view not in VIEWS:
        from cutset.config import did_you_mean

        raise RequestError(f"there is no view {args.view!r}{did_you_mean(args.view, VIEWS)}")
    if not args.output and not args.json:
        raise RequestError("say where it goes: -o FILE.png, -o FILE.svg or --json FILE")
    different(args, "output", "keep", "json")
    if args.files and args.view not in ("pair", "costs", "latency"):
        raise RequestError(f"{args.view} takes no {args.files[0]}")
    data, draw = _view(args)
    if args.output:
        from cutset.video.views.figure import save

        save(draw, data, args.output, dark=args.dark)
    if args.json:
        write_json(args.json, {"command": "cutset stream show"} | data)
    return 0


def _view(args: argparse.Namespace) -> tuple[dict[str, Any], Draw]:
    """What the view shows, and what draws that."""
    if args.view == "dirty":
        return _dirty(args)
    from cutset.video.views import runs, sparsity

    if args.view == "latency":
        return runs.latency(_runs(args)), runs.draw_latency
    if args.view == "costs":
        return runs.costs(*_profiles(args)), runs.draw_costs
    if args.view == "pair":
        return sparsity.pair(_pair(args), (args.files[0].name, args.files[1].name)), sparsity.draw_pair
    trained = None
    if args.view in ("sizes", "errors") and args.sparsity:
        from cutset.video.sparsity.predictor import read_trained

        trained = read_trained(args.sparsity)
    if args.view == "errors" and trained is None:
        raise RequestError("errors are of a model: give --sparsity FILE, from `cutset stream train`")
    changes = changes_from(args)
    if args.view == "changed":
        return sparsity.by_layer(changes), sparsity.draw_by_layer
    if args.view == "channels":
        return sparsity.by_channel(changes, args.picture), sparsity.draw_by_channel
    if args.view == "spread":
        return sparsity.spread(changes, args.layer), sparsity.draw_spread
    if trained is not None and args.view == "errors":
        return sparsity.errors(changes, trained), sparsity.draw_errors
    return sparsity.sizes(changes, trained), sparsity.draw_sizes


def _dirty(args: argparse.Namespace) -> tuple[dict[str, Any], Draw]:
    """What delta compute does, and what draws that."""
    from cutset.video.delta.measuring import MARK
    from cutset.video.sparsity.predictor import read_trained
    from cutset.video.views.dirty import dirty, draw_dirty

    if not 0 <= args.scale < float("inf"):
        raise RequestError(f"--scale must be 0 or above, not {args.scale:g}")
    changes = changes_from(args, scale=args.scale)
    if not changes.source.endswith(MARK):
        raise RequestError(
            f"{args.data} has what changed, not what delta compute does: `cutset stream train "
            "--delta-compute --keep` writes that"
        )
    trained = read_trained(args.sparsity) if args.sparsity else None
    if trained is not None:
        trained.check(graph_digest(changes.graph))
    return dirty(changes, trained), draw_dirty


def _runs(args: argparse.Namespace) -> dict[str, Run]:
    from cutset.video.views.runs import read_run

    paths = [Path(path) for path in (args.model, *args.files) if path]
    if not paths:
        raise RequestError("latency takes traces or JSON files of runs: show latency run1.json run4.json …")
    return {path.name.split(".")[0]: read_run(path) for path in paths}


def _profiles(args: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    """The names of the layers, and by worker their seconds."""
    from cutset.partition.profile import read_profile

    paths = [Path(path) for path in (args.model, *args.files) if path]
    if not paths:
        raise RequestError("costs takes the profiles of workers: show costs edge.json cloud.json …")
    profiles = {path.name.split(".")[0]: read_profile(path) for path in paths}
    if len({profile.graph for profile in profiles.values()}) > 1:
        raise RequestError("these profiles are of different networks or picture sizes")
    first = next(iter(profiles.values()))
    return _names(first), {name: profile.seconds for name, profile in profiles.items()}


def _names(profile: Profile) -> list[str]:
    """The layers of the network that a profile names, or their numbers where that isn't known here."""
    from cutset.video.zoo import ZOO, build

    name, _, flags = profile.model.partition(" ")
    if name in ZOO:
        network = build(name, head="--features" not in flags, shapes_only=True)
        # Loaded after the zoo, which says so where torch is missing.
        import torch

        from cutset.video.imports.export import export

        graph = export(network, torch.empty(1, 3, *profile.size, dtype=torch.uint8, device="meta")).graph
        if len(graph.nodes) == len(profile.seconds):
            return [node.name for node in graph.nodes]
    return [str(number) for number in range(len(profile.seconds))]


def _pair(args: argparse.Namespace) -> Any:
    """What changes in MODEL from one image file to another."""
    from cutset.video.sources.folder import open_picture

    if len(args.files) != 2 or not args.model:
        raise RequestError("pair takes a model and two image files: show pair alexnet a.png b.png")
    found = []
    size = stream_settings_from(args).picture_size
    for path in args.files:
        with open_picture(path, size) as source:
            found += [picture.pixels for picture in source]
    if len(found) != 2 or found[0].shape != found[1].shape:
        raise RequestError(f"{args.files[0]} and {args.files[1]} are of different sizes; give --size HxW")
    return measured(args, iter(found), args.files[1].name, 2)
