"""A network of an ONNX file as a model that a coordinator runs, and to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cutset.cluster.stage import Stage
from cutset.cluster.values import Array, copied, readable
from cutset.partition.graph import Graph
from cutset.video.imports.onnx_file import OnnxFile, read_onnx
from cutset.video.imports.onnx_graph import import_onnx
from cutset.video.network_model import NetworkModel
from cutset.video.runtimes import open_stage

__all__ = ["OnnxModel"]


class OnnxModel(NetworkModel):
    """A network for pictures of one size; onnxruntime computes it node by node where it is compared with."""

    def __init__(self, graph: Graph, weights: Mapping[str, Array], threads: int = 1) -> None:
        """`threads`: of onnxruntime in this process."""
        super().__init__(graph, weights)
        self._threads = threads
        self._whole: Stage | None = None

    @classmethod
    def of(
        cls,
        file: OnnxFile | str | Path,
        size: tuple[int, int] | None = None,
        dtype: str = "uint8",
        *,
        pixels: str = "unit",
        bgr: bool = False,
        threads: int = 1,
    ) -> OnnxModel:
        """The network of a file for pictures (1, 3, rows, columns); `size` may be left out where the file has one.

        `pixels` and `bgr`: what it takes, see `import_onnx`. Raises GraphError.
        """
        opened = file if isinstance(file, OnnxFile) else read_onnx(Path(file))
        graph, weights = import_onnx(opened, size or opened.size or (480, 720), dtype=dtype, pixels=pixels, bgr=bgr)
        model = cls(graph, weights, threads)
        model.metadata = opened.metadata
        return model

    def run(self, picture: Array) -> dict[str, Array]:
        """The outputs of the network in one piece, computed here: what every plan must give."""
        if self._whole is None:
            nodes = range(len(self.graph.nodes))
            self._whole = open_stage(self.graph, nodes, self.weights, threads=self._threads)
        pixels = copied(picture.reshape(self.input.shape), self.input)
        made = {self.input.name: pixels, **self._whole.run(0, {self.input.name: pixels})}
        return {name: readable(made[name], self.graph.values[name]) for name in self.graph.outputs}
