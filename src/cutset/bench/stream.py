"""`cutset bench stream`: the parts, each of which can run alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cutset.bench.stream_videos import Video
from cutset.compare.results import Row
from cutset.video.torch_model import TorchModel

__all__ = ["PARTS", "Setting"]

Part = Callable[["Setting"], Iterator[Row]]


@dataclass(frozen=True)
class Setting:
    """What is measured with, whatever the part. `quick`: few pictures, to see that it runs."""

    videos: Sequence[Video]
    models: Sequence[str]
    quick: bool
    tell: Callable[[str], None]

    def model(self, name: str, video: Video) -> TorchModel:
        """The network with its head and random weights, for pictures of the video's size."""
        import torch

        from cutset.video.zoo import build

        return TorchModel.of(build(name), (1, 3, *video.size), torch.uint8)


def _bytes(setting: Setting) -> Iterator[Row]:
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
            )
            rows = list(rows_of_bytes(workload, cuts))
            for key, of in (("bound", "(changed + mask)"), ("against_csr", "CSR")):
                worst = max(cuts, key=lambda cut: float(getattr(cut, key)))
                setting.tell(f"  worst against {of}: {getattr(worst, key):.3f}, {worst.value.name}")
            yield from rows


def _planning(setting: Setting) -> Iterator[Row]:
    import torch

    from cutset.bench.stream_planning import LAYERS, chain, run_planning
    from cutset.video.imports.export import export
    from cutset.video.zoo import build

    graphs = {"a chain": chain(LAYERS)}
    picture = torch.zeros(1, 3, 432, 768, dtype=torch.uint8, device="meta")
    for name in ("googlenet", "resnet50"):
        graphs[name] = export(build(name, shapes_only=True), picture)[0]
    yield from run_planning(graphs, 1 if setting.quick else 3, setting.tell)


def _plans(setting: Setting) -> Iterator[Row]:
    from cutset.bench.stream_plans import run_plans

    for video in setting.videos:
        for name in setting.models:
            yield from run_plans(name, setting.model(name, video), video, setting.quick, setting.tell)


def _faults(setting: Setting) -> Iterator[Row]:
    from cutset.bench.stream_faults import run_faults

    video = min(setting.videos, key=lambda video: video.size[0] * video.size[1])
    count, kills = (60, 1) if setting.quick else (1000, 3)
    model = setting.model("alexnet", video)
    yield from run_faults("alexnet", model, video, count, kills, setting.tell)


PARTS: dict[str, Part] = {"bytes": _bytes, "plans": _plans, "faults": _faults, "planning": _planning}
