"""Stages that OpenVINO computes, on the CPU or a GPU: of ONNX graphs, and of torch's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import openvino

from cutset.cluster.values import Array
from cutset.errors import DeviceError, GraphError
from cutset.partition.graph import Graph
from cutset.video.runtimes import has_onnx
from cutset.video.runtimes.checked import checked, zeros
from cutset.video.runtimes.submodel import submodel

__all__ = ["OpenVinoStage", "check_device"]


@cache
def _core() -> Any:
    return openvino.Core()


def check_device(device: str) -> str:
    """What OpenVINO calls a device (`cpu`, `gpu`, `gpu:1`). Raises DeviceError for one that isn't there."""
    kind, _, number = device.partition(":")
    name = kind.upper() + (f".{number}" if number else "")
    if kind not in ("cpu", "gpu") or (number and not number.isdecimal()):
        raise DeviceError(f"--device {device[:40]}: OpenVINO computes on cpu, gpu or gpu:N")
    there = _core().available_devices
    if not any(name == one or one.startswith(f"{name}.") for one in there):
        raise DeviceError(f"--device {device}: OpenVINO finds {', '.join(there) or 'no device'} here")
    return name


class OpenVinoStage:
    """Some nodes of a graph as one model of OpenVINO, in float32 whatever the device would choose.

    Its graph optimisations fuse nodes, so that the results depend on the cuts, within rounding; on one device, with as
    many threads, they are the same bits every time. See `cutset.cluster.stage`; no node is observed.
    """

    def __init__(
        self, graph: Graph, nodes: Collection[int], weights: Mapping[str, Any], threads: int = 1, device: str = "cpu"
    ) -> None:
        """Raises GraphError where they can't be a stage or run here, DeviceError for a device that isn't there."""
        name = check_device(device)
        self.graph = graph
        self.inputs, self.outputs = graph.boundary(nodes)
        how: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if name == "CPU":
            how |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
        with _as_graph_error():
            if has_onnx(graph):
                model = _core().read_model(submodel(graph, nodes, weights))
            else:
                from cutset.video.runtimes.torch_programs import openvino_of

                model = openvino_of(graph, nodes, weights)
            self._request = _core().compile_model(model, name, how).create_infer_request()
        self.run(0, {name: zeros(graph.values[name]) for name in self.inputs})

    def run(
        self, source: int, values: Mapping[str, Array], observe: Callable[[float], None] | None = None
    ) -> dict[str, Array]:
        """The outputs of an item."""
        given = []
        for name in self.inputs:
            if name not in values:
                raise GraphError(f"the input {name} is missing; this stage needs it")
            bits = self.graph.values[name].dtype == "bool"
            given.append(values[name].view(np.bool_) if bits else values[name])
        with _as_graph_error():
            self._request.infer(given, share_inputs=True)
            made = [np.array(self._request.get_output_tensor(i).data) for i in range(len(self.outputs))]
        return {name: checked(one, self.graph.values[name]) for name, one in zip(self.outputs, made, strict=True)}


@contextlib.contextmanager
def _as_graph_error() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise GraphError(f"OpenVINO can't run the stage: {(lines or ['no reason given'])[-1][:240]}") from None
