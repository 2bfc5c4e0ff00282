"""`cutset stream`: a network over several machines, layer by layer, for the pictures of a video."""

from __future__ import annotations

import argparse

from cutset.cli import (
    stream_batch,
    stream_detector,
    stream_graph,
    stream_plan,
    stream_profile,
    stream_quantize,
    stream_run,
    stream_show,
    stream_simulate,
    stream_trace,
    stream_train,
    stream_worker,
)

__all__ = ["configure", "run"]

ACTIONS = (
    ("batch", stream_batch),
    ("detector", stream_detector),
    ("graph", stream_graph),
    ("run", stream_run),
    ("show", stream_show),
    ("plan", stream_plan),
    ("profile", stream_profile),
    ("quantize", stream_quantize),
    ("simulate", stream_simulate),
    ("trace", stream_trace),
    ("train", stream_train),
    ("worker", stream_worker),
)


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, module in ACTIONS:
        parser = actions.add_parser(name, help=module.HELP, description=module.DESCRIPTION, allow_abbrev=False)
        module.configure(parser)
        parser.set_defaults(act=module.run)


def run(args: argparse.Namespace) -> int:
    code: int = args.act(args)
    return code
