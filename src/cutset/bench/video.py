"""`cutset bench video`: a network over videos in one process, delta compute beside dense runtimes, picture by picture.

Every picture goes through every system before the next one, so that a noisy neighbour disturbs all alike. What
keeps delta compute's error within its limit counts as its time: the pictures that are computed dense to check, as a
stream does it. Of a detector what both find is held against each other as well, over all pictures.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cutset.bench.face_board import FaceBoard
from cutset.bench.stream_videos import Video
from cutset.bench.text_board import TextBoard
from cutset.codec import EXACT
from cutset.compare.results import Row, summarise
from cutset.errors import RequestError
from cutset.video.accuracy import CALIBRATED, Accuracy
from cutset.video.check import difference
from cutset.video.delta.box_agreement import BoxAgreement, Detections, Disagreement
from cutset.video.delta.calibrator import APART
from cutset.video.detection.late_boxes import boxes_of
from cutset.video.network_model import NetworkModel
from cutset.video.runtimes import FUSED, has_onnx, installed, open_stage

if TYPE_CHECKING:
    from cutset.video.delta.delta_stage import DeltaStage

__all__ = [
    "AUTO",
    "CLOCKS",
    "DRAWINGS",
    "OURS",
    "SCENES",
    "DenseSystem",
    "MakeSystem",
    "Pixels",
    "Scene",
    "VideoSetting",
    "measure_video",
]

CLOCKS: Mapping[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
WARMUP = 2  # pictures that don't count
OURS, AUTO = "cutset, delta compute", "cutset, auto"
TOLERANCE = 1e-4  # of the output's range, within which the quickest runtime is taken for dense pictures of ONNX files
Pixels = NDArray[np.uint8]


# Draws on picture number so and so (1, 3, rows, columns): a copy.
Drawing = Callable[[Pixels, int], Pixels]
DRAWINGS: Mapping[str, Callable[[tuple[int, int]], Drawing]] = {
    "texts": lambda size: TextBoard(size).written,
    "faces": lambda size: FaceBoard(size).drawn,
}


@dataclass(frozen=True)
class Scene:
    """Pictures: those of a video, moved from picture to picture as `moves` says, with something `drawn` on them."""

    name: str
    video: Video
    moves: int = 0  # steps that the camera moves at most, up or down and left or right, anew for each picture
    step: int = 1  # pixels
    size: tuple[int, int] | None = None  # rows and columns that pictures are scaled to; none: the video's own
    drawn: str = ""  # one of DRAWINGS, that a detector finds

    def pictures(self, count: int) -> Iterator[Pixels]:
        """(1, 3, rows, columns) each, the same at every call."""
        rng = np.random.default_rng(1)
        draw = DRAWINGS[self.drawn](self.size or self.video.size) if self.drawn else None
        with self.video.open(limit=count, size=self.size) as source:
            for number, picture in enumerate(islice(source, count)):
                pixels = np.array(picture.pixels)
                if self.moves:
                    down, across = rng.integers(-self.moves, self.moves + 1, 2)
                    pixels = np.roll(pixels, (self.step * int(down), self.step * int(across)), (2, 3))
                pixels = pixels if draw is None else draw(pixels, number)
                yield np.ascontiguousarray(pixels)


def _made_up(name: str, size: tuple[int, int], shapes: int, moves: int = 0, step: int = 1, drawn: str = "") -> Scene:
    text = f"{size[0]}x{size[1]}"
    video = Video(f"generated {text}", f"generated:{text},seed=1,noise=0.19,shapes={shapes}", size)
    return Scene(f"{name} {text}", video, moves, step, drawn=drawn)


SCENES: Mapping[str, Callable[[tuple[int, int]], Scene]] = {
    "quiet": lambda size: _made_up("quiet", size, 1),
    "busy": lambda size: _made_up("busy", size, 8, moves=40),
    "shaking": lambda size: _made_up("shaking", size, 1, moves=2),
    "jumping": lambda size: _made_up("jumping", size, 1, moves=1, step=32),
    "texts": lambda size: _made_up("texts", size, 1, drawn="texts"),
    "faces": lambda size: _made_up("faces", size, 0, drawn="faces"),
}


class DenseSystem(Protocol):
    """What takes a picture and gives the outputs in the order of the graph."""

    def __call__(self, picture: Pixels) -> Sequence[NDArray[Any]]: ...


# Of a module (None for an ONNX file), its graph, and threads.
MakeSystem = Callable[[Any, NetworkModel, int], DenseSystem]


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
    min_agreement: float | None = None  # of detections, in place of the error
    thresholds: float | None = None  # times the usual ones in every picture, without checks
    calibrate: int = 16  # pictures before those that count, from which each layer's share of what is allowed is found
    auto: bool = False  # dense as well, by the runtime that `auto` takes within TOLERANCE


@dataclass
class _Ours:
    """What came of delta compute: seconds of a picture and of checks, and how far off it was."""

    calibrated: float = 0.0  # seconds, once
    checks: float = 0.0
    shares: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    dense: list[bool] = field(default_factory=list)
    moved: int = 0
    sampled: list[float] = field(default_factory=list)
    boxes: BoxAgreement | None = None


def measure_video(name: str, model: NetworkModel, module: Any, scene: Scene, setting: VideoSetting) -> list[Row]:
    """Rows of a network over a scene: seconds of each system, their ratio, and the error of ours.

    `module` is None for a network of an ONNX file. Raises CutsetError.
    """
    from cutset.video.delta.delta_stage import DeltaStage
    from cutset.video.runtimes.choose import choose_runtime
    from cutset.video.worker_runtime import VideoRuntime

    clock, graph = CLOCKS[setting.clock], model.graph
    runtime = VideoRuntime(setting.threads)
    runtime.begin_thread()
    detections = boxes_of(model)
    accuracy = _accuracy(setting, detections)
    nodes, scale = range(len(graph.nodes)), _scale(setting, accuracy)
    word = choose_runtime(model, "auto", TOLERANCE, setting.threads, setting.log) if has_onnx(graph) else ""
    dense = runtime.stage(graph, nodes, model.weights, word)
    stage = DeltaStage.timed(
        graph, nodes, model.weights, dense, threads=setting.threads, scale=scale, runtime=word, clock=clock
    )
    opponents = _opponents(module, model, setting)
    if setting.auto:
        chosen = word if has_onnx(graph) else choose_runtime(model, "auto", TOLERANCE, setting.threads, setting.log)
        opponents[AUTO] = _stage_system(model, chosen, setting.threads)
    seconds: dict[str, list[float]] = {OURS: [], **{one: [] for one in opponents}}
    ours = _Ours(boxes=None if detections is None else BoxAgreement())
    before = setting.calibrate * APART if scale and setting.thresholds is None else 0
    pictures = scene.pictures(before + setting.pictures + WARMUP)
    if before:
        start = clock()
        shown = [{model.input.name: one} for one in islice(pictures, 0, before, APART)]
        if len(shown) < setting.calibrate:
            raise _too_short(scene, before)
        _calibrate(stage, shown, accuracy, setting)
        accuracy.calibrated(0)
        ours.calibrated = clock() - start
    for number, picture in enumerate(pictures):
        start = clock()
        found = stage.run(0, {model.input.name: picture})
        spent, share = clock() - start, stage.share
        made, took = _dense(opponents, picture, clock)
        reference = dict(zip(graph.outputs, made, strict=True))
        error, checked = difference(found, reference)[1], 0.0
        if stage.whole:
            accuracy.spare(number)
        elif setting.thresholds is None and accuracy.wants(number):
            accuracy.looked(number)
            start = clock()
            wanted = dense.run(0, {model.input.name: picture})
            checked = clock() - start
            stage.charge(0, checked)
            off = (
                difference(found, wanted)[1] if accuracy.disagreement is None else accuracy.disagreement(found, wanted)
            )
            ours.sampled.append(off)
            if accuracy.observe(off):
                stage.scale = _scale(setting, accuracy)
        if number >= WARMUP:
            seconds[OURS].append(spent)
            ours.checks += checked
            ours.shares.append(share)
            ours.dense.append(stage.whole)
            ours.errors.append(error)
            if ours.boxes is not None and detections is not None:
                ours.boxes.add(detections(found), detections(reference))
            for one, value in took.items():
                seconds[one].append(value)
        if number % 25 == 24:
            text = f"{number + 1} pictures, computes {statistics.mean(ours.shares):.1%}, scale {stage.scale:.3g}"
            setting.log(f"{name}, {scene.name}: {text}")
    if not seconds[OURS]:
        raise _too_short(scene, before)
    ours.moved = stage.shifted
    workload = f"{name}, {scene.name}, {setting.threads} threads, {setting.clock} time"
    return _rows(workload, seconds, ours, accuracy.limit, setting)


def _too_short(scene: Scene, before: int) -> RequestError:
    return RequestError(
        f"{scene.name} has too few pictures: {before} for --calibrate and {WARMUP} to warm up come before those that "
        "count; leave it out, or give a smaller --calibrate"
    )


def _calibrate(
    stage: DeltaStage, pictures: Sequence[Mapping[str, Pixels]], accuracy: Accuracy, setting: VideoSetting
) -> None:
    """Finds each layer's share of what is allowed, from pictures of which dense results are known."""
    from cutset.video.delta.calibrating import calibrate

    dense = [stage.dense.run(0, values) for values in pictures]
    found = calibrate(
        stage.program, pictures, dense, accuracy.moved, scale=stage.scale, budget=CALIBRATED, log=setting.log
    )
    stage.factors = found.factors


def _accuracy(setting: VideoSetting, detections: Detections | None) -> Accuracy:
    """What keeps ours within its limit. Raises RequestError for an agreement of a network that detects nothing."""
    if setting.min_agreement is None:
        return Accuracy(setting.max_error, EXACT, incremental=True)
    if detections is None:
        raise RequestError("--min-agreement needs a detector: nothing says what this network's outputs detect")
    return Accuracy(1 - setting.min_agreement, EXACT, incremental=True, disagreement=Disagreement(detections))


def _scale(setting: VideoSetting, accuracy: Accuracy) -> float:
    return setting.thresholds if setting.thresholds is not None else accuracy.delta_scale or 0.0


def _dense(
    opponents: Mapping[str, DenseSystem], picture: Pixels, clock: Callable[[], float]
) -> tuple[Sequence[NDArray[Any]], dict[str, float]]:
    """What the first one gives, and the seconds of each."""
    reference: Sequence[NDArray[Any]] = ()
    took = {}
    for one, system in opponents.items():
        start = clock()
        made = system(picture)
        took[one] = clock() - start
        reference = reference or made
    return reference, took


def _rows(
    workload: str, seconds: Mapping[str, Sequence[float]], ours: _Ours, limit: float, setting: VideoSetting
) -> list[Row]:
    # A median leaves out what is slow now and then, and that is ours alone: means with all of it are compared.
    names = {one: "picture, median" + (" without checks" if one == OURS else "") for one in seconds}
    rows = [summarise(workload, one, names[one], list(values), "s") for one, values in seconds.items()]
    count = len(seconds[OURS])
    mean = (sum(seconds[OURS]) + ours.checks) / count
    rows.append(Row(workload, OURS, "picture, mean with checks", mean, "s"))
    if ours.calibrated:
        rows.append(Row(workload, OURS, "calibration, once", ours.calibrated, "s"))
    others = {one: sum(values) / count for one, values in seconds.items() if one not in (OURS, AUTO)}
    best = min(others, key=lambda one: others[one])
    for one, other in others.items():
        rows.append(Row(workload, one, "picture, mean with checks", other, "s"))
        rows.append(Row(workload, OURS, f"times as fast as {one}", other / mean, "x"))
    rows.append(Row(workload, OURS, "times as fast as the best", others[best] / mean, "x"))
    if AUTO in seconds:
        dense = statistics.fmean(seconds[AUTO])
        rows.append(Row(workload, AUTO, "picture, mean", dense, "s"))
        rows.append(Row(workload, AUTO, "times as fast as the best", others[best] / dense, "x"))
    rows.append(Row(workload, OURS, "operations that were done", 100 * statistics.mean(ours.shares), "%"))
    rows.append(Row(workload, OURS, "pictures that were dense", 100 * statistics.mean(ours.dense), "%"))
    rows.append(Row(workload, OURS, "pictures that what is held moved along with", 100 * ours.moved / count, "%"))
    beyond = 100 * sum(error > setting.max_error for error in ours.errors) / count
    rows.append(Row(workload, OURS, "pictures beyond the error", beyond, "%"))
    rows.append(Row(workload, OURS, "largest error", max(ours.errors), "rel error"))
    if ours.sampled:
        beyond = 100 * sum(error > limit for error in ours.sampled) / len(ours.sampled)
        rows.append(Row(workload, OURS, f"checks beyond the limit, of {len(ours.sampled)}", beyond, "%"))
    if ours.boxes is not None:
        if ours.boxes.found or ours.boxes.truth:  # of no boxes at all nothing agrees
            rows.append(Row(workload, OURS, "agreement", ours.boxes.f1, "F1"))
        rows.append(Row(workload, OURS, "dense detections", float(ours.boxes.truth), "boxes"))
    return rows


def _opponents(module: Any, model: NetworkModel, setting: VideoSetting) -> dict[str, DenseSystem]:
    """What computes dense; the first one's results are what ours is held against."""
    found: dict[str, DenseSystem] = {}
    if module is not None:
        found |= {"torch": _torch(module, False), "torch, channels last": _torch(module, True)}
    else:
        for name, word in (("onnxruntime", FUSED), ("openvino", "openvino")):
            if installed(name):
                found[name] = _stage_system(model, word, setting.threads)
    found |= {one: make(module, model, setting.threads) for one, make in setting.others.items()}
    wanted = {one: system for one, system in found.items() if not setting.systems or one in setting.systems}
    if not wanted:
        raise RequestError(f"--system: there is none of these; there are {', '.join(found) or 'none installed'}")
    return wanted


def _stage_system(model: NetworkModel, word: str, threads: int) -> DenseSystem:
    """A runtime that computes all nodes as one stage."""
    stage = open_stage(model.graph, range(len(model.graph.nodes)), model.weights, word, threads=threads)

    def run(picture: Pixels) -> Sequence[NDArray[Any]]:
        made = stage.run(0, {model.input.name: picture})
        return [made[name] for name in model.graph.outputs]

    return run


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
