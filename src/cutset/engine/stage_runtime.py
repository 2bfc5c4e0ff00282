"""What a worker of language models computes with: ranges of a decoder's layers, from data that a coordinator sends."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np

from cutset.cluster.inputs import InputDecoder
from cutset.cluster.stage import WeightFile
from cutset.cluster.values import Array, Bytes
from cutset.config import Settings
from cutset.engine.decoder_stage import BATCH, CHOICES, HIDDEN, DecoderStage
from cutset.engine.stage_graph import DESCRIPTION, OP, StageModel, StageWeights, read_model
from cutset.errors import CheckpointError, ConfigError, CutsetError, DeviceError, EngineError, FrameError, GraphError
from cutset.kernels import native
from cutset.models.files.pieces import join
from cutset.models.files.source import ModelSource, open_source
from cutset.models.files.tensor import Tensor
from cutset.models.run.backend import build_executor
from cutset.models.stages import check_stage
from cutset.partition.graph import Graph
from cutset.partition.node import Value
from cutset.version import software

__all__ = ["LinkedStage", "StageRuntime", "error_of", "software_of"]

ERROR = b"!"  # before the text, in the place of choices
MOST_ERROR = 1000  # bytes
WHERE = Path("the coordinator's model")  # for messages about tensors that were sent


def software_of(isa: str) -> str:
    """What a worker is called on its card: two that are called alike compute the same bits."""
    return f"{software()}, stages, {isa}"


class StageRuntime:
    """Stages run by the native core, or by numpy, with so many threads. See `cutset.cluster.stage.Runtime`."""

    def __init__(self, threads: int = 1) -> None:
        self.isa = native.isa() if native.available() else "numpy"
        if native.available():  # now, so that it counts as the process's own memory and not as a stage's
            import cutset.models.run.native  # noqa: F401
        self.software, self.device, self.threads = software_of(self.isa), "cpu", threads

    def begin_thread(self) -> None:
        """Nothing: the threads that compute are the stage's own."""

    def stage(self, graph: Graph, nodes: Collection[int], weights: Mapping[str, Array]) -> LinkedStage:
        """The stage of these nodes. Raises CutsetError where it can't be one, or not be run here."""
        chosen = [graph.nodes[i] for i in sorted(nodes)]
        if not chosen or any(node.op != OP for node in chosen) or DESCRIPTION not in weights:
            raise GraphError(
                "this worker runs layers of language models (`cutset stage`); networks of pictures need one "
                "of `cutset stream worker`"
            )
        model = read_model(weights[DESCRIPTION])
        self._check(model)
        ranges = [_layers(node.args) for node in chosen]
        if any(left.stop != right.start for left, right in itertools.pairwise(ranges)):
            raise GraphError("a stage's layers must follow each other")
        layers, spec = range(ranges[0].start, ranges[-1].stop), model.spec()
        check_stage(spec, layers)
        needed = {name.partition("#")[0] for name in graph.weights_of(nodes) if name != DESCRIPTION}
        tensors: dict[str, Tensor] = {}
        for name in sorted(needed):
            if name not in model.tensors:
                raise CheckpointError(f"the description of this model doesn't say what {name[:80]} is")
            tensors[name] = join(name, model.tensors[name], weights, WHERE)
        stored = "int8" if any(form.dtype == "I8" for form in model.tensors.values()) else "float32"
        source = ModelSource(WHERE, dict, spec, tensors, "stored" if model.dtype == "stored" else stored)
        settings = Settings(backend=model.backend, dtype=model.dtype, threads=self.threads)
        executor, _ = build_executor(source, settings, layers=layers)
        inputs, outputs = graph.boundary(nodes)
        return LinkedStage(DecoderStage(executor, model.stage_setup()), inputs, outputs)

    def _check(self, model: StageModel) -> None:
        if model.software != self.software:
            raise DeviceError(
                f"this worker is {self.software}, the coordinator wants {model.software[:100]}: their tokens may differ"
            )
        if model.backend not in ("native", "reference") or (model.backend == "native" and not native.available()):
            raise DeviceError(f"this worker can't run the backend {model.backend[:40]}")

    def decoder(self, encoding: str, value: Value, settings: bytes) -> InputDecoder:
        """Raises ConfigError: items of language models have no other encoding."""
        raise ConfigError(f"stages of language models know no input encoding {encoding[:40]}")

    def open_weights(self, path: Path) -> WeightFile:
        """The weights of a model on this machine. Raises ModelError."""
        weights = StageWeights(open_source(path).tensors)

        def find(name: str, value: Value) -> Array | None:
            try:
                found = weights[name]
            except (KeyError, CutsetError):
                return None
            right = found.shape == value.shape and weights.pieces.dtype(name) == value.dtype
            return found if right else None

        return find


class LinkedStage:
    """A DecoderStage whose values are bytes, as they travel. An item that fails goes on as an error up to its engine:
    the stages keep their state, and the requests in it end.
    """

    def __init__(self, stage: DecoderStage, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        self.stage, self.inputs, self.outputs = stage, inputs, outputs
        self._hidden = next((name for name in inputs if name != BATCH), None)
        self._gives = CHOICES if stage.last else HIDDEN

    def run(
        self, source: int, values: Mapping[str, Array], observe: Callable[[float], None] | None = None
    ) -> dict[str, Array]:
        """See `cutset.cluster.stage.Stage`. Raises FrameError for what is no item of this engine's."""
        given: dict[str, Array] = {BATCH: values[BATCH]}
        if self._hidden is not None:
            hidden = values[self._hidden]
            if hidden.size % 4:
                return {self.outputs[0]: self._passed(hidden)}
            width = self.stage.executor.spec.hidden
            if not hidden.size or hidden.size % (4 * width):
                raise FrameError(f"hidden states of {hidden.size} bytes came, where a row has {4 * width}")
            given[HIDDEN] = hidden.view("<f4").reshape(-1, width)
        try:
            made = self.stage.run(source, given, observe)[self._gives]
        except EngineError as error:
            return {self.outputs[0]: self._passed(_text_of(str(error)))}
        return {self.outputs[0]: np.ascontiguousarray(made).reshape(-1).view(np.uint8)}

    def _passed(self, text: Bytes) -> Bytes:
        """An error on its way: in the place of hidden states, whose bytes are fours, or of choices."""
        return np.concatenate([np.frombuffer(ERROR, np.uint8), text]) if self.stage.last else text


def error_of(choices: Bytes) -> str | None:
    """Why an item has no choices; None where it has."""
    if choices[:1].tobytes() != ERROR:
        return None
    return choices[1 : 1 + MOST_ERROR].tobytes().decode("utf-8", "replace").strip() or "a stage failed"


def _text_of(error: str) -> Bytes:
    data = error.encode("utf-8", "replace")[:MOST_ERROR]
    return np.frombuffer(data + b" " * ((1 - len(data)) % 4), np.uint8)


def _layers(args: tuple[object, ...]) -> range:
    first, last = args[:2] if len(args) > 1 else (None, None)
    if type(first) is not int or type(last) is not int or not 0 <= first < last:
        raise GraphError("a node of this graph names no layers")
    return range(first, last)
