"""What a coordinator runs: a graph, its weights, and the digests of both."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cutset.cluster.codecs import to_result, to_tensor
from cutset.cluster.digest import tensor_digest
from cutset.cluster.messages import Weight
from cutset.cluster.wire import PIECE, pack
from cutset.errors import GraphError
from cutset.partition.description import describe, graph_digest
from cutset.partition.graph import Graph
from cutset.partition.node import Value
from cutset.video.imports.export import export, inference
from cutset.video.imports.trial import call
from cutset.video.stage import Stage

__all__ = ["Model"]


class Model:
    """A network for pictures of one size."""

    def __init__(self, graph: Graph, tensors: Mapping[str, Tensor], module: nn.Module | None = None) -> None:
        """`module` is what the graph was exported from, to compare with."""
        if len(graph.inputs) != 1:
            raise GraphError(f"the network takes {len(graph.inputs)} inputs; a stream gives it one, the picture")
        self.graph = graph
        self.tensors = dict(tensors)
        self.digest = graph_digest(graph)
        self._digests: dict[str, str] = {}
        self._module = module
        self._whole: Stage | None = None

    @classmethod
    def of(
        cls,
        module: nn.Module,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.uint8,
        picture: NDArray[Any] | None = None,
    ) -> Model:
        """Exports a module for pictures of this shape, as `picture` is one. Raises GraphError."""
        example = torch.zeros(shape, dtype=dtype)
        if picture is not None:
            example = to_tensor(picture.reshape(shape), Value("picture", shape, str(dtype).removeprefix("torch.")))
        return cls(*export(module, example), module)

    @property
    def picture(self) -> Value:
        """What it takes."""
        return self.graph.inputs[0]

    @cached_property
    def description(self) -> bytes:
        """The graph as JSON."""
        return json.dumps(describe(self.graph), separators=(",", ":"), allow_nan=False).encode()

    def weight_digest(self, name: str) -> str:
        """SHA-256 of a weight; computed when it is first asked for."""
        if name not in self._digests:
            self._digests[name] = tensor_digest(self.tensors[name])
        return self._digests[name]

    def weight_frames(self, name: str, size: int = PIECE) -> Iterator[tuple[bytes, list[NDArray[np.uint8]]]]:
        """The frames that carry a weight to a worker, at most `size` bytes each."""
        data = self.tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        for at in range(0, data.size, size):
            header, _ = pack(Weight(self.weight_digest(name), at, data.size))
            yield header, [data[at : at + size]]

    def run(self, picture: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The outputs of the network in one piece, computed here: what every plan must give.

        The module itself computes them where there is one, else the graph.
        """
        pixels = to_tensor(picture, self.picture)
        if self._module is not None:
            with inference(self._module), torch.no_grad():
                made = dict(zip(self.graph.outputs, call(self._module, [pixels]), strict=True))
        else:
            if self._whole is None:
                self._whole = Stage(self.graph, range(len(self.graph.nodes)), self.tensors)
            made = {self.picture.name: pixels, **self._whole.run({self.picture.name: pixels})}
        return {name: to_result(made[name]) for name in self.graph.outputs}
