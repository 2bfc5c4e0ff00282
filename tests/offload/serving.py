"""Accelerators and clients for the tests of hot calls."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from cutset import LLM, SamplingParams
from cutset.link import Link, listen
from cutset.offload.accelerator.products import NativeProducts
from cutset.offload.accelerator.python_accelerator import PythonAccelerator
from cutset.offload.messages import Message, Multiply, Product
from offload.conftest import serve_in_thread

MODES = ["plain", "verified", "masked", "masked+verified"]
PROMPT = "Once upon a time"
TOKENS = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)


class Odd(PythonAccelerator):
    """The slow twin of an accelerator. It keeps what it was asked, and `odd` may do something else than answer it."""

    odd: Callable[[Odd, Any, Message, list[Any]], bool] | None = None

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.asked: list[tuple[Multiply, Any]] = []
        self.answers = 0

    def _queue(self, link: Link, message: Multiply, frame: Any) -> None:
        self.asked.append((message, np.array(frame.arrays[0])))
        super()._queue(link, message, frame)

    def _send(self, link: Any, message: Message, arrays: list[Any] | None = None) -> None:
        if isinstance(message, Product):
            self.answers += 1
            if self.odd is not None and self.odd(link, message, list(arrays or [])):
                return
        super()._send(link, message, arrays)


Loaded = tuple[NativeProducts, list[tuple[int, int]], str]


@contextmanager
def serving(loaded: Loaded, kind: type[Any] = Odd, odd: Any = None) -> Iterator[Any]:
    products, shapes, digest = loaded
    accelerator = kind(listen(f"shm://hot-{os.getpid()}-{time.time_ns()}"), products, shapes, digest, threads=1)
    if odd is not None:
        accelerator.odd = odd.__get__(accelerator)
    ended = serve_in_thread(accelerator)
    try:
        yield accelerator
    finally:
        ended()


@contextmanager
def client(address: str, mode: str, **more: Any) -> Iterator[LLM]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="mode plain")
        llm = LLM("story", threads=1, offload=address, mode=mode, **more)
    with llm:
        yield llm
