"""`cutset bench stream`: the parts, each of which can run alone; `benchmarks/stream.py` has more of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cutset.bench.stream_bytes import Coding
from cutset.bench.stream_videos import Video
from cutset.compare.results import Row
from cutset.video.torch_model import TorchModel

__all__ = ["PARTS", "Part", "StreamSetting"]

Part = Callable[["StreamSetting"], Iterator[Row]]


@dataclass(frozen=True)
class StreamSetting:
    """What is measured with, whatever the part. `quick`: few pictures, to see that it runs."""

    videos: Sequence[Video]
    models: Sequence[str]
    quick: bool
    tell: Callable[[str], None]
    codings: Sequence[Coding] = ()  # what deltas are held against

    def model(self, name: str, video: Video) -> TorchModel:
        """The network with its head and random weights, for pictures of the video's size."""
        import torch

        from cutset.video.zoo import build

        return TorchModel.of(build(name), (1, 3, *video.size), torch.uint8)


def _bytes(setting: StreamSetting) -> Iterator[Row]:
    from cutset.bench.stream_bytes import measure_bytes, rows_of_bytes

    starts = (100,) if setting.quick else (100, 500, 900)
    for video in setting.videos:
        for name in setting.models:
            count = 2 if setting.quick else 4 if name.startswith("vgg") else 7
            workload = f"{name}, {video.name}"
            model = setting.model(name, video)
            cuts = measure_bytes(
                model.graph,
                model.tensors,
                video.places(starts, count),
                lambda line, workload=workload: setting.tell(f"bytes: {workload}: {line}"),  # type: ignore[misc]
                setting.codings,
            )
            worst = max(cuts, key=lambda cut: cut.bound)
            setting.tell(f"  worst against (changed + mask): {worst.bound:.3f}, {worst.value.name}")
            yield from rows_of_bytes(workload, cuts, setting.codings)


def _plans(setting: StreamSetting) -> Iterator[Row]:
    from cutset.bench.stream_plans import run_plans

    for video in setting.videos:
        for name in setting.models:
            yield from run_plans(name, setting.model(name, video), video, setting.quick, setting.tell)


PARTS: dict[str, Part] = {"bytes": _bytes, "plans": _plans}
