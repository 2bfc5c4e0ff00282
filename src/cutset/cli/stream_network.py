"""The network and the source that several stream commands take, and their profile."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutset.cli.stream_graph import picture_size

if TYPE_CHECKING:
    from cutset.partition.graph import Graph
    from cutset.partition.profile import Profile

__all__ = ["Network", "add_network", "build_network", "network"]

DEFAULT_SIZE = (480, 720)
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Network:
    """A network of the zoo for pictures of one size, with its weights; and the source of the pictures, if any."""

    name: str
    graph: Graph
    digest: str
    tensors: Mapping[str, Any]
    size: tuple[int, int]
    source: str | None

    def profile(self, threads: int, *, fresh: bool = False, tell: Tell) -> Profile:
        """This machine's."""
        from cutset.video.profile.setup import measure_profile

        return measure_profile(
            self.name, self.graph, self.digest, self.tensors, threads=threads, fresh=fresh, tell=tell
        )

    def with_sizes(self, profile: Profile, count: int, *, tell: Tell) -> Profile:
        """The profile with sizes for the first pictures of the source."""
        import msgspec

        from cutset.video.profile.setup import measure_pictures

        sizes = measure_pictures(self.graph, self.tensors, self.source or "", size=self.size, count=count, tell=tell)
        return msgspec.structs.replace(profile, sizes=sizes)


def add_network(parser: argparse.ArgumentParser) -> None:
    """Adds MODEL, --size, --features, --weights, --seed and --source."""
    parser.add_argument("model", metavar="MODEL", help="alexnet, vgg16, vgg19, googlenet or resnet50")
    parser.add_argument("--size", metavar="HxW", help="rows x columns (default: the source's, or 480x720)")
    parser.add_argument("--features", action="store_true", help="stop before the head")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="a torchvision weight file (default: random)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of random weights (default 0)")
    parser.add_argument("--source", metavar="SOURCE", help="a video, a folder of pictures, generated:HxW, …")


def network(args: argparse.Namespace) -> Network:
    """The network that these arguments name. Raises CutsetError."""
    size = picture_size(args.size) if args.size else None
    return build_network(args.model, size, args.source, features=args.features, weights=args.weights, seed=args.seed)


def build_network(
    name: str,
    size: tuple[int, int] | None,
    source: str | None,
    *,
    features: bool = False,
    weights: Path | None = None,
    seed: int = 0,
) -> Network:
    """A network for pictures of that size, or of the source's."""
    from cutset.video.zoo import build

    if source and size is None:
        from cutset.video.sources import open_source

        with open_source(source) as opened:
            size = opened.size
    size = size or DEFAULT_SIZE
    module = build(name, head=not features, weights=weights, seed=seed)
    # Loaded after the zoo, which says so where torch is missing.
    import torch

    from cutset.partition.description import graph_digest
    from cutset.video.imports.export import export

    graph, tensors = export(module, torch.zeros(1, 3, *size, dtype=torch.uint8))
    label = f"{name} --features" if features else name
    return Network(label, graph, graph_digest(graph), tensors, size, source)
