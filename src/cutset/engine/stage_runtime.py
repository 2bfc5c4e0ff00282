"""What a worker of language models computes with: ranges of a decoder's layers, from data that a coordinator sends."""

from __future__ import annotations

import itertools
import time
import weakref
from collections.abc import Callable, Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np

from cutset.cluster.inputs import InputDecoder
from cutset.cluster.stage import Abilities, WeightFile
from cutset.cluster.values import Array, Bytes
from cutset.config import Settings
from cutset.engine.decoder_stage import BATCH, CHOICES, HIDDEN, DecoderStage
from cutset.engine.prefix_context import stage_context
from cutset.engine.prefix_store import PrefixStore
from cutset.engine.stage_adapters import ADAPTER, joined_adapter
from cutset.engine.stage_blocks import is_blocks
from cutset.engine.stage_graph import BUILD, DESCRIPTION, OP, StageModel, StageWeights, read_model
from cutset.engine.stage_probe import PROBE, ProbeStage, probe_stage
from cutset.errors import CheckpointError, ConfigError, CutsetError, DeviceError, EngineError, FrameError, GraphError
from cutset.kernels import native
from cutset.models.files.pieces import join
from cutset.models.files.source import ModelSource, open_source
from cutset.models.files.tensor import Tensor
from cutset.models.run.backend import HALF, LOCAL, build_executor
from cutset.models.stages import check_stage
from cutset.partition.graph import Graph
from cutset.partition.node import Value
from cutset.version import compatible, software

__all__ = ["NUMPY", "LinkedStage", "StageRuntime", "error_of", "isa_of", "software_of", "stage_abilities"]

ERROR = b"!"  # before the text, in the place of choices
MOST_ERROR = 1000  # bytes
WHERE = Path("the coordinator's model")  # for messages about tensors that were sent
MARK = ", stages, "
NUMPY = "numpy"  # in the place of an instruction set, where no native code computes
WIDTH, ROWS = 512, 16  # of the product that is tried
LEAVING = 5.0  # seconds that stages of the engine before may take to end


def software_of(isa: str) -> str:
    """What a worker is called on its card: two that are called alike compute the same bits."""
    return f"{software()}{MARK}{isa}"


def isa_of(name: str) -> tuple[str, str]:
    """The software and the instruction set of a worker that is called so; ("", "") for one of something else."""
    release, mark, isa = name.partition(MARK)
    return (release, isa) if mark else ("", "")


def stage_abilities(*, measure: bool = False) -> Abilities:
    """How stages can be run in this process, with instruction sets up to the one in force. With `measure` each of them
    is tried for some milliseconds; nothing else may compute here meanwhile."""
    isas = [NUMPY]
    if native.available():
        isas = native.available_isas()
        isas = isas[: isas.index(native.isa()) + 1]
    speeds = _speeds(isas) if measure and len(isas) > 1 else ()
    dtypes = (*LOCAL, *(HALF if find_spec("torch") is not None else ()))
    return Abilities(BUILD, isas, speeds, dtypes, ("auto", "int8"))


def _speeds(isas: list[str]) -> list[float]:
    """What a product of some rows with bfloat16 gives a second with each, as a share of what it gives with the last."""
    rng, seconds = np.random.default_rng(0), []
    weight, x = (rng.standard_normal((n, WIDTH), np.float32) for n in (WIDTH, ROWS))
    bits = (weight.view(np.uint32) >> 16).astype(np.uint16)  # as most weights are
    out = np.empty((ROWS, WIDTH), np.float32)
    try:
        for isa in isas:
            native.select_isa(isa)
            product, laps = native.LinearF32(bits), []
            for _ in range(4):
                start = time.perf_counter()
                product(x, out)
                laps.append(time.perf_counter() - start)
            seconds.append(min(laps))
    finally:
        native.select_isa(isas[-1])
    return [round(seconds[-1] / one, 3) for one in seconds]


class StageRuntime:
    """Stages run by the native core, or by numpy, with so many threads. See `cutset.cluster.stage.Runtime`."""

    def __init__(self, threads: int = 1, prefixes: PrefixStore | None = None, device: str = "cpu") -> None:
        """`prefixes` keeps blocks of the KV cache; its owner closes it. `device`: of the backend torch, there for sure.

        Raises DeviceError for a device that isn't there."""
        if device != "cpu":
            from cutset.models.run.torch_ops import torch_device

            torch_device(device)
        self._prefixes = prefixes
        self.isa = native.isa() if native.available() else NUMPY
        if native.available():  # now, so that it counts as the process's own memory and not as a stage's
            import cutset.models.run.native  # noqa: F401
        self.software, self.device, self.threads = software_of(self.isa), device, threads

    def begin_thread(self) -> None:
        """Nothing: the threads that compute are the stage's own."""

    def stage(
        self, graph: Graph, nodes: Collection[int], weights: Mapping[str, Array], runtime: str = ""
    ) -> LinkedStage | ProbeStage:
        """The stage of these nodes. Raises CutsetError where it can't be one, or not be run here."""
        if runtime:
            raise GraphError(f"a stage of a language model runs on its worker's own kernels, not on {runtime[:40]!r}")
        chosen = [graph.nodes[i] for i in sorted(nodes)]
        if chosen and all(node.op == PROBE for node in chosen):
            return probe_stage(graph, nodes, weights, self.threads, self._get_ready)
        if not chosen or any(node.op != OP for node in chosen) or DESCRIPTION not in weights:
            raise GraphError(
                "this worker runs layers of language models (`cutset stage`); networks of pictures need one "
                "of `cutset stream worker`"
            )
        model = read_model(weights[DESCRIPTION])
        isa = self._get_ready(model)
        ranges = [_layers(node.args) for node in chosen]
        if any(left.stop != right.start for left, right in itertools.pairwise(ranges)):
            raise GraphError("a stage's layers must follow each other")
        layers, spec = range(ranges[0].start, ranges[-1].stop), model.spec()
        check_stage(spec, layers)
        if (layers.start == 0 and ranges[0]) or (layers.stop == spec.layers and ranges[-1]):
            raise GraphError("the first layers are in one stage with the embedding, the last ones with the head")
        needed = {name.partition("#")[0] for name in graph.weights_of(nodes)}
        tensors: dict[str, Tensor] = {}
        for name in sorted(name for name in needed if name != DESCRIPTION and not name.startswith(ADAPTER)):
            if name not in model.tensors:
                raise CheckpointError(f"the description of this model doesn't say what {name[:80]} is")
            tensors[name] = join(name, model.tensors[name], weights, WHERE)
        stored = "int8" if any(form.dtype == "I8" for form in model.tensors.values()) else "float32"
        source = ModelSource(WHERE, dict, spec, tensors, "stored" if model.dtype == "stored" else stored)
        settings = Settings(backend=model.backend, dtype=model.dtype, threads=self.threads, device=self.device)
        executor, choice = build_executor(source, settings, layers=layers)
        setup, store = model.stage_setup(), self._prefixes
        if not setup.prefixes or spec.state_floats or self.device != "cpu":
            store = None
        context = b"" if store is None else stage_context(setup.prefixes, choice, layers)
        stage = DecoderStage(executor, setup, store, context)
        for one in model.adapters:
            try:
                stage.load_adapter(joined_adapter(one, ranges, weights), in_bytes=one.in_bytes)
            except ValueError as error:
                raise CheckpointError(f"the adapter {one.name[:80]!r} doesn't fit this model: {error}") from None
        made = LinkedStage(stage, *graph.boundary(nodes))
        _alive[made] = isa
        return made

    def _get_ready(self, model: StageModel) -> str:
        """Computes at the instruction set that a model is to run at, its name. Raises DeviceError."""
        self._check(model)
        isa = isa_of(model.software)[1]
        self._select(isa)
        return isa

    def _check(self, model: StageModel) -> None:
        (ours, _), (theirs, isa) = isa_of(self.software), isa_of(model.software)
        if not isa or not compatible(ours, theirs):
            raise DeviceError(
                f"this worker is {self.software}, the coordinator wants {model.software[:100]}: their tokens may differ"
            )
        if model.build and model.build != BUILD:
            raise DeviceError(
                f"this worker's build computes by {BUILD}, the coordinator's by {model.build[:40]}: their tokens may "
                "differ; install the same version on both"
            )
        there = {"native": native.available(), "reference": True, "torch": find_spec("torch") is not None}
        if not there.get(model.backend, False):
            raise DeviceError(f"this worker can't run the backend {model.backend[:40]}")

    def _select(self, isa: str) -> None:
        """Computes with this instruction set from now on. Weights are laid out for one, so that no stage of another may
        be alive: those of an engine that has gone soon aren't. Raises DeviceError."""
        if isa == NUMPY or isa == native.isa():
            return
        able = native.available_isas()
        able = able[: able.index(self.isa) + 1]
        if isa not in able:
            raise DeviceError(f"this worker has {', '.join(able)}, the coordinator wants {isa[:40]}")
        until = time.monotonic() + LEAVING
        while others := sorted({other for other in _alive.values() if other not in (isa, NUMPY)}):
            if time.monotonic() > until:
                raise DeviceError(f"this worker still computes with {others[0]}, the coordinator wants {isa}")
            time.sleep(0.02)
        native.select_isa(isa)

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
        if is_blocks(given[BATCH]):
            if self._hidden is not None:
                given[HIDDEN] = values[self._hidden]
            return {self.outputs[0]: self.stage.run(source, given)[self._gives]}
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

    def expect(self, source: int, values: Mapping[str, Array]) -> None:
        """See `cutset.cluster.stage.ExpectingStage`."""
        self.stage.expect(values[BATCH])

    def ready_step(self, values: Mapping[str, Array]) -> native.Step | None:
        """See `cutset.cluster.stage.NativeStage`."""
        return self.stage.ready_step(values[BATCH])

    @property
    def linears(self) -> native.Linears:
        """See `cutset.cluster.stage.NativeStage`."""
        found: native.Linears = cast(Any, self.stage.executor).linears
        return found

    def close_step(
        self, values: Mapping[str, Array], step: native.Step, end: native.HopEnd | None, *, sent: bool = False
    ) -> dict[str, Array]:
        """See `cutset.cluster.stage.NativeStage`."""
        try:
            made = self.stage.close_step(values[BATCH], step, end, sent)
        except EngineError as error:
            return {self.outputs[0]: self._passed(_text_of(str(error)))}
        return {} if made is None else {self.outputs[0]: np.ascontiguousarray(made).reshape(-1).view(np.uint8)}

    def _passed(self, text: Bytes) -> Bytes:
        """An error on its way: in the place of hidden states, whose bytes are fours, or of choices."""
        return np.concatenate([np.frombuffer(ERROR, np.uint8), text]) if self.stage.last else text


_alive: weakref.WeakKeyDictionary[LinkedStage, str] = weakref.WeakKeyDictionary()  # with which instruction set


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
    if type(first) is not int or type(last) is not int or not 0 <= first <= last:
        raise GraphError("a node of this graph names no layers")
    return range(first, last)
