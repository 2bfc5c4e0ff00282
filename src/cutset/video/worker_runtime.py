"""What workers of streams compute with: whichever runtime a plan names, and the encodings of pictures."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from cutset.cluster.stage import IncrementalStage, Stage, WeightFile
from cutset.cluster.values import Array
from cutset.errors import DeviceError
from cutset.partition.graph import Graph
from cutset.partition.node import Value
from cutset.video.networks import is_onnx
from cutset.video.picture_inputs import PictureDecoder
from cutset.video.runtimes import RUNTIMES, installed, open_stage, packages

__all__ = ["VideoRuntime"]


class VideoRuntime:
    """Stages on one device, with so many threads each, run by what the plan names. See `cutset.cluster.stage`.

    `device` is torch's name of one (`cpu`, `cuda`, `cuda:1`), or `gpu` for OpenVINO's. One that isn't there is a
    DeviceError: nothing falls back to another device.
    """

    def __init__(self, threads: int = 1, device: str = "cpu") -> None:
        self.device, self._threads = device, threads
        self._torch = installed("torch") and not device.startswith("gpu")
        if device != "cpu":
            self._check(device)
        found = packages(*RUNTIMES)
        if not found:
            raise DeviceError("nothing is installed that computes: pip install 'cutset[torch]' or 'cutset[onnx]'")
        self.software = ", ".join(f"{name} {version}" for name, version in found.items())

    def _check(self, device: str) -> None:
        """Raises DeviceError unless something that is installed can compute there."""
        if device.startswith("gpu"):
            if not installed("openvino"):
                raise DeviceError(f"--device {device} needs OpenVINO: pip install 'cutset[openvino]'")
            from cutset.video.runtimes.openvino_stage import check_device

            check_device(device)
            return None
        why = DeviceError(f"--device {device}: neither torch nor onnxruntime is installed")
        if self._torch:
            from cutset.video.runtime import check_device as check_torch_device

            try:
                return check_torch_device(device)
            except DeviceError as error:
                why, self._torch = error, False
        if installed("onnxruntime") and device.startswith("cuda"):
            from cutset.video.runtimes.ort_stage import providers_of

            try:
                providers_of(device)
                return None
            except DeviceError:
                pass
        raise why

    def begin_thread(self) -> None:
        """OpenMP keeps the number of threads by thread."""
        if self._torch:
            import torch

            torch.set_num_threads(self._threads)

    def stage(self, graph: Graph, nodes: Collection[int], weights: Mapping[str, Array], runtime: str = "") -> Stage:
        """A stage of these nodes that ran once, on zeros. Raises GraphError, DeviceError, ConfigError."""
        return open_stage(graph, nodes, weights, runtime, threads=self._threads, device=self.device)

    def incremental_stage(
        self, graph: Graph, nodes: Collection[int], weights: Mapping[str, Array], scale: float, runtime: str = ""
    ) -> IncrementalStage:
        """The same, computing what changed alone where that is quicker. Raises GraphError, DeviceError."""
        from cutset.video.delta.delta_stage import DeltaStage, check_incremental

        check_incremental(self.device)
        dense = self.stage(graph, nodes, weights, runtime)
        return DeltaStage.timed(graph, nodes, weights, dense, threads=self._threads, scale=scale, runtime=runtime)

    def decoder(self, encoding: str, value: Value, settings: bytes) -> PictureDecoder:
        """The worker's end of an encoding of pictures. Raises ConfigError."""
        return PictureDecoder(encoding, value, settings)

    def open_weights(self, path: Path) -> WeightFile:
        """A file of weights by name, an ONNX file's initializers among them. Raises CheckpointError, GraphError."""
        if is_onnx(path):
            from cutset.video.imports.onnx_file import open_initializers

            return open_initializers(path)
        from cutset.video.runtime import open_torch_weights

        return open_torch_weights(path)
