"""An ONNX file becomes a graph and its weights: the same `Graph` as a torch module's, with ONNX's operators.

What depends on no picture is computed once (by the onnx library's reference) and is a weight: constants, shapes, what
is made of them. But quantised weights stay as small as they are: where a node reads one, an argument of it is the
operator that makes floats of it, with the weights that it reads. A node is named by its operator and the operator set
of its file (`onnx.Conv.17`); its arguments are its inputs in order, None for one that is left out, its keywords are its
attributes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, TypeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from cutset.cluster.values import Array, as_kept
from cutset.errors import GraphError
from cutset.partition.graph import Graph
from cutset.partition.node import ITEM_BYTES, Argument, Node, Read, Value, Weight, free_name
from cutset.video.imports.onnx_costs import node_flops
from cutset.video.imports.onnx_file import DTYPES, OnnxFile, shown
from cutset.video.imports.onnx_pictures import PIXELS, picture_nodes
from cutset.video.runtimes.submodel import ELEMENTS, KINDS, check_node

__all__ = ["ImportedOnnx", "import_onnx"]

MOST_VALUE = 1 << 33  # bytes of a value
MOST_FOLDED = 1 << 28  # bytes of what is computed once, and in all
MOST_WORK = 1 << 28  # operations of a node that is computed once; the reference is slow
SMALL = 4096  # elements of a constant on which shapes may depend
# What they make is like what they take, which the library's inference doesn't know.
KEEPS = ("GroupNormalization", "MeanVarianceNormalization")
GROWING = ("ConstantOfShape", "Expand", "EyeLike", "OneHot", "Pad", "Range", "Resize", "Tile", "Upsample")


class ImportedOnnx(NamedTuple):
    """A graph, and its weights by name, as parties keep them."""

    graph: Graph
    weights: dict[str, Array]


def import_onnx(
    file: OnnxFile, size: tuple[int, int], *, dtype: str = "uint8", pixels: str = "unit", bgr: bool = False
) -> ImportedOnnx:
    """The graph of a file's network for pictures (1, 3, height, width) of this size and dtype.

    8-bit pictures of a network that takes floats are scaled by its first nodes, as `pixels` says (see PIXELS); `bgr`:
    the network takes blue first. Raises GraphError, with the operator and the node, for what can't be cut.
    """
    if pixels not in PIXELS:
        raise GraphError(f"there is no scale {pixels[:40]!r} of pixels; known: {', '.join(PIXELS)}")
    try:
        return _Importer(file).run(size, dtype, pixels, bgr)
    except GraphError as error:
        text = str(error)
        raise GraphError(text if text.startswith(str(file.path)) else f"{file.path}: {text}") from None


class _Importer:
    """Goes through a file's nodes once, in order; what is known of each name of the file is in one of the tables."""

    def __init__(self, file: OnnxFile) -> None:
        self.file, self.proto = file, file.model.graph
        self.values: dict[str, Value] = {}  # made for every picture, by the file's names
        self.held: dict[str, TensorProto] = {tensor.name: tensor for tensor in self.proto.initializer}
        self.constants: dict[str, Array] = {}  # as numpy has them; of `held` when first needed
        self.quantised: dict[str, tuple[NodeProto, Value]] = {}  # floats that are made of quantised weights
        self.alias: dict[str, str] = {}
        self.weights: dict[str, Value] = {}
        self.arrays: dict[str, Array] = {}
        self.nodes: list[Node] = []
        self.names: dict[str, str] = {}  # the file's names, and those of the graph
        self.taken: set[str] = set()
        self.taken_nodes: set[str] = set()
        self.folded = 0  # bytes
        self.hint = ""  # what else may be wrong where shapes don't fit

    def run(self, size: tuple[int, int], dtype: str, pixels: str, bgr: bool) -> ImportedOnnx:
        if self.file.size is None and any(side % 32 for side in size):
            self.hint = f" (pictures of {size[0]}x{size[1]}: many networks take multiples of 32, see --size)"
        needed, live = _needed(self.proto)
        if self.proto.sparse_initializer:
            raise GraphError("it has sparse weights, which stages can't have")
        before = picture_nodes(
            self.file.picture.name,
            self.file.fitting(size),
            self.file.dtype,
            dtype,
            self.file.last,
            PIXELS[pixels],
            bgr,
            {*self.held, *(name for node in self.proto.node for name in (*node.input, *node.output))},
        )
        first = Value(before.input, (1, 3, *size), dtype)
        self.names[before.input] = self._free(before.input)
        self.values[before.input] = first
        self.constants |= before.constants
        wanted = [output.name for output in self.proto.output]
        for node in before.nodes:
            self._take(node, set(node.output), set())
        for node in needed:
            self._take(node, live, set(wanted))
        outputs = tuple(self._output(name) for name in wanted)
        if not self.nodes:
            raise GraphError("nothing that it computes depends on the picture")
        inputs = (Value(self.names[before.input], first.shape, dtype),)
        return ImportedOnnx(Graph(inputs, outputs, tuple(self.nodes), self.weights), self.arrays)

    def _take(self, node: NodeProto, live: set[str], wanted: set[str]) -> None:
        where = f"{node.op_type[:60]} ({shown(node.name or next(iter(node.output), ''))})"
        if node.domain not in ("", "ai.onnx"):
            raise GraphError(
                f"operator {shown(node.domain)}.{where} is of a custom domain; export the network with ONNX's own "
                "operators"
            )
        try:
            check_node(node, self.file.opset)
            self._taken(node, live, wanted)
        except GraphError as error:
            raise GraphError(f"{where}: {error}") from None

    def _taken(self, node: NodeProto, live: set[str], wanted: set[str]) -> None:
        inputs = [self._found(name) for name in node.input]
        for name in node.output:
            if name and (name in self.values or name in self.constants or name in self.alias or name in self.held):
                raise GraphError(f"it makes {shown(name)}, which is there already")
        constant = all(name not in self.values for name in inputs if name)
        [*outputs] = node.output
        if node.op_type == "Identity" and outputs[0] not in wanted:
            self.alias[outputs[0]] = inputs[0]
        elif node.op_type in ("Shape", "Size") and inputs[0] in self.values:
            self.constants[outputs[0]] = _size(node, self.values[inputs[0]].shape)
        elif node.op_type == "Dropout" and len(inputs) > 2 and inputs[2] and _trains(inputs[2], self):
            raise GraphError("it draws random numbers; a stage couldn't repeat them")
        elif constant and node.op_type == "DequantizeLinear":
            self.quantised[outputs[0]] = _copy(node, inputs, outputs), self._inferred(node, inputs)[0]
        elif constant:
            self._fold(node, inputs)
        else:
            self._add(node, inputs, live)

    def _found(self, name: str) -> str:
        """The name behind aliases. Raises GraphError for one that nothing has made."""
        while name in self.alias:
            name = self.alias[name]
        if name and not (name in self.values or name in self.constants or name in self.quantised or name in self.held):
            raise GraphError(f"it reads {shown(name)!r}, which nothing before it makes: the file may be cut off")
        return name

    # What depends on no picture.

    def _constant(self, name: str) -> Array:
        """As numpy has it: truth values as such."""
        if name in self.quantised:
            node, value = self.quantised[name]
            self.constants[name] = self._computed(node, list(node.input), [value])[0]
        elif name not in self.constants:
            self.constants[name] = self._tensor(self.held[name])
        return self.constants[name]

    def _tensor(self, tensor: TensorProto) -> Array:
        array = self.file.array(tensor)
        return array.view(np.bool_) if tensor.data_type == TensorProto.BOOL else array

    def _fold(self, node: NodeProto, inputs: list[str]) -> None:
        own = [one.t for one in node.attribute if one.HasField("t")]
        if node.op_type == "Constant" and own:
            self.constants[node.output[0]] = self._tensor(own[0])
            return
        if any(one.data_location == TensorProto.EXTERNAL or len(one.dims) > 1 or sum(one.dims) > 1 for one in own):
            raise GraphError("its attribute is a tensor that it can't have")
        guessed = self._inferred(node, inputs, must=node.op_type in GROWING)
        for name, array in zip(node.output, self._computed(node, inputs, guessed), strict=True):
            if name:
                self.constants[name] = array

    def _computed(self, node: NodeProto, inputs: list[str], made: list[Value]) -> list[Array]:
        self.folded += sum(value.nbytes for value in made)
        shapes, kwargs = [self._shape(name) for name in inputs], {one.name: None for one in node.attribute}
        work = max((node_flops(node.op_type, shapes, value.shape, kwargs) for value in made), default=0)
        if self.folded > MOST_FOLDED or work > MOST_WORK:
            raise GraphError("it makes more out of constants than could be kept, or in longer than anybody waits")
        arrays = [self._constant(name) if name else None for name in inputs]
        names = [f"in{i}" if array is not None else "" for i, array in enumerate(arrays)]
        outputs = [f"out{i}" if name else "" for i, name in enumerate(node.output)]
        one = _copy(node, names, outputs)
        given = [
            helper.make_tensor_value_info(name, ELEMENTS[array.dtype.name], array.shape)
            for name, array in zip(names, arrays, strict=True)
            if array is not None
        ]
        ends = [onnx.ValueInfoProto(name=name) for name in outputs if name]
        sets = [helper.make_opsetid("", self.file.opset)]
        model = helper.make_model(helper.make_graph([one], "constant", given, ends), opset_imports=sets)
        try:
            found = ReferenceEvaluator(model).run(
                None, {name: array for name, array in zip(names, arrays, strict=True) if array is not None}
            )
        except Exception as error:  # numpy's and the library's many kinds, for a node that can't be computed
            raise GraphError(f"it can't be computed: {' '.join(str(error).split())[:200]}") from None
        rest = iter(found)
        return [np.asarray(next(rest)) if name else np.zeros(0) for name in outputs]

    def _weight(self, name: str) -> Weight:
        """A constant becomes a weight where a node reads it."""
        if name not in self.names or self.names[name] not in self.weights:
            array = self._constant(name)
            if array.dtype.name not in ITEM_BYTES:
                raise GraphError(f"{shown(name)} is {array.dtype}, which stages can't have")
            own = self.names.setdefault(name, self._free(name))
            self.weights[own] = Value(own, array.shape, array.dtype.name)
            self.arrays[own] = as_kept(np.ascontiguousarray(array).reshape(array.shape), self.weights[own])
        return Weight(self.names[name])

    # What is computed for every picture.

    def _add(self, node: NodeProto, inputs: list[str], live: set[str]) -> None:
        made = self._inferred(node, inputs)
        outputs: list[Value | None] = []
        for name, value in zip(node.output, made, strict=True):
            if value.nbytes > MOST_VALUE:
                raise GraphError(f"it makes {value.dtype} {list(value.shape)}, more than a stage can hold")
            if not name or name not in live:
                outputs.append(None)
                continue
            self.values[name] = value
            self.names[name] = self._free(name)
            outputs.append(Value(self.names[name], value.shape, value.dtype))
        args = tuple(self._argument(name) for name in inputs)
        kwargs = tuple((one.name, _attribute(one)) for one in node.attribute)
        shapes = [self._shape(name) for name in inputs]
        path = node.name.strip("/").rpartition("/")[0].replace("/", ".")
        if all(value is None for value in outputs):
            return
        self.nodes.append(
            Node(
                name=self._free(node.name.strip("/").replace("/", ".") or node.op_type, nodes=True),
                path=shown(path),
                op=f"onnx.{node.op_type}.{self.file.opset}",
                args=args,
                kwargs=kwargs,
                outputs=tuple(outputs),
                several=len(outputs) > 1,
                flops=node_flops(node.op_type, shapes, made[0].shape, dict(kwargs)),
            )
        )

    def _argument(self, name: str) -> Argument:
        if not name:
            return None
        if name in self.values:
            return Read(self.names[name])
        if name not in self.quantised:
            return self._weight(name)
        node, _ = self.quantised[name]
        reads = tuple(self._weight(one) if one else None for one in node.input)
        pairs = [part for one in node.attribute for part in (one.name, _attribute(one))]
        return (node.op_type, reads, tuple(pairs))

    def _shape(self, name: str) -> tuple[int, ...] | None:
        if not name:
            return None
        if name in self.values or name in self.quantised:
            return (self.values.get(name) or self.quantised[name][1]).shape
        return self._constant(name).shape

    def _output(self, name: str) -> str:
        """The graph's name of an output; a constant, which no node makes, is copied by one."""
        found = self._found(name)
        if not found:
            raise GraphError("an output of it has no name")
        if found not in self.values:
            copy, other = f"{name} output", f"{name} constant"
            self.constants[other] = self._constant(found)
            value = Value(copy, self.constants[other].shape, self.constants[other].dtype.name)
            self.values[copy], self.names[copy] = value, self._free(name)
            made = Value(self.names[copy], value.shape, value.dtype)
            op = f"onnx.Identity.{self.file.opset}"
            self.nodes.append(
                Node(self._free("Identity", nodes=True), "", op, (self._weight(other),), (), (made,), False, 0)
            )
            found = copy
        return self.names[found]

    # Types.

    def _inferred(self, node: NodeProto, inputs: list[str], must: bool = True) -> list[Value]:
        """What the node makes, by the onnx library's inference for it alone, in the order of its outputs.

        Nothing where its shape isn't known and needn't be. Raises GraphError.
        """
        if node.op_type in KEEPS and (shape := self._shape(inputs[0])) is not None:
            known = self.values.get(inputs[0])
            return [Value(node.output[0], shape, known.dtype if known else self._constant(inputs[0]).dtype.name)]
        infos, initializers, names = [], [], []
        for i, name in enumerate(inputs):
            names.append(f"in{i}" if name else "")
            if not name:
                continue
            if name in self.values or name in self.quantised:
                value = self.values.get(name) or self.quantised[name][1]
                infos.append(helper.make_tensor_value_info(names[-1], ELEMENTS[value.dtype], value.shape))
                continue
            array = self._constant(name)
            if array.dtype.name not in ELEMENTS:
                raise GraphError(f"{shown(name)} is {array.dtype}, which stages can't have")
            infos.append(helper.make_tensor_value_info(names[-1], ELEMENTS[array.dtype.name], array.shape))
            if array.size <= SMALL:
                initializers.append(numpy_helper.from_array(array, names[-1]))
        outputs = [f"out{i}" for i in range(len(node.output))]
        graph = helper.make_graph([_copy(node, names, outputs)], "node", infos, [], initializers)
        sets = [helper.make_opsetid("", self.file.opset)]
        model = helper.make_model(
            graph, opset_imports=sets, ir_version=helper.find_min_ir_version_for(sets, ignore_unknown=True)
        )
        try:
            found = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        except Exception as error:  # the library's own kinds
            text = re.split(r"\[\w+InferenceError\]", " ".join(str(error).split()))[-1].strip()
            raise GraphError(f"its inputs don't go together: {text[:160]}{self.hint}") from None
        types = {info.name: info.type for info in found.graph.value_info}
        made = []
        for name, own in zip(outputs, node.output, strict=True):
            found_value = _value(own, types.get(name)) if own else Value("", (), "bool")
            if found_value is None:
                if must:
                    raise GraphError(
                        "the shape of what it makes depends on what is in a picture; export the network up to there"
                    )
                return []
            made.append(found_value)
        return made

    def _free(self, name: str, *, nodes: bool = False) -> str:
        """A name that can be shown, with a number where it is taken. Nodes have names of their own."""
        taken = self.taken_nodes if nodes else self.taken
        found = free_name(shown(name) or "value", taken)
        taken.add(found)
        return found


def _needed(graph: onnx.GraphProto) -> tuple[list[NodeProto], set[str]]:
    """The nodes on which outputs depend, in order, and all names that somebody reads."""
    live = {output.name for output in graph.output}
    needed = []
    for node in reversed(graph.node):
        if live.intersection(node.output) - {""}:
            needed.append(node)
            live.update(name for name in node.input if name)
            for attribute in node.attribute:  # of control flow, which is refused by its name
                if attribute.HasField("g"):
                    live.update(name for inner in attribute.g.node for name in inner.input)
    return needed[::-1], live


def _trains(name: str, importer: _Importer) -> bool:
    """Whether a dropout is in training mode, or may be."""
    return name in importer.values or bool(importer._constant(name).any())


def _copy(node: NodeProto, inputs: list[str], outputs: list[str]) -> NodeProto:
    found = NodeProto(op_type=node.op_type, input=inputs, output=outputs)
    found.attribute.extend(node.attribute)
    return found


def _attribute(one: onnx.AttributeProto) -> Argument:
    if one.type not in KINDS or one.ref_attr_name:
        raise GraphError(f"its attribute {shown(one.name)} is of a kind that stages can't have")
    value: Any = helper.get_attribute_value(one)
    try:
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, int | float):
            return value
        return tuple(part.decode() if isinstance(part, bytes) else part for part in value)
    except UnicodeDecodeError:
        raise GraphError(f"its attribute {shown(one.name)} isn't text") from None


def _value(name: str, kind: TypeProto | None) -> Value | None:
    """None where the shape isn't known. Raises GraphError for what isn't a tensor that can be sent."""
    if kind is None or kind.WhichOneof("value") is None:
        return None
    if kind.WhichOneof("value") != "tensor_type":
        raise GraphError("it makes something else than a tensor")
    tensor = kind.tensor_type
    if tensor.elem_type not in DTYPES:
        names = TensorProto.DataType
        word = names.Name(tensor.elem_type) if tensor.elem_type in names.values() else "something unknown"
        raise GraphError(f"it makes {word.lower()}, which can't be sent")
    if not tensor.HasField("shape") or any(d.WhichOneof("value") != "dim_value" for d in tensor.shape.dim):
        return None
    shape = tuple(d.dim_value for d in tensor.shape.dim)
    if any(d < 0 for d in shape) or math.prod(shape) > MOST_VALUE:
        raise GraphError(f"it makes {list(shape)}, which no tensor can be")
    return Value(name, shape, DTYPES[tensor.elem_type])


def _size(node: NodeProto, shape: tuple[int, ...]) -> Array:
    found: Mapping[str, Any] = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    if node.op_type == "Size":
        return np.array(math.prod(shape), np.int64)
    return np.array(shape[slice(found.get("start", 0), found.get("end"))], np.int64)
