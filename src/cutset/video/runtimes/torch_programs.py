"""Stages of torch's graphs as programs that other runtimes read: torch.export's, and ONNX models made of them."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cutset.errors import DeviceError, GraphError, first_line
from cutset.partition.graph import Graph
from cutset.partition.node import Argument, Keyword, Read, Weight
from cutset.video.imports.operators import keyword, operator_of
from cutset.video.runtimes import installed
from cutset.video.torch_stage import to_tensor

__all__ = ["onnx_of", "openvino_of"]


class _Part(nn.Module):
    """Nodes of a graph as a module. Names of values aren't kept: inputs and outputs are in the boundary's order."""

    def __init__(self, graph: Graph, nodes: Collection[int], weights: Mapping[str, Any]) -> None:
        super().__init__()
        self.takes, self.gives = graph.boundary(nodes)
        self.calls = [(graph.nodes[i], operator_of(graph.nodes[i])) for i in sorted(nodes)]
        self.places = {}
        for i, name in enumerate(graph.weights_of(nodes)):
            if name not in weights:
                raise GraphError(f"the weight {name} is missing; this stage needs it")
            given = weights[name]
            tensor = to_tensor(given, graph.weights[name]) if isinstance(given, np.ndarray) else given
            self.places[name] = f"w{i}"
            self.register_buffer(f"w{i}", tensor.detach())

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        values: dict[str, Tensor] = dict(zip(self.takes, inputs, strict=True))
        for node, call in self.calls:
            args = [self._argument(a, values) for a in node.args]
            made = call(*args, **{key: self._argument(a, values) for key, a in node.kwargs})
            for value, tensor in zip(node.outputs, made if node.several else (made,), strict=True):
                if value is not None:
                    values[value.name] = tensor
        return tuple(values[name] for name in self.gives)

    def _argument(self, argument: Argument, values: Mapping[str, Tensor]) -> Any:
        if isinstance(argument, Read):
            return values[argument.name]
        if isinstance(argument, Weight):
            return getattr(self, self.places[argument.name])
        if isinstance(argument, tuple):
            return [self._argument(element, values) for element in argument]
        if isinstance(argument, Keyword):
            return torch.device("cpu") if argument.kind == "device" else keyword(argument)
        return argument


def _program(graph: Graph, nodes: Collection[int], weights: Mapping[str, Any]) -> Any:
    part = _Part(graph, nodes, weights).eval()
    kinds = [graph.values[name] for name in part.takes]
    inputs = tuple(torch.zeros(value.shape, dtype=getattr(torch, value.dtype)) for value in kinds)
    with torch.no_grad(), _quiet():
        return torch.export.export(part, inputs)


def openvino_of(graph: Graph, nodes: Collection[int], weights: Mapping[str, Any]) -> Any:
    """OpenVINO's model of these nodes, with the boundary's inputs and outputs in order. Raises GraphError."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    try:
        with _quiet():  # not OpenVINO's own converter, which reports to its makers what it converts
            program = _program(graph, nodes, weights)
            front = FrontEndManager().load_by_framework("pytorch")
            decoder = TorchFXPythonDecoder.from_exported_program(program)
            loaded = front.load(decoder)  # which doesn't keep the decoder alive
            model = front.convert(loaded)
            takes, _ = graph.boundary(nodes)
            model.reshape({i: list(graph.values[name].shape) for i, name in enumerate(takes)})
            return model
    except GraphError:
        raise
    except Exception as error:  # the kinds of two libraries, for an operator that one doesn't know
        raise GraphError(f"OpenVINO can't read the stage: {first_line(error)}") from None


def onnx_of(graph: Graph, nodes: Collection[int], weights: Mapping[str, Any]) -> tuple[bytes, list[str]]:
    """An ONNX model of these nodes, and the names of its inputs in the boundary's order. Raises GraphError.

    Raises DeviceError where what writes it isn't installed.
    """
    if not installed("onnxscript"):
        raise DeviceError("onnxruntime needs onnxscript for torch modules: pip install onnxscript, or take openvino")
    try:
        with _quiet(), tempfile.TemporaryDirectory() as folder:
            program = torch.onnx.export(_program(graph, nodes, weights), (), dynamo=True, verbose=False)
            if program is None:
                raise GraphError("torch's exporter gave no ONNX model of the stage")
            path = Path(folder, "stage.onnx")
            program.save(str(path))
            names = [one.name for one in program.model_proto.graph.input]
            return path.read_bytes(), names
    except GraphError:
        raise
    except Exception as error:
        raise GraphError(f"the stage can't become an ONNX model: {first_line(error)}") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Holds back what exporters print and warn of."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
