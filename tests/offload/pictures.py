"""Products of a made-up picture network, and an accelerator for them in this process."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from cutset.config import load_settings
from cutset.kernels.convolution import ConvolutionShape
from cutset.models.files.integer import most_bits
from cutset.offload.accelerator.loading import open_picture_accelerator
from cutset.offload.client.offload import check_settings
from cutset.offload.client.picture_offload import PictureOffload, open_picture_offload
from cutset.offload.convolutions import NetworkProduct

NUMBERS = itertools.count()
SHAPES = (
    ConvolutionShape(9, 8, 3, 8, (3, 3), padding=(1, 1, 1, 1)),
    ConvolutionShape(9, 8, 8, 6, (5, 3), (2, 3), (2, 0, 1, 1)),
    ConvolutionShape(7, 6, 6, 9, (3, 3), (2, 1), (1, 1, 1, 1), groups=3),
    ConvolutionShape(9, 7, 4, 5, (3, 2), dilation=(2, 3)),
    ConvolutionShape(6, 7, 16, 12),
    ConvolutionShape(3, 1, 70, 33),
)


def product(number: int, shape: ConvolutionShape) -> NetworkProduct:
    rng = np.random.default_rng(100 + number)
    weight = rng.integers(-127, 128, shape.weight_shape).astype(np.int8)
    scales = rng.uniform(0.001, 0.01, shape.outputs).astype(np.float32)
    return NetworkProduct(number, f"layer{number}", shape, weight, scales, min(12, most_bits(weight)))


def products(shapes: tuple[ConvolutionShape, ...] = SHAPES) -> list[NetworkProduct]:
    return [product(number, shape) for number, shape in enumerate(shapes)]


def maps(given: NetworkProduct, count: int = 1, seed: int = 0) -> Any:
    """Integers (count, depth) at full range."""
    top = (1 << (given.bits - 1)) - 1
    found = np.random.default_rng(seed).integers(-top, top + 1, (count, given.depth)).astype(np.int16)
    found[0, ::2] = top
    return found


@contextmanager
def accelerator(given: list[NetworkProduct], address: str | None = None, **more: Any) -> Iterator[Any]:
    """One that serves from a thread."""
    at = address or f"inproc://pictures-{os.getpid()}-{next(NUMBERS)}"
    served, stop = open_picture_accelerator(given, at, load_settings({"threads": 1}), **more), threading.Event()
    thread = threading.Thread(target=served.serve, args=(stop.is_set,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        stop.set()
        thread.join(10)
        served.close()


@contextmanager
def client(given: list[NetworkProduct], address: str, mode: str, **more: Any) -> Iterator[PictureOffload]:
    settings = load_settings({"offload": address, "mode": mode, "threads": 1, "offload_timeout": 10} | more)
    kept = check_settings(settings)
    assert kept is not None
    offload = open_picture_offload(given, settings, kept)
    try:
        yield offload
    finally:
        offload.close()
