"""`cutset bench stream`: the parts, each of which can run alone; `benchmarks/stream.py` has more of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cutset.bench.stream_bytes import Coding
from cutset.bench.stream_videos import Video
from cutset.compare.results import Row
from cutset.video.accuracy import DELTA_ERROR
from cutset.video.network_model import NetworkModel
from cutset.video.networks import is_onnx, open_file, own_size

__all__ = ["PARTS", "Part", "StreamSetting"]

Part = Callable[["StreamSetting"], Iterator[Row]]


@dataclass(frozen=True)
class StreamSetting:
    """What is measured with, whatever the part. `quick`: few pictures, to see that it runs."""

    videos: Sequence[Video]
    models: Sequence[str]
    quick: bool
    log: Callable[[str], None]
    codings: Sequence[Coding] = ()  # what deltas are held against

    size: tuple[int, int] = (320, 320)  # of pictures for ONNX files that take any
    max_error: float = DELTA_ERROR  # that delta compute may make, a share of the output's largest element

    def videos_of(self, name: str) -> list[Video]:
        """All videos, scaled to what an ONNX file takes."""
        if not is_onnx(name):
            return list(self.videos)
        size = own_size(open_file(name)) or self.size
        return [video.of_size(size) for video in self.videos]

    def model(self, name: str, video: Video) -> NetworkModel:
        """An ONNX file's network, or one of the zoo with its head and random weights, for pictures of that size."""
        if is_onnx(name):
            from cutset.video.onnx_model import OnnxModel

            return OnnxModel.of(name, video.size)
        import torch

        from cutset.video.torch_model import TorchModel
        from cutset.video.zoo import build

        return TorchModel.of(build(name), (1, 3, *video.size), torch.uint8)


def _bytes(setting: StreamSetting) -> Iterator[Row]:
    from cutset.bench.stream_bytes import measure_bytes, rows_of_bytes

    starts = (100,) if setting.quick else (100, 500, 900)
    for video in setting.videos:
        for name in setting.models:
            if is_onnx(name):
                setting.log(f"bytes: {name}: of torch's networks alone")
                continue
            count = 2 if setting.quick else 4 if name.startswith("vgg") else 7
            workload = f"{name}, {video.name}"
            model = setting.model(name, video)
            cuts = measure_bytes(
                model.graph,
                model.tensors,
                video.places(starts, count),
                lambda line, workload=workload: setting.log(f"bytes: {workload}: {line}"),  # type: ignore[misc]
                setting.codings,
            )
            worst = max(cuts, key=lambda cut: cut.bound)
            setting.log(f"  worst against (changed + mask): {worst.bound:.3f}, {worst.value.name}")
            yield from rows_of_bytes(workload, cuts, setting.codings)


def _plans(setting: StreamSetting) -> Iterator[Row]:
    from cutset.bench.stream_plans import run_plans

    for name in setting.models:
        for video in setting.videos_of(name):
            model = setting.model(name, video)
            yield from run_plans(Path(name).name, model, video, setting.quick, setting.log, setting.max_error)


PARTS: dict[str, Part] = {"bytes": _bytes, "plans": _plans}
