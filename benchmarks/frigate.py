"""Requests as Frigate sends them, with a worker killed on the way: `python -m benchmarks frigate --model FILE`.

Pictures are faces, which move; every answer is held against the boxes of the whole network, computed here beforehand. A
request without an answer in time is counted; one with other boxes is wrong, as is one of no boxes where there are some.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks.frigate_client import FrigateClient
from benchmarks.targets import Target, targets_table
from cutset.bench.stream_session import wait_for
from cutset.bench.video import SCENES
from cutset.cli.bench_rows import rows_table, save_rows
from cutset.cli.options import add_json
from cutset.cli.output import log
from cutset.cli.stream_detector import serve_results
from cutset.cluster.coordinator.switching import Options
from cutset.cluster.launch.local import LocalWorkers
from cutset.compare.results import Row
from cutset.config import parse_size
from cutset.errors import RequestError
from cutset.stream import Stream
from cutset.video.detection import HeadLimits, ResultDecoder, choose_decoder, facts_of
from cutset.video.frigate.frigate_server import FrigateServer
from cutset.video.frigate.protocol import answer
from cutset.video.onnx_model import OnnxModel
from cutset.video.summary import quantile

__all__ = ["TARGETS", "configure", "run", "run_frigate"]

SYSTEM = "cutset stream detector"
DISTINCT = 12  # pictures, asked for again and again
CLOSE = 1e-3  # that scores and shares of the picture may differ by
WRONG, UNCOUNTED, ANSWERED = "answers with wrong boxes", "requests of which nothing is known", "answered in time"
TARGETS = (
    Target("answers with wrong boxes", WRONG, 0.0),
    Target("requests that were neither answered nor counted as failed", UNCOUNTED, 0.0),
    Target("answered in time, of those sent, with a worker killed", ANSWERED, 0.9, least=True),
)


def run_frigate(model: OnnxModel, name: str, requests: int = 1000, deadline: float = 0.2) -> list[Row]:
    """So many requests over two workers; one is killed after a third, and started again after two thirds.

    Raises RequestError for a network that detects nothing.
    """
    rows, columns = model.input.shape[2:]
    size = (rows, columns)
    decoder = choose_decoder(facts_of(model.graph, model.metadata), HeadLimits())
    if decoder is None:
        raise RequestError("a detector is needed: nothing says what this network's outputs detect")
    pictures = list(SCENES["faces"](size).pictures(DISTINCT))
    tensors = [np.ascontiguousarray(picture.transpose(0, 2, 3, 1)) for picture in pictures]
    expected = [np.frombuffer(answer(decoder.decode(model.run(one)), size)[1], np.float32) for one in pictures]
    counts, seconds = {"right": 0, "none": 0, "wrong": 0}, list[float]()
    with tempfile.TemporaryDirectory() as folder, LocalWorkers(2) as workers:
        workers.stock(model)
        wait_for(workers)
        server = FrigateServer(f"ipc://{folder}/f", size, deadline=deadline)
        options = Options(deadline=deadline)
        with Stream(
            model, server.pictures, workers=workers.addresses, scheduler="even", options=options, log=log
        ) as stream:
            serving = threading.Thread(target=serve_results, args=(stream, server, ResultDecoder(decoder)))
            serving.start()
            client = FrigateClient(server.address, timeout=round(1000 * deadline))
            for i in range(requests):
                if i == requests // 3:
                    workers.process("worker2").kill()
                    log(f"frigate: killed a worker after {i} requests")
                if i == 2 * requests // 3:
                    workers.start("worker2")
                late, start = client.late, time.monotonic()
                found = client.detect(tensors[i % DISTINCT]).reshape(-1)
                if client.late > late:
                    counts["none"] += 1
                    continue
                seconds.append(time.monotonic() - start)
                right = np.allclose(found, expected[i % DISTINCT], atol=CLOSE)
                counts["right" if right else "wrong"] += 1
            client.close()
            server.close()
            serving.join(20)
    known = sum(server.counts[what] for what in ("answered", "late", "lost", "crowded out", "unfinished"))
    workload = f"{name} {rows}x{columns}, {requests} requests, a worker killed"
    return [
        Row(workload, SYSTEM, WRONG, float(counts["wrong"]), "requests"),
        Row(workload, SYSTEM, UNCOUNTED, float(abs(requests - known)), "requests"),
        Row(workload, SYSTEM, ANSWERED, counts["right"] / requests, "x"),
        Row(workload, SYSTEM, "without an answer", float(counts["none"]), "requests"),
        Row(
            workload,
            SYSTEM,
            "boxes expected",
            float(sum((one.reshape(-1, 6)[:, 1] > 0).sum() for one in expected)),
            "boxes",
        ),
        Row(workload, SYSTEM, "answer, median", quantile(seconds, 0.5) if seconds else 0.0, "s"),
    ]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, metavar="FILE.onnx", help="a detector")
    parser.add_argument("--size", default="320x320", metavar="HxW", help="of pictures (default 320x320)")
    parser.add_argument("--requests", type=int, default=1000, metavar="N", help="(default 1000)")
    parser.add_argument("--deadline", type=float, default=0.2, metavar="S", help="of a request (default 0.2)")
    add_json(parser, "the figures")


def run(args: argparse.Namespace) -> int:
    size = parse_size(args.size)
    if size is None or args.requests < 3 or not 0 < args.deadline < 60:
        raise RequestError("--size is HxW, --requests 3 or more, --deadline above 0 and below 60")
    rows = run_frigate(OnnxModel.of(args.model, size), args.model.name, args.requests, args.deadline)
    print(rows_table(rows), end="\n\n")
    print(targets_table(rows, TARGETS))
    save_rows(args, rows, threads=1, packages=("onnxruntime",))
    return 0
