"""A torch module as a model that a coordinator runs, and to compare with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cutset.cluster.values import Array, copied, readable
from cutset.partition.graph import Graph
from cutset.partition.node import Value
from cutset.video.imports.export import export, inference
from cutset.video.imports.trial import call
from cutset.video.network_model import NetworkModel
from cutset.video.torch_stage import TorchStage, to_array, to_tensor

__all__ = ["TorchModel"]


class TorchModel(NetworkModel):
    """A network for pictures of one size."""

    def __init__(self, graph: Graph, tensors: Mapping[str, Tensor], module: nn.Module | None = None) -> None:
        """`module` is what the graph was exported from, to compare with."""
        super().__init__(graph, {name: to_array(tensor) for name, tensor in tensors.items()}, dict(tensors))
        self._module = module
        self._whole: TorchStage | None = None

    @classmethod
    def of(
        cls,
        module: nn.Module,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.uint8,
        picture: Array | None = None,
    ) -> TorchModel:
        """Exports a module for pictures of this shape, as `picture` is one. Raises GraphError."""
        example = torch.zeros(shape, dtype=dtype)
        if picture is not None:
            value = Value("picture", shape, str(dtype).removeprefix("torch."))
            example = to_tensor(copied(picture.reshape(shape), value), value)
        return cls(*export(module, example), module)

    def run(self, picture: Array) -> dict[str, Array]:
        """The outputs of the network in one piece, computed here: what every plan must give.

        The module itself computes them where there is one, else the graph.
        """
        pixels = to_tensor(copied(picture, self.input), self.input)
        if self._module is not None:
            with inference(self._module), torch.no_grad():
                made = dict(zip(self.graph.outputs, call(self._module, [pixels]), strict=True))
        else:
            if self._whole is None:
                self._whole = TorchStage(self.graph, range(len(self.graph.nodes)), self.tensors)
            made = {self.input.name: pixels, **self._whole.forward({self.input.name: pixels})}
        return {name: readable(to_array(made[name]), self.graph.values[name]) for name in self.graph.outputs}
