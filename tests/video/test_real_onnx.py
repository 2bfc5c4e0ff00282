"""Trained networks as people have them, and networks exported from torch: whole as onnxruntime, cut as whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
torch = pytest.importorskip("torch")

from benchmarks.onnx_files import exported, in_thirds, of_onnxruntime
from cluster.run.pictures import moving
from cutset import Stream
from cutset.cluster.coordinator.switching import Options
from cutset.cluster.launch.local import LocalWorkers
from cutset.video.check import range_error
from cutset.video.onnx_model import OnnxModel
from cutset.video.runtimes import FUSED
from cutset.video.zoo import ZOO, build
from video.exported import page

TOLERANCE = 1e-4


def holds(path: Path, pixels: NDArray[np.uint8], pixel: str, scale: tuple[float, float]) -> dict[str, Any]:
    """Whole within the tolerance of onnxruntime; cut to the bit, and in other runtimes within the tolerance."""
    height, width = pixels.shape[2:]
    model = OnnxModel.of(path, (height, width), pixels=pixel)
    found = model.run(pixels)
    assert range_error(found, of_onnxruntime(path, pixels, scale)) <= TOLERANCE
    cut = in_thirds(model, pixels, "")
    assert all(cut[name].tobytes() == array.tobytes() for name, array in found.items())
    for runtime in (FUSED, "openvino"):
        assert range_error(in_thirds(model, pixels, runtime), found) <= TOLERANCE, runtime
    return found


def test_the_detector_of_text(text_detector: Path) -> None:
    found = holds(text_detector, page(96, 128), "signed", (127.5, 127.5))
    [shares] = found.values()
    assert shares.shape == (1, 1, 96, 128)
    assert shares.max() > 0.8, "it finds text"
    assert shares.min() < 0.05


def test_a_yolo(yolo: Path) -> None:
    found = holds(yolo, page(96, 128), "unit", (0, 255))
    assert [array.shape for array in found.values()] == [(1, 22, (12 * 16 + 6 * 8 + 3 * 4))]


@pytest.mark.slow
# torch's exporter warns of a part of torch that it uses itself.
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning")
def test_exported_networks_over_three_workers(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pictures = [picture.astype(np.float32) / 255 for picture in moving(2, 64, 64)]
    assert len(ZOO) >= 12
    options = Options(gather=30.0)  # workers may still be starting
    with LocalWorkers(3) as workers:
        for name in ZOO:
            path = exported(name, tmp_path)
            model = OnnxModel.of(path, (64, 64), "float32")
            for pixels in pictures:
                found = model.run(pixels)
                scaled = of_onnxruntime(path, pixels, (0, 1))
                assert range_error(found, scaled) <= TOLERANCE, name
                with torch.no_grad():
                    made = build(name, head=name not in ("alexnet", "vgg16", "vgg19"), seed=3)(torch.from_numpy(pixels))
                torches = [one.numpy() for one in (made if isinstance(made, tuple) else (made,))]
                named = dict(zip(found, torches, strict=True))
                assert range_error(found, named) <= TOLERANCE, name
            with Stream(model, pictures, workers=workers.addresses, scheduler="even", options=options) as stream:
                for result, pixels in zip(stream, pictures, strict=True):
                    assert {n: a.tobytes() for n, a in result.outputs.items()} == {
                        n: a.tobytes() for n, a in model.run(pixels).items()
                    }, name
            assert range_error(in_thirds(model, pictures[0], "openvino"), model.run(pictures[0])) <= TOLERANCE, name
