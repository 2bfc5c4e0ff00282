"""Stages that onnxruntime computes: node by node, or with its graph optimisations."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import onnxruntime

from cutset.cluster.values import Array
from cutset.errors import DeviceError, GraphError
from cutset.partition.graph import Graph
from cutset.video.runtimes import has_onnx
from cutset.video.runtimes.checked import checked, zeros
from cutset.video.runtimes.submodel import submodel

__all__ = ["OrtStage", "providers_of"]

FATAL = 4  # of onnxruntime's log: what goes wrong is raised as well


def providers_of(device: str) -> list[Any]:
    """What onnxruntime calls a device, for its sessions. Raises DeviceError for one that isn't there."""
    kind, _, number = device.partition(":")
    if kind == "cpu" and not number:
        return ["CPUExecutionProvider"]
    if kind != "cuda" or (number and not number.isdecimal()):
        raise DeviceError(f"--device {device[:40]}: onnxruntime computes on cpu, cuda or cuda:N")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise DeviceError(f"--device {device}: this build of onnxruntime has no CUDA (the package onnxruntime-gpu has)")
    return [("CUDAExecutionProvider", {"device_id": int(number or 0), "use_tf32": 0})]


class OrtStage:
    """Some nodes of an ONNX graph as one session of onnxruntime, or a session each. See `cutset.cluster.stage`.

    Not `fused`, every node runs by its own kernel on what the nodes before it give, so that the bits are the same
    however the graph is cut. Of float16, which onnxruntime's CPU computes as float32, that takes a session a node: it
    would leave out that values between are rounded.
    """

    def __init__(
        self,
        graph: Graph,
        nodes: Collection[int],
        weights: Mapping[str, Array],
        threads: int = 1,
        device: str = "cpu",
        *,
        fused: bool = False,
        by_node: bool = False,
    ) -> None:
        """Raises GraphError where they can't be a stage or run here, DeviceError for a device that isn't there."""
        self.graph = graph
        self.inputs, self.outputs = graph.boundary(nodes)
        chosen = sorted(set(nodes))
        half = any(v.dtype == "float16" for i in chosen for v in graph.nodes[i].made)
        self._apart = by_node or (half and not fused)
        parts = [[i] for i in chosen] if self._apart else [chosen]
        self._sessions = [_Session(graph, part, weights, threads, device, fused) for part in parts]
        last = {name: at for at, one in enumerate(self._sessions) for name in one.inputs}
        kept = set(self.outputs)
        self._frees = [
            tuple(name for name in (*one.inputs, *one.outputs) if last.get(name, at) == at and name not in kept)
            for at, one in enumerate(self._sessions)
        ]
        self.run(0, {name: zeros(graph.values[name]) for name in self.inputs})

    def run(
        self, source: int, values: Mapping[str, Array], observe: Callable[[float], None] | None = None
    ) -> dict[str, Array]:
        """The outputs of an item. `observe` hears of nodes where they have a session each."""
        held = {name: values[name] for name in self.inputs if name in values}
        if missing := [name for name in self.inputs if name not in held]:
            raise GraphError(f"the input {missing[0]} is missing; this stage needs it")
        for session, frees in zip(self._sessions, self._frees, strict=True):
            begin = time.perf_counter() if observe and self._apart else 0.0
            held |= session.run(held)
            for name in frees:
                held.pop(name, None)
            if observe and self._apart:
                observe(time.perf_counter() - begin)
        return {name: held[name] for name in self.outputs}


class _Session:
    def __init__(
        self, graph: Graph, nodes: list[int], weights: Mapping[str, Array], threads: int, device: str, fused: bool
    ) -> None:
        self.inputs, self.outputs = graph.boundary(nodes)
        self._values = [graph.values[name] for name in self.outputs]
        self._bits = {name for name in self.inputs if graph.values[name].dtype == "bool"}
        providers = providers_of(device)
        options = onnxruntime.SessionOptions()
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if fused else levels.ORT_DISABLE_ALL
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.use_deterministic_compute = True
        options.log_severity_level = FATAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if device != "cpu":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        if has_onnx(graph):
            model, names = submodel(graph, nodes, weights), None
        else:
            from cutset.video.runtimes.torch_programs import onnx_of

            model, names = onnx_of(graph, nodes, weights)
        self._names = dict(zip(self.inputs, names or self.inputs, strict=True))
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=providers)
        except Exception as error:  # onnxruntime's many kinds; what can't run here is the user's to change
            raise GraphError(f"onnxruntime can't run the stage: {_reason(error)}") from None
        if device != "cpu" and "CUDAExecutionProvider" not in self._session.get_providers():
            raise DeviceError(f"--device {device}: onnxruntime can't use it here")

    def run(self, values: Mapping[str, Array]) -> dict[str, Array]:
        given = {
            own: values[name].view(np.bool_) if name in self._bits else values[name]
            for name, own in self._names.items()
        }
        try:
            made = self._session.run(None, given)
        except Exception as error:
            raise GraphError(f"onnxruntime can't run the stage: {_reason(error)}") from None
        return {value.name: checked(array, value) for value, array in zip(self._values, made, strict=True)}


def _reason(error: Exception) -> str:
    """onnxruntime's message without its codes and its own file names."""
    text = " ".join(str(error).split())
    for mark in (" : FAIL : ", " : INVALID_GRAPH : ", " : NOT_IMPLEMENTED : ", " : INVALID_ARGUMENT : "):
        text = text.partition(mark)[2] or text
    return re.sub(r"/\S*/onnxruntime/\S+ ", "", text)[:240]
