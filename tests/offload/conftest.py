"""An accelerator in this process, and one in a process of its own."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cutset.config import load_settings
from cutset.models.files.source import open_source
from cutset.models.registry import BUNDLED
from cutset.offload.accelerator.accelerator import Accelerator, Quota
from cutset.offload.accelerator.loading import open_accelerator
from cutset.offload.accelerator.products import NativeProducts
from cutset.offload.client.ring_calls import RingCalls, RunEnd, Stop
from cutset.offload.matrices import ModelDigest, each_matrix

NUMBERS = itertools.count()


def serve_in_thread(accelerator: Accelerator) -> Callable[[], None]:
    """Serves; what is returned stops it."""
    stop = threading.Event()
    thread = threading.Thread(target=accelerator.serve, args=(stop.is_set,), daemon=True)
    thread.start()

    def ended() -> None:
        stop.set()
        thread.join(10)
        accelerator.close()
        assert not thread.is_alive()

    return ended


@pytest.fixture(scope="module")
def inproc() -> Iterator[str]:
    """The address of an accelerator of the bundled model."""
    address = f"inproc://test-{next(NUMBERS)}"
    ended = serve_in_thread(open_accelerator("story", address, load_settings({"threads": 1}), quota=Quota()))
    yield address
    ended()


class AcceleratorProcess:
    """`cutset accelerator` as people start it."""

    def __init__(self, address: str, model: str = "story", *more: str) -> None:
        command = [sys.executable, "-m", "cutset", "accelerator", model, "--listen", address, "--threads", "1", *more]
        mine = ("CUTSET_SHM_DIR", "CUTSET_ISA")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CUTSET_") or k in mine}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert self.process.stderr is not None
        self.lines = []
        for line in self.process.stderr:
            self.lines.append(line)
            if "listening" in line:
                return
        raise AssertionError(f"the accelerator ended with {self.process.wait()}: {''.join(self.lines)}")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> tuple[int, str]:
        """Exit code and what it said on stderr."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        _, said = self.process.communicate(timeout=20)
        return self.process.returncode, said


@pytest.fixture
def start() -> Iterator[Callable[..., AcceleratorProcess]]:
    """Starts accelerator processes that end with the test."""
    started: list[AcceleratorProcess] = []

    def begin(address: str, model: str = "story", *more: str) -> AcceleratorProcess:
        started.append(AcceleratorProcess(address, model, *more))
        return started[-1]

    yield begin
    for one in started:
        if one.process.poll() is None:
            one.kill()
        one.process.communicate()


@pytest.fixture
def ipc(tmp_path: Path) -> str:
    """An address that nobody has."""
    return f"ipc://{tmp_path}/a"


@pytest.fixture(scope="module")
def loaded() -> tuple[NativeProducts, list[tuple[int, int]], str]:
    """The matrices of the bundled model, loaded once."""
    products, digest, shapes = NativeProducts(1), ModelDigest(), list[tuple[int, int]]()
    for matrix in each_matrix(open_source(BUNDLED["story"])):
        digest.add(matrix)
        products.put(matrix.number, matrix.weight)
        shapes.append((matrix.outputs, matrix.depth))
    return products, shapes, digest.hex()


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> Counter[Stop]:
    """How often native code stopped, and why."""
    seen: Counter[Stop] = Counter()
    run = RingCalls.run

    def counted(self: RingCalls, *given: Any) -> RunEnd:
        end = run(self, *given)
        seen[end.stop] += 1
        return end

    monkeypatch.setattr(RingCalls, "run", counted)
    return seen
