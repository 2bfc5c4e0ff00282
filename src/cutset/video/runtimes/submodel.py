"""Nodes of an ONNX graph as a model of their own, for a runtime that computes such models.

The nodes may come from elsewhere, so each operator is looked up in the onnx library: one of the standard's own that
takes and gives tensors. What a model reads beside its inputs are the weights that it carries.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper
from onnx.defs import OpSchema

from cutset.cluster.values import Array, as_bytes
from cutset.errors import GraphError
from cutset.partition.graph import Graph
from cutset.partition.node import Argument, Node, Read, Value, Weight, free_name

__all__ = ["ELEMENTS", "KINDS", "MOST_MODEL", "NEWEST", "OLDEST", "check_node", "operator", "submodel"]

OLDEST, NEWEST = 7, int(onnx.defs.onnx_opset_version())  # operator sets
MOST_MODEL = (1 << 31) - (1 << 20)  # bytes of a model: what protobuf can carry
# dtypes of values, and what ONNX calls them.
ELEMENTS: dict[str, int] = {
    "bool": TensorProto.BOOL,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
}
# Kinds of attributes that a node of a graph can have.
KINDS: dict[int, type] = {
    AttributeProto.INT: int,
    AttributeProto.FLOAT: float,
    AttributeProto.STRING: str,
    AttributeProto.INTS: tuple,
    AttributeProto.FLOATS: tuple,
    AttributeProto.STRINGS: tuple,
}
RANDOM = re.compile("Random|Multinomial|Bernoulli")


@cache
def operator(name: str, opset: int) -> OpSchema:
    """The standard's operator of this name in an operator set. Raises GraphError for one that a stage can't run."""
    if not OLDEST <= opset <= NEWEST:
        raise GraphError(f"operator set {opset} is unknown here; from {OLDEST} to {NEWEST} are known")
    try:
        schema = onnx.defs.get_schema(name, opset, "")
    except Exception:  # the library's own kind of error
        raise GraphError(f"operator {name[:80]} is none of ONNX's operator set {opset}") from None
    if any(_kind(one) in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for one in schema.attributes.values()):
        raise GraphError(f"operator {name} is control flow, which can't be cut: export the network without it")
    for side in (schema.inputs, schema.outputs):
        if any(all(kind.startswith(("seq(", "optional(", "map(")) for kind in one.types) for one in side):
            raise GraphError(f"operator {name} takes or makes sequences or optional values; stages take tensors alone")
    if RANDOM.match(name):
        raise GraphError(f"operator {name} draws random numbers; a stage couldn't repeat them")
    return schema


def check_node(node: NodeProto, opset: int) -> None:
    """Raises GraphError for a node that isn't one of the standard's: an operator that a stage can't run, with inputs
    that are missing or too many, or attributes of another kind than it has."""
    schema, kind = operator(node.op_type, opset), node.op_type
    if not schema.min_input <= len(node.input) <= schema.max_input or len(node.output) > schema.max_output:
        raise GraphError(f"{len(node.input)} inputs and {len(node.output)} outputs, which operator {kind} can't have")
    for i, name in enumerate(node.input):
        formal = schema.inputs[min(i, len(schema.inputs) - 1)]
        if not name and formal.option != OpSchema.FormalParameterOption.Optional:
            raise GraphError(f"its input {formal.name} is left out, which operator {kind} needs")
    for one in node.attribute:
        if one.name in schema.attributes and one.type != _kind(schema.attributes[one.name]):
            raise GraphError(f"the attribute {one.name} of operator {kind} has another kind of value")


def _kind(attribute: OpSchema.Attribute) -> int:
    """One of AttributeProto's kinds."""
    kind: Any = attribute.type
    return int(kind.value)


def submodel(graph: Graph, nodes: Collection[int], weights: Mapping[str, Array]) -> bytes:
    """These nodes as a model with the boundary's inputs and outputs, serialised.

    Raises GraphError where they can't be a stage, a weight is missing, or the model would be too large.
    """
    takes, gives = graph.boundary(nodes)
    chosen = [graph.nodes[i] for i in sorted(nodes)]
    opset = _opset(chosen)
    made: list[NodeProto] = []
    taken = {*graph.values, *graph.weights}
    for node in chosen:
        _add(node, opset, made, taken)
    needed = graph.weights_of(nodes)
    if sum(graph.weights[name].nbytes for name in needed) > MOST_MODEL:
        raise GraphError("the weights of this stage are more than 2 GiB, which no ONNX model can carry: cut it further")
    body = helper.make_graph(
        made,
        "stage",
        [_described(graph.values[name]) for name in takes],
        [_described(graph.values[name]) for name in gives],
        [_initializer(graph.weights[name], weights) for name in needed],
    )
    sets = [helper.make_opsetid("", opset)]
    found: bytes = helper.make_model(
        body, opset_imports=sets, ir_version=helper.find_min_ir_version_for(sets, ignore_unknown=True)
    ).SerializeToString()
    return found


def _opset(nodes: Collection[Node]) -> int:
    found = {node.op.rpartition(".")[2] for node in nodes}
    if len(found) != 1 or not all(re.fullmatch(r"onnx\.[A-Za-z]\w*\.[0-9]{1,2}", node.op, re.ASCII) for node in nodes):
        raise GraphError("these nodes aren't operators of one ONNX operator set")
    return int(found.pop())


def _add(node: Node, opset: int, made: list[NodeProto], taken: set[str]) -> None:
    """The node, after what it computes out of weights alone. `taken`: names of values, some of which end in `:0`."""

    def own(name: str) -> str:
        found = free_name(name, taken)
        taken.add(found)
        return found

    outputs = [
        value.name if value is not None else own(f"{node.name}:unread{i}") for i, value in enumerate(node.outputs)
    ]
    try:
        inputs = [_input(argument, opset, own(f"{node.name}:{i}"), made) for i, argument in enumerate(node.args)]
        made.append(_node(node.op.split(".")[1], opset, inputs, outputs, dict(node.kwargs)))
    except GraphError as error:
        raise GraphError(f"{node.name}: {error}") from None


def _input(argument: Argument, opset: int, name: str, made: list[NodeProto]) -> str:
    if isinstance(argument, Read | Weight):
        return argument.name
    if argument is None:
        return ""
    if isinstance(argument, tuple) and len(argument) == 3:  # an operator, its inputs and its attributes
        kind, inputs, attributes = argument
        if isinstance(kind, str) and isinstance(inputs, tuple) and isinstance(attributes, tuple):
            names = [one.name if isinstance(one, Weight) else "" for one in inputs]
            pairs = dict(zip(attributes[::2], attributes[1::2], strict=True))
            made.append(_node(kind, opset, names, [name], {str(key): value for key, value in pairs.items()}))
            return name
    raise GraphError("an input is neither a value nor a weight")


def _node(
    kind: str, opset: int, inputs: list[str], outputs: list[str], attributes: Mapping[str, Argument]
) -> NodeProto:
    schema = operator(kind, opset)
    found = helper.make_node(kind, inputs, outputs)
    for key, value in attributes.items():
        if key not in schema.attributes:
            raise GraphError(f"operator {kind} has no attribute {key[:40]!r}")
        wanted = _kind(schema.attributes[key])
        if KINDS.get(wanted) is not type(value):
            raise GraphError(f"the attribute {key} of operator {kind} has another kind of value")
        plain: Any = list(value) if isinstance(value, tuple) else value
        try:
            found.attribute.append(helper.make_attribute(key, plain, attr_type=wanted))
        except (TypeError, ValueError, OverflowError) as error:
            raise GraphError(f"the attribute {key} of operator {kind}: {str(error)[:100]}") from None
    return found


def _described(value: Value) -> Any:
    return helper.make_tensor_value_info(value.name, _element(value), value.shape)


def _initializer(value: Value, weights: Mapping[str, Array]) -> TensorProto:
    if value.name not in weights:
        raise GraphError(f"the weight {value.name} is missing; this stage needs it")
    array = weights[value.name]
    if not isinstance(array, np.ndarray) or array.shape != value.shape or array.nbytes != value.nbytes:
        raise GraphError(f"the weight {value.name} isn't the {value.dtype} {value.shape} that the graph has there")
    tensor = TensorProto(name=value.name, data_type=_element(value), dims=value.shape)
    tensor.raw_data = as_bytes(array).tobytes()
    return tensor


def _element(value: Value) -> int:
    if value.dtype not in ELEMENTS:
        raise GraphError(f"{value.name} is {value.dtype}, which no stage of an ONNX graph can have")
    return int(ELEMENTS[value.dtype])
