"""What a client of private pictures spends, beside multiplying itself: `python -m benchmarks private_pictures`.

CPU seconds at the products of a picture: of this process, with pads ready, the accelerator in a process of its own,
which counts for nothing; against the same products in integers here. Both give the same bits, which is looked at. What
pads cost, ahead of time, has a row of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.targets import Target, targets_table
from cutset.bench.turns import medians, take_turns
from cutset.cli.bench_rows import rows_table, save_rows
from cutset.cli.options import add_json
from cutset.cli.output import log
from cutset.compare.results import Row
from cutset.errors import CutsetError
from cutset.kernels import native
from cutset.private_pictures import PrivateNetwork
from cutset.video.quantised.integer_network import IntegerNetwork, write_network
from cutset.video.quantised.picture_products import LocalProducts, PictureProducts

__all__ = ["TARGETS", "configure", "run"]

CPU, PADS, WIRE = "client CPU at products", "client CPU for pads", "bytes over the link"
SHARE = f"{CPU}, over local's"
# What language models reach. A picture's client masks by the element what is multiplied here by bytes: the less of it a
# layer multiplies for each element, the further from that.
TARGETS = (Target("client CPU at products, over that of int8 here", SHARE, 0.15, system="masked+verified"),)


class Watched:
    """Products whose CPU seconds are added up."""

    def __init__(self, inner: PictureProducts) -> None:
        self.inner, self.seconds = inner, 0.0

    def multiply(self, number: int, q: NDArray[np.int16], scale: float) -> NDArray[np.float32]:
        """See PictureProducts."""
        begun = time.process_time()
        found = self.inner.multiply(number, q, scale)
        self.seconds += time.process_time() - begun
        return found


def quantised(name: str, size: int) -> IntegerNetwork:
    """A network of the zoo with random weights."""
    import torch

    from cutset.video.quantised.quantising import quantise_network
    from cutset.video.torch_model import TorchModel
    from cutset.video.zoo import build

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (1, 3, size, size), np.uint8)
    return quantise_network(TorchModel.of(build(name), picture.shape), [picture], name)


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[str]:
    """An accelerator in a process of its own."""
    address = f"shm://bench-pictures-{os.getpid()}"
    command = [sys.executable, "-m", "cutset", "accelerator", str(directory), "--listen", address, "--threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        if not any("listening" in line for line in process.stderr):
            raise CutsetError("the accelerator didn't start")
        yield address
    finally:
        process.terminate()
        process.communicate()


def measure(name: str, size: int, rounds: int) -> list[Row]:
    """The rows of a network for pictures of size x size."""
    from cutset.video.quantised.integer_stage import IntegerModel

    network = quantised(name, size)
    workload = f"{name}, {size}x{size}, {len(network.layers)} products"
    picture = np.random.default_rng(1).integers(0, 256, (1, 3, size, size), np.uint8)
    a_picture = sum(4 * (layer.shape.depth + layer.shape.positions * layer.shape.outputs) for layer in network.layers)
    with tempfile.TemporaryDirectory() as folder:
        write_network(network, Path(folder, "net"))
        with serving(Path(folder, "net")) as address:
            room: dict[str, Any] = {
                "pads_mib": (a_picture >> 20) + 1,
                "pads_policy": "wait",
            }  # for the pads of one picture
            with PrivateNetwork(network, offload=address, threads=1, **room) as private:
                assert private.offload is not None
                pads = private.offload.parties.pads
                assert pads is not None
                private.offload.convolutions.session.stay_awake(0.0)
                ours, local = Watched(private.offload), Watched(LocalProducts(network.layers))
                models = {"masked+verified": IntegerModel(network, ours), "local": IntegerModel(network, local)}
                made = pads.counters()

                def turn(mode: str, watched: Watched, number: int) -> list[Row]:
                    nonlocal made
                    pads.fill(1)
                    before, moved = watched.seconds, _moved(private)
                    found = models[mode].run(picture)
                    for key, value in models["local"].run(picture).items() if mode != "local" else ():
                        if not np.array_equal(found[key], value):
                            raise CutsetError(f"{mode} gives other bits than local")
                    rows = [Row(workload, mode, CPU, watched.seconds - before, "s")]
                    if mode != "local":
                        now = pads.counters()
                        rows.append(Row(workload, mode, WIRE, float(_moved(private) - moved), "B"))
                        if now.made > made.made:
                            each = (now.cpu_seconds - made.cpu_seconds) / (now.made - made.made) * len(network.layers)
                            rows.append(Row(workload, mode, PADS, each, "s"))
                        made = now
                    return rows

                turns: list[Any] = [
                    lambda number: turn("masked+verified", ours, number),
                    lambda number: turn("local", local, number),
                ]
                found = medians(take_turns(name, turns, rounds, log))
    spent = {row.system: row.value for row in found if row.metric == CPU}
    share = spent["masked+verified"] / spent["local"]
    return [*found, Row(workload, "masked+verified", SHARE, share, "x")]


def _moved(private: PrivateNetwork) -> int:
    assert private.offload is not None
    times = private.offload.convolutions.times
    return times.bytes_up + times.bytes_down


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", default="alexnet,resnet50,vgg16", metavar="A,B,C", help="of the zoo")
    parser.add_argument("--size", type=int, default=224, metavar="N", help="rows and columns (default 224)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="(default 5)")
    add_json(parser, "the figures")


def run(args: argparse.Namespace) -> int:
    log(f"instruction set {native.isa()}")
    rows = [row for name in args.networks.split(",") for row in measure(name, args.size, args.rounds)]
    print(rows_table(rows))
    print(targets_table(rows, TARGETS))
    save_rows(args, rows, threads=1)
    return 0
