"""Torch alone as what a worker computes with, and the encodings of pictures; see `worker_runtime` for any runtime."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from cutset.cluster.stage import WeightFile
from cutset.cluster.values import Array
from cutset.errors import ConfigError, DeviceError
from cutset.partition.graph import Graph
from cutset.partition.node import Value
from cutset.video.delta.delta_stage import DeltaStage, check_incremental
from cutset.video.picture_inputs import PictureDecoder
from cutset.video.runtimes.torch_kernels import open_torch_stage
from cutset.video.torch_stage import TorchStage, to_array
from cutset.video.zoo.weights import open_weights

__all__ = ["TorchRuntime", "check_device", "open_torch_weights"]


class TorchRuntime:
    """Stages run by torch on one device, with so many threads each. Raises DeviceError. See `cutset.cluster.stage`."""

    def __init__(self, threads: int = 1, device: str = "cpu") -> None:
        check_device(device)
        self.software, self.device, self._threads = f"torch {torch.__version__}", device, threads

    def begin_thread(self) -> None:
        """OpenMP keeps the number of threads by thread."""
        torch.set_num_threads(self._threads)

    def stage(
        self, graph: Graph, nodes: Collection[int], weights: Mapping[str, Array], runtime: str = ""
    ) -> TorchStage:
        """See `open_torch_stage`. Raises ConfigError for another runtime than torch."""
        if runtime not in ("", "torch"):
            raise ConfigError(f"the plan names {runtime[:40]!r} for a worker that computes with torch alone")
        return open_torch_stage(graph, nodes, weights, self.device)

    def incremental_stage(
        self, graph: Graph, nodes: Collection[int], weights: Mapping[str, Array], scale: float, runtime: str = ""
    ) -> DeltaStage:
        """The same, computing what changed alone where that is quicker. Raises DeviceError where it can't be done."""
        check_incremental(graph, self.device)
        dense = self.stage(graph, nodes, weights, runtime)
        return DeltaStage.timed(graph, nodes, weights, dense, threads=self._threads, scale=scale)

    def decoder(self, encoding: str, value: Value, settings: bytes) -> PictureDecoder:
        """The worker's end of an encoding of pictures. Raises ConfigError."""
        return PictureDecoder(encoding, value, settings)

    def open_weights(self, path: Path) -> WeightFile:
        """A file of weights by name, each as the dtype that is asked for. Raises CheckpointError."""
        return open_torch_weights(path)


def check_device(device: str) -> None:
    """Raises DeviceError unless torch can compute there."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"--device {device}: {str(error).splitlines()[0][:200]}") from None


def open_torch_weights(path: Path) -> WeightFile:
    """A file of weights by name, each as the dtype that is asked for. Raises CheckpointError."""
    named = open_weights(path)

    def find(name: str, value: Value) -> Array | None:
        tensor = named.get(name)
        if tensor is None or tuple(tensor.shape) != value.shape:
            return None
        return to_array(tensor.to(getattr(torch, value.dtype)))

    return find
