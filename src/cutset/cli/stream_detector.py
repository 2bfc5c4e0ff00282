"""`cutset stream detector`: a network as a detector of Frigate's."""

from __future__ import annotations

import argparse
import contextlib
import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cutset.cli.interruption import Interruption
from cutset.cli.options import add_json, add_settings, stream_settings_from
from cutset.cli.output import log
from cutset.cli.progress import Progress
from cutset.cli.stream_detections import add_detections, decoder_from, result_decoder
from cutset.config import STREAM_OPTIONS

if TYPE_CHECKING:
    from cutset.config import StreamSettings
    from cutset.stream import Stream
    from cutset.video.detection import ResultDecoder
    from cutset.video.frigate.frigate_server import FrigateServer

__all__ = ["DESCRIPTION", "HELP", "configure", "run", "serve_results"]

HELP = "serve a network as a detector of Frigate's"
DESCRIPTION = (
    "Answers requests of Frigate's ZMQ detector plugin (type: zmq) by a network on one or several workers. A request "
    "that fails or is too late gets no answer, and is counted: an answer of zeros would say that nothing is there. "
    "Classes are numbers of Frigate's label map. Ends with Ctrl-C or SIGTERM."
)
SIZE = (320, 320)  # Frigate's own
DEADLINE = 0.2  # seconds that its plugin waits
LEFT_OUT = (
    "fit",
    "limit",
    "rate",
    "bad_packets",
    "source_timeout",
    "source_patience",
    "features",
    "max_error",
    "min_agreement",
)
READY_S = 0.05  # between two looks whether workers are ready


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a detector, as `cutset stream run` takes it")
    parser.add_argument(
        "--frigate", required=True, metavar="ADDRESS", help="where to listen: tcp://HOST:PORT, or ipc://PATH"
    )
    parser.add_argument(
        "--model-name", metavar="NAME", help="answer for this model of Frigate's alone; none: whichever it asks for"
    )
    add_detections(parser)
    add_settings(parser, *(name for name in STREAM_OPTIONS if name not in LEFT_OUT), options=STREAM_OPTIONS)
    add_json(parser, "how many requests were answered, and what became of the others,")


def run(args: argparse.Namespace) -> int:
    settings = stream_settings_from(args)
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(settings.threads)
    from cutset.stream import Stream
    from cutset.video.assembly import Given, assemble, options_of
    from cutset.video.frigate.frigate_server import FrigateServer
    from cutset.video.networks import open_file, own_size

    network, deadline = open_file(args.model), settings.deadline or DEADLINE
    size = settings.picture_size or own_size(network) or SIZE
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(Interruption())
        server = stack.enter_context(
            FrigateServer(args.frigate, size, deadline=deadline, model=args.model_name, log=_log)
        )
        given = Given(options=_with_deadline(options_of(settings), deadline))
        with Progress() as progress:
            assembly = assemble(network, [server.pictures], settings, given, log=_log, progress=progress)
        stack.callback(assembly.close)
        decoder = decoder_from(args, assembly.model.graph, assembly.model.metadata, "a detector")
        assert decoder is not None
        reader = result_decoder(args, decoder)
        _log(f"listens at {server.address} for pictures of {server.size[0]}x{server.size[1]}")
        try:
            with Stream.of(assembly, log=_log) as stream:
                signals.on_signal(stream.stop)
                serve_results(stream, server, reader)
        finally:
            server.close()
            _log(server.line())
            if args.json:
                _write(args.json, args.model, settings, server.counts)
    return 128 + signals.number if signals.number else 0


def serve_results(stream: Stream, server: FrigateServer, reader: ResultDecoder) -> None:
    """Hands the results of a stream of the server's pictures to it, until the stream ends."""
    over = threading.Event()
    waiting = threading.Thread(target=_tell_ready, args=(stream, server, over), daemon=True)
    waiting.start()
    try:
        for result in stream:
            if result.dropped:
                server.failed(result.picture, "late" if result.late else "lost")
            else:
                server.found(result.picture, reader.read(result))
    finally:
        over.set()
        waiting.join()


def _tell_ready(stream: Stream, server: FrigateServer, over: threading.Event) -> None:
    coordinator = stream.coordinator
    while not over.wait(READY_S):
        if coordinator.plan is not None:
            server.ready()
            return


def _with_deadline(options: Any, deadline: float) -> Any:
    from dataclasses import replace

    return replace(options, deadline=deadline)


def _log(line: str) -> None:
    log(f"detector: {line}")


def _write(path: str, model: str, settings: StreamSettings, counts: Mapping[str, int]) -> None:
    from cutset.compare.results import Row, machine
    from cutset.files import write_json

    rows = [Row(model, "cutset stream detector", name, float(count), "requests") for name, count in counts.items()]
    document = {"command": "cutset stream detector", "machine": machine(settings.threads, ("torch",)), "rows": rows}
    write_json(path, document)
