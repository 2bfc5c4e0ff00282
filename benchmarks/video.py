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
from cutset.video.torch_model import TorchModel

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

DESCRIPTION = bench_video.DESCRIPTION + " OpenVINO and onnxruntime run the same module, exported."


def run(args: argparse.Namespace) -> int:
    """Measures. Raises CutsetError."""
    others: dict[str, MakeSystem] = {}
    if importlib.util.find_spec("openvino") is not None:
        others["openvino"] = openvino_system
    if importlib.util.find_spec("onnxruntime") is not None and importlib.util.find_spec("onnx") is not None:
        others["onnxruntime"] = onnxruntime_system
    bench_video.measure(args, others)
    return 0


def openvino_system(module: Any, model: TorchModel, threads: int) -> DenseSystem:
    """The module in float32."""
    import openvino
    import torch

    converted = openvino.convert_model(module, example_input=torch.zeros(model.input.shape, dtype=torch.uint8))
    converted.reshape(list(model.input.shape))
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(converted, "CPU", options)

    def system(picture: Pixels) -> Sequence[Any]:
        made = compiled([picture])
        return [np.asarray(made[i]) for i in range(len(compiled.outputs))]

    return system


def onnxruntime_system(module: Any, model: TorchModel, threads: int) -> DenseSystem:
    """The module, exported to ONNX."""
    import onnxruntime  # type: ignore[import-not-found,import-untyped,unused-ignore]
    import torch

    memory: Any = io.BytesIO()
    example = (torch.zeros(model.input.shape, dtype=torch.uint8),)
    torch.onnx.export(module, example, memory, input_names=["pictures"], dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(memory.getvalue(), options, providers=["CPUExecutionProvider"])

    def system(picture: Pixels) -> Sequence[Any]:
        made: Sequence[Any] = session.run(None, {"pictures": picture})
        return made

    return system
