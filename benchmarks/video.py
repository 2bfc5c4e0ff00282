"""`python -m benchmarks video`: `cutset bench video` with OpenVINO and onnxruntime beside it, where installed."""

from __future__ import annotations

import argparse
import importlib.util
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from cutset.bench.video import DenseSystem, MakeSystem, Pixels
from cutset.cli import bench_video
from cutset.cli.bench_video import HELP, configure
from cutset.video.network_model import NetworkModel

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

DESCRIPTION = bench_video.DESCRIPTION + " They run the same module, exported, or the same file."


def run(args: argparse.Namespace) -> int:
    """Measures. Raises CutsetError."""
    others: dict[str, MakeSystem] = {}
    if importlib.util.find_spec("openvino") is not None:
        others["openvino"] = openvino_system
    if importlib.util.find_spec("onnxruntime") is not None and importlib.util.find_spec("onnx") is not None:
        others["onnxruntime"] = onnxruntime_system
    bench_video.measure(args, others)
    return 0


def openvino_system(module: Any, model: NetworkModel, threads: int) -> DenseSystem:
    """The module, or the file's network, in float32."""
    import openvino

    if module is None:
        converted = openvino.Core().read_model(_file(model))
    else:
        import torch

        converted = openvino.convert_model(module, example_input=torch.zeros(model.input.shape, dtype=torch.uint8))
        converted.reshape(list(model.input.shape))
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(converted, "CPU", options)

    def system(picture: Pixels) -> Sequence[Any]:
        made = compiled([picture])
        return [np.asarray(made[i]) for i in range(len(compiled.outputs))]

    return system


def onnxruntime_system(module: Any, model: NetworkModel, threads: int) -> DenseSystem:
    """The module, exported to ONNX, or the file's network."""
    import onnxruntime  # type: ignore[import-not-found,import-untyped,unused-ignore]

    if module is None:
        data = _file(model)
    else:
        import torch

        memory: Any = io.BytesIO()
        example = (torch.zeros(model.input.shape, dtype=torch.uint8),)
        torch.onnx.export(module, example, memory, input_names=["pictures"], dynamo=False)
        data = memory.getvalue()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()

    def system(picture: Pixels) -> Sequence[Any]:
        made: Sequence[Any] = session.run(None, {given.name: picture})
        return made

    return system


def _file(model: NetworkModel) -> bytes:
    """A file's network with what scales 8-bit pictures for it, so that every program is given the same."""
    from cutset.video.runtimes.submodel import submodel

    return submodel(model.graph, range(len(model.graph.nodes)), model.weights)
