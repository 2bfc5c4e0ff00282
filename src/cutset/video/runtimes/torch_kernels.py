"""Stages that torch computes: the reference of graphs that were exported from torch modules."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch

from cutset.errors import GraphError, first_line
from cutset.partition.graph import Graph
from cutset.video.torch_stage import TorchStage, to_tensor

__all__ = ["open_torch_stage"]


def open_torch_stage(
    graph: Graph, nodes: Collection[int], weights: Mapping[str, Any], device: torch.device | str = "cpu"
) -> TorchStage:
    """A stage of these nodes that ran once, on zeros, so that the first picture doesn't pay for what torch sets up.

    Raises GraphError where they can't be a stage, a weight is missing, or it can't run here.
    """
    tensors = {
        name: to_tensor(weight, graph.weights[name]) if isinstance(weight, np.ndarray) else weight
        for name, weight in weights.items()
        if name in graph.weights
    }
    stage = TorchStage(graph, nodes, tensors, device)
    values = (graph.values[name] for name in stage.inputs)
    try:
        stage.forward({v.name: torch.zeros(v.shape, dtype=getattr(torch, v.dtype)) for v in values})
    except RuntimeError as error:
        raise GraphError(f"the stage can't run here: {first_line(error)}") from None
    return stage
