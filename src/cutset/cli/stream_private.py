"""`cutset stream run --private`: pictures through a network in integers, multiplied by who can't see them."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from cutset.cli.interruption import Interrupted, Interruption
from cutset.cli.options import add_settings, settings_with, stream_settings_from
from cutset.cli.stream_detections import DetectionOutputs, camera_names, decoder_from, result_decoder, wanted_for
from cutset.cli.stream_results import RunResults, SourceWatch
from cutset.config import STREAM_OPTIONS, StreamSettings
from cutset.errors import ConfigError
from cutset.offload.modes import DEFAULT_MODE, MODES

if TYPE_CHECKING:
    from cutset.private_pictures import PrivateNetwork
    from cutset.video.result import Result

__all__ = ["add_private", "asks_private", "run_private"]

ADDRESS = (
    "an accelerator (`cutset accelerator DIR`) that multiplies for MODEL, a directory of `cutset stream quantize`; "
    f"--mode is then one of {', '.join(MODES)} (default {DEFAULT_MODE}). Everything else is computed here"
)
MODE_FLAG = "settings.stream.mode"
# What has a meaning: all else that is given by hand would be ignored.
KNOWN = ("size", "fit", "limit", "bad_packets", "source_timeout", "source_patience", "key", "threads", "mode")
SHARED = (
    "offload_policy",
    "pads_from",
    "pads_key",
    "pads_same_host",
    "pads",
    "pads_policy",
    "pads_mib",
    "offload_timeout",
)
SECRET = "what changed between two pictures is a secret, and a delta shows it"


def add_private(parser: argparse.ArgumentParser) -> None:
    """Adds --private and what belongs to it."""
    group = parser.add_argument_group("private pictures")
    group.add_argument("--private", metavar="ADDRESS", help=ADDRESS)
    add_settings(parser, "accelerator_key", *SHARED)


def asks_private(args: argparse.Namespace) -> bool:
    """Whether a run is of a network in integers. Raises ConfigError for a mode of an offload without an accelerator."""
    from cutset.video.quantised.integer_network import is_integer_network

    mode = getattr(args, MODE_FLAG)
    if args.private is not None or is_integer_network(args.model):
        return True
    if mode in MODES:
        raise ConfigError(f"--mode {mode} needs --private ADDRESS, and a network that `cutset stream quantize` wrote")
    if given := [name for name in ("accelerator_key", *SHARED) if getattr(args, f"settings.{name}") is not None]:
        raise ConfigError(f"--{given[0].replace('_', '-')} belongs to --private ADDRESS: give that too")
    return False


def run_private(args: argparse.Namespace, log: Callable[[str], None]) -> int:
    """The run. Raises CutsetError."""
    mode = getattr(args, MODE_FLAG)
    if mode in MODES:
        setattr(args, MODE_FLAG, None)
    settings = stream_settings_from(args)
    _refuse(args, settings)
    # Before torch is loaded, which reads it then: everything here is computed with so many threads.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(settings.threads)
    from cutset.private_pictures import PrivateNetwork

    more = {"offload": args.private, "mode": mode if mode in MODES else None, "key": settings.key}
    try:
        own = settings_with(args, **more, threads=settings.threads)
    except ConfigError as error:  # by the name of the flag that was given
        raise ConfigError(str(error).replace("--offload", "--private")) from None
    if args.private is None and not own.mode:
        own = settings_with(args, **more | {"mode": "local"}, threads=settings.threads)
    watch = SourceWatch(log)
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(Interruption())
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            network = stack.enter_context(PrivateNetwork(args.model, settings=own))
        for line in (*(str(one.message) for one in said if one.category is UserWarning), network.caution):
            if line:
                log(line)
        return _play(args, settings, network, watch, signals, stack, log)


def _refuse(args: argparse.Namespace, settings: StreamSettings) -> None:
    """Raises ConfigError for what a private run must not do, or would ignore."""
    if settings.delta_compute:
        raise ConfigError(f"--delta-compute has no place with --private: {SECRET}; leave it out")
    if settings.by_hand("mode"):
        why = SECRET if settings.mode == "delta" else "pictures aren't sent at all"
        raise ConfigError(f"--mode {settings.mode} has no place with --private: {why}; take one of {', '.join(MODES)}")
    if args.module is not None:
        raise ConfigError("--module has no place with --private: quantize the module first, and name the directory")
    flags = [f"--{name.replace('_', '-')}" for name in STREAM_OPTIONS if name not in KNOWN and settings.by_hand(name)]
    flags += [f"--{name}" for name in ("trace", "dashboard") if getattr(args, name) is not None]
    if flags:
        raise ConfigError(f"{' and '.join(flags)}: a private network runs here, in one piece; leave that out")


def _play(
    args: argparse.Namespace,
    settings: StreamSettings,
    network: PrivateNetwork,
    watch: SourceWatch,
    signals: Interruption,
    stack: contextlib.ExitStack,
    log: Callable[[str], None],
) -> int:
    import torch

    from cutset.video.assembly import open_sources
    from cutset.video.check import ResultCheck
    from cutset.video.sources import Source
    from cutset.video.summary import Summary

    torch.set_num_threads(settings.threads)
    if settings.picture_size not in (None, network.size):
        rows, columns = network.size
        raise ConfigError(f"--size: the network was quantised for pictures of {rows}x{columns}; quantize another one")
    sources = open_sources(args.source, settings, network.size, stack, watch.message)
    watch.sources = [source for source in sources if isinstance(source, Source)]
    results = RunResults(args, settings, Summary(graph=network.model.graph), None, watch)
    results.mode = network.mode.name
    results.check = check = ResultCheck(_local(network, settings)) if args.check else None
    results.outputs = _outputs(args, network, watch, log)
    if results.outputs is not None:
        stack.callback(results.outputs.close)
    stopped: list[bool] = []

    def stop() -> None:
        stopped.append(True)
        for source in watch.sources:
            source.cancel()

    signals.on_signal(stop)
    try:
        for result in watch.results(_results(network, sources, stopped)):
            results.add(result)
    except Interrupted:
        raise
    except BaseException as error:
        results.finish(log, str(error) or type(error).__name__)
        raise
    log(network.summary())
    results.finish(log, signals.name or watch.lost or "all pictures are done")
    if watch.lost or (check is not None and not check.exact):
        return 1
    return 128 + signals.number if signals.number else 0


def _local(network: PrivateNetwork, settings: StreamSettings) -> Any:
    """The same network, multiplied here: what every mode must give."""
    from cutset.video.quantised.integer_stage import IntegerModel
    from cutset.video.quantised.picture_products import LocalProducts

    return IntegerModel(network.network, LocalProducts(network.network.layers, settings.threads))


def _outputs(
    args: argparse.Namespace, network: PrivateNetwork, watch: SourceWatch, log: Callable[[str], None]
) -> DetectionOutputs | None:
    """Where detections go, if the network finds any."""
    decoder = decoder_from(args, network.model.graph, network.model.metadata, wanted_for(args))
    if decoder is None:
        return None
    cameras = camera_names([source.name for source in watch.sources], args.camera)
    rates = [source.rate for source in watch.sources]
    return DetectionOutputs(args, result_decoder(args, decoder), cameras, rates, log)


def _results(network: PrivateNetwork, sources: Iterable[Any], stopped: list[bool]) -> Iterator[Result]:
    """The sources take turns, a picture each, until all are at their end."""
    from cutset.video.result import PictureNote, Result

    waiting = [(number, enumerate(source)) for number, source in enumerate(sources)]
    while waiting and not stopped:
        for number, pictures in list(waiting):
            found = None if stopped else next(pictures, None)
            if found is None:
                waiting.remove((number, pictures))
                continue
            count, picture = found
            now = time.monotonic()
            outputs = network.run(picture.pixels)
            yield Result(
                source=number,
                number=count,
                time=picture.time,
                outputs=outputs,
                dropped="",
                plan=0,
                captured=now if picture.captured is None else picture.captured,
                sent=now,
                done=time.monotonic(),
                attempts=1,
                input=picture.pixels,
                note=PictureNote(picture.index, picture.placement, picture.original),
            )
