"""`cutset bench video`: a network over videos in one process, delta compute beside dense runtimes, picture by picture.

Every picture goes through every system before the next one, so that a noisy neighbour disturbs all alike. What
keeps delta compute's error within its limit counts as its time: the pictures that are computed dense to check.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cutset.bench.stream_videos import Video
from cutset.codec import EXACT
from cutset.compare.results import Row, summarise
from cutset.video.accuracy import Accuracy
from cutset.video.check import difference
from cutset.video.torch_model import TorchModel

__all__ = ["CLOCKS", "OURS", "SCENES", "DenseSystem", "MakeSystem", "Pixels", "Scene", "VideoSetting", "measure_video"]

CLOCKS: Mapping[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
WARMUP = 2  # pictures that don't count
OURS = "cutset, delta compute"
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Scene:
    """Pictures: those of a video, moved by what `moves` says from picture to picture."""

    name: str
    video: Video
    moves: int = 0  # pixels that the camera moves at most, up or down and left or right, anew for each picture

    def pictures(self, count: int) -> Iterator[Pixels]:
        """(1, 3, rows, columns) each, the same at every call."""
        rng = np.random.default_rng(1)
        with self.video.open(limit=count) as source:
            for picture in islice(source, count):
                pixels = np.array(picture.pixels)
                if self.moves:
                    down, across = rng.integers(-self.moves, self.moves + 1, 2)
                    pixels = np.roll(pixels, (int(down), int(across)), (2, 3))
                yield np.ascontiguousarray(pixels)


def _made_up(name: str, size: tuple[int, int], more: str, moves: int = 0) -> Scene:
    text = f"{size[0]}x{size[1]}"
    return Scene(f"{name} {text}", Video(f"generated {text}", f"generated:{text},{more}", size), moves)


SCENES: Mapping[str, Callable[[tuple[int, int]], Scene]] = {
    "quiet": lambda size: _made_up("quiet", size, "seed=1,noise=0.19,shapes=1"),
    "busy": lambda size: _made_up("busy", size, "seed=1,noise=0.19,shapes=8", moves=40),
    "shaking": lambda size: _made_up("shaking", size, "seed=1,noise=0.19,shapes=1", moves=2),
}


class DenseSystem(Protocol):
    """What takes a picture and gives the outputs in the order of the graph."""

    def __call__(self, picture: Pixels) -> Sequence[NDArray[Any]]: ...


# Of a module, its graph, and threads.
MakeSystem = Callable[[Any, TorchModel, int], DenseSystem]


@dataclass
class VideoSetting:
    """What is measured with: pictures of each scene, threads of every system, the error that ours may have."""

    pictures: int
    threads: int
    max_error: float
    clock: str
    log: Callable[[str], None]
    systems: Sequence[str] = ()  # that ours is held against; none: all
    others: Mapping[str, MakeSystem] = field(default_factory=dict)  # beside torch


def measure_video(name: str, model: TorchModel, module: Any, scene: Scene, setting: VideoSetting) -> list[Row]:
    """Rows of a network over a scene: seconds of each system, their ratio, and the error of ours."""
    from cutset.video.delta.delta_stage import DeltaStage
    from cutset.video.worker_runtime import VideoRuntime

    clock, graph = CLOCKS[setting.clock], model.graph
    runtime = VideoRuntime(setting.threads)
    runtime.begin_thread()
    accuracy = Accuracy(setting.max_error, EXACT, incremental=True)
    nodes, scale = range(len(graph.nodes)), accuracy.delta_scale or 0.0
    dense = runtime.stage(graph, nodes, model.weights)
    stage = DeltaStage.timed(graph, nodes, model.weights, dense, threads=setting.threads, scale=scale)
    opponents = _opponents(module, model, setting)
    seconds: dict[str, list[float]] = {OURS: [], **{one: [] for one in opponents}}
    shares: list[float] = []
    errors: list[float] = []
    checks = 0.0
    for number, picture in enumerate(scene.pictures(setting.pictures + WARMUP)):
        start = clock()
        found = stage.run(0, {model.input.name: picture})
        spent = clock() - start
        reference: Sequence[NDArray[Any]] = ()
        took = {}
        for one, system in opponents.items():
            start = clock()
            made = system(picture)
            took[one] = clock() - start
            reference = reference or made
        error = difference(found, dict(zip(graph.outputs, reference, strict=True)))[1]
        checked = 0.0
        if accuracy.wants(number):
            accuracy.looked(number)
            checked = took[next(iter(took))]
            if accuracy.observe(error):
                stage.scale = accuracy.delta_scale or 0.0
        if number >= WARMUP:
            seconds[OURS].append(spent)
            checks += checked
            shares.append(stage.share)
            errors.append(error)
            for one, value in took.items():
                seconds[one].append(value)
        if number % 25 == 24:
            setting.log(f"{name}, {scene.name}: {number + 1} pictures, computes {statistics.mean(shares):.1%}")
    workload = f"{name}, {scene.name}, {setting.threads} threads, {setting.clock} time"
    return _rows(workload, seconds, checks, shares, errors, setting)


def _rows(
    workload: str,
    seconds: Mapping[str, Sequence[float]],
    checks: float,
    shares: Sequence[float],
    errors: Sequence[float],
    setting: VideoSetting,
) -> list[Row]:
    rows = [summarise(workload, one, "picture", list(values), "s") for one, values in seconds.items()]
    count = len(seconds[OURS])
    ours = (sum(seconds[OURS]) + checks) / count
    rows.append(Row(workload, OURS, "picture, mean with checks", ours, "s"))
    others = {one: sum(values) / count for one, values in seconds.items() if one != OURS}
    best = min(others, key=lambda one: others[one])
    for one, mean in others.items():
        rows.append(Row(workload, one, "picture, mean", mean, "s"))
        rows.append(Row(workload, OURS, f"times as fast as {one}", mean / ours, "x"))
    rows.append(Row(workload, OURS, "times as fast as the best", others[best] / ours, "x"))
    rows.append(Row(workload, OURS, "operations that were done", 100 * statistics.mean(shares), "%"))
    beyond = 100 * sum(error > setting.max_error for error in errors) / count
    rows.append(Row(workload, OURS, "pictures beyond the error", beyond, "%"))
    rows.append(Row(workload, OURS, "largest error", max(errors), "rel error"))
    return rows


def _opponents(module: Any, model: TorchModel, setting: VideoSetting) -> dict[str, DenseSystem]:
    """What computes dense; the first one's results are what ours is held against."""
    found: dict[str, DenseSystem] = {"torch": _torch(module, False), "torch, channels last": _torch(module, True)}
    found |= {one: make(module, model, setting.threads) for one, make in setting.others.items()}
    wanted = {one: system for one, system in found.items() if not setting.systems or one in setting.systems}
    return wanted or {"torch": found["torch"]}


def _torch(module: Any, channels_last: bool) -> DenseSystem:
    import torch

    if channels_last:
        import copy

        module = copy.deepcopy(module).to(memory_format=torch.channels_last)

    def run(picture: Pixels) -> Sequence[NDArray[Any]]:
        with torch.inference_mode():
            pixels = torch.from_numpy(picture)
            if channels_last:
                pixels = pixels.to(memory_format=torch.channels_last)
            made = module(pixels)
            return [one.contiguous().numpy() for one in (made if isinstance(made, tuple | list) else (made,))]

    return run
