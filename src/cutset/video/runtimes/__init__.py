"""What computes a stage: torch, onnxruntime or OpenVINO, one module each, behind `cutset.cluster.stage.Stage`.

A graph has torch's operators (`aten.conv2d.default`) or ONNX's (`onnx.Conv.17`, where 17 is the operator set), never
both. Each kind has a reference, whose results are the same bits however the graph is cut: torch's kernels for a torch
module, onnxruntime's kernels node by node for an ONNX file. Torch runs the nodes of an ONNX file one by one, too. All
others may fuse the nodes of a stage, so that what they give depends on the cuts, within rounding.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Collection, Mapping
from typing import Any

from cutset.cluster.stage import Stage
from cutset.errors import ConfigError, DeviceError, GraphError
from cutset.partition.graph import Graph

__all__ = ["FUSED", "RUNTIMES", "has_onnx", "installed", "open_stage", "packages", "reference_of"]

RUNTIMES = ("torch", "onnxruntime", "openvino")
FUSED = "onnxruntime+fused"  # as a plan calls onnxruntime with all its graph optimisations
EXTRAS = {"torch": "torch", "onnxruntime": "onnx", "onnx": "onnx", "openvino": "openvino"}


def has_onnx(graph: Graph) -> bool:
    """Whether a graph's operators are ONNX's. Raises GraphError where they are of several kinds."""
    kinds = {node.op.startswith("onnx.") for node in graph.nodes}
    if len(kinds) > 1:
        raise GraphError("a graph has operators of torch or of ONNX, not both")
    return kinds == {True}


def reference_of(graph: Graph) -> str:
    """The runtime that gives the same bits however the graph is cut."""
    return "onnxruntime" if has_onnx(graph) else "torch"


def installed(runtime: str) -> bool:
    """Whether what computes this, as a plan calls it, is there. Imports nothing."""
    return importlib.util.find_spec(runtime.partition("+")[0]) is not None


def packages(*names: str) -> dict[str, str]:
    """The versions of those of these packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def open_stage(
    graph: Graph,
    nodes: Collection[int],
    weights: Mapping[str, Any],
    runtime: str = "",
    *,
    threads: int = 1,
    device: str = "cpu",
    by_node: bool = False,
) -> Stage:
    """A stage of these nodes, which ran once on zeros; `weights` has arrays as parties keep them, or torch's tensors.

    `runtime` is one of RUNTIMES or FUSED; "" is the graph's reference. Torch takes as many threads as it has in this
    thread, the others `threads`. `by_node`: nodes run one by one, so that a run can be observed. Raises GraphError
    where they can't be a stage or run here, DeviceError where the device or a library is missing, ConfigError for
    another runtime.
    """
    runtime = runtime or reference_of(graph)
    if runtime not in (*RUNTIMES, FUSED):
        raise ConfigError(f"there is no runtime {runtime[:40]!r}; known: {', '.join(RUNTIMES)}")
    if not installed(runtime):
        name = runtime.partition("+")[0]
        raise DeviceError(f"{name} isn't installed here: pip install 'cutset[{EXTRAS[name]}]'")
    if runtime == "torch":
        if has_onnx(graph):
            from cutset.video.runtimes.onnx_torch_stage import OnnxTorchStage

            return OnnxTorchStage(graph, nodes, weights, device)
        from cutset.video.runtimes.torch_kernels import open_torch_stage

        return open_torch_stage(graph, nodes, weights, device)
    if runtime == "openvino":
        from cutset.video.runtimes.openvino_stage import OpenVinoStage

        return OpenVinoStage(graph, nodes, weights, threads, device)
    from cutset.video.runtimes.ort_stage import OrtStage

    return OrtStage(graph, nodes, weights, threads, device, fused=runtime == FUSED, by_node=by_node)
