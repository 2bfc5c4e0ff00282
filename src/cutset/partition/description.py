"""A graph as plain JSON, so that it can be sent, kept and compared; and the digests of graphs.

A description names operators and weights and holds no code: whoever receives one runs nothing but what
`cutset.video.imports.operators` allows. It depends on the version of torch that exported it.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from cutset.errors import GraphError
from cutset.partition.graph import Graph
from cutset.partition.node import ALIGNMENT, ITEM_BYTES, Argument, Keyword, Node, Read, Value, Weight, strides_of

__all__ = ["FORMAT", "describe", "graph_digest", "read_description"]

FORMAT = "cutset-graph-1"
MOST_NODES = 100_000
MOST_TEXT = 1000  # letters of a name
MOST_DIMENSIONS = 16
MOST_BYTES = 1 << 40  # of one value
BOUNDED = "bounded"  # in the place of a layout
KINDS = ("dtype", "layout", "memory_format", "device")


def describe(graph: Graph) -> dict[str, Any]:
    """The graph as dictionaries, lists, numbers and strings; `read_description` gives an equal graph back."""
    return {
        "format": FORMAT,
        "inputs": [_put_value(value) for value in graph.inputs],
        "outputs": list(graph.outputs),
        "weights": [_put_value(value) for value in graph.weights.values()],
        "nodes": [_put_node(node) for node in graph.nodes],
    }


def graph_digest(graph: Graph) -> str:
    """SHA-256 of the description: equal for the same layers, shapes and names, whatever the weights' values are."""
    text = json.dumps(describe(graph), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_description(table: object) -> Graph:
    """The graph of a description, wherever it comes from. Raises GraphError for one that is damaged or too large."""
    try:
        if not isinstance(table, dict) or table.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        if len(table["nodes"]) > MOST_NODES or len(table["weights"]) > MOST_NODES:
            raise ValueError(f"it has more than {MOST_NODES:,} nodes or weights")
        weights = [_value(row) for row in _list(table["weights"])]
        return Graph(
            tuple(_value(row) for row in _list(table["inputs"])),
            tuple(_text(name) for name in _list(table["outputs"])),
            tuple(_node(row) for row in _list(table["nodes"])),
            {value.name: value for value in weights},
        )
    except KeyError as error:
        raise GraphError(f"this is not the description of a graph: {error} is missing") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise GraphError(f"this is not the description of a graph: {error}") from None


def _put_value(value: Value) -> list[Any]:
    layout: Any = BOUNDED if value.bounded else None
    if value.offset or value.strides is not None:
        layout = {"strides": list(value.strides or strides_of(value.shape)), "offset": value.offset}
        if value.order is not None and not value.offset:
            layout = list(value.order)
    return [value.name, value.dtype, list(value.shape), layout, *[True] * value.requires_grad]


def _put_node(node: Node) -> dict[str, Any]:
    return {
        "name": node.name,
        "path": node.path,
        "op": node.op,
        "args": [_put(argument) for argument in node.args],
        "kwargs": {key: _put(argument) for key, argument in node.kwargs},
        "outputs": [None if value is None else _put_value(value) for value in node.outputs],
        "several": node.several,
        "flops": node.flops,
    } | ({"state": node.state} if node.state else {})


def _put(argument: Argument) -> Any:
    if isinstance(argument, Read):
        return {"read": argument.name}
    if isinstance(argument, Weight):
        return {"weight": argument.name}
    if isinstance(argument, Keyword):
        return {argument.kind: argument.name}
    if isinstance(argument, tuple):
        return [_put(element) for element in argument]
    if isinstance(argument, float) and not math.isfinite(argument):
        return {"float": str(argument)}  # JSON has no infinity
    return argument


def _value(row: object) -> Value:
    name, dtype, shape, layout, *more = _list(row)
    if dtype not in ITEM_BYTES:
        raise ValueError(f"{str(dtype)[:40]!r} is not a dtype")
    if more and (more != [True] or more[0] is not True or "float" not in dtype):
        raise ValueError("a value says more than that it requires gradients")
    sizes = tuple(_whole(size) for size in _list(shape))
    if layout == BOUNDED:
        if dtype != "uint8" or len(sizes) != 1 or more:
            raise ValueError("only a row of bytes can be bounded")
        value = Value(_text(name), sizes, dtype, bounded=True)
    else:
        value = Value(_text(name), sizes, dtype, *_layout(layout, sizes), requires_grad=bool(more))
    if len(sizes) > MOST_DIMENSIONS or value.memory > MOST_BYTES:
        raise ValueError(f"{value.name} is too large")
    if value.offset * ITEM_BYTES[dtype] >= ALIGNMENT:
        raise ValueError(f"{value.name} has no valid offset")
    return value


def _layout(layout: object, shape: tuple[int, ...]) -> tuple[tuple[int, ...] | None, int]:
    """Strides and offset: of None, of the order of a dense tensor's dimensions, or as they are."""
    if layout is None:
        return None, 0
    if isinstance(layout, dict):
        strides, offset = tuple(_whole(stride) for stride in _list(layout["strides"])), _whole(layout["offset"])
        if len(strides) != len(shape):
            raise ValueError("a tensor has as many strides as dimensions")
        return None if strides == strides_of(shape) else strides, offset
    order = tuple(_whole(d) for d in _list(layout))
    if sorted(order) != list(range(len(shape))):
        raise ValueError("a tensor has no valid order of dimensions")
    strides = strides_of(shape, order)
    return None if strides == strides_of(shape) else strides, 0


def _node(row: Any) -> Node:
    several, outputs = row["several"], _list(row["outputs"])
    if not isinstance(several, bool) or not (several or len(outputs) == 1):
        raise ValueError("a node has no valid number of outputs")
    return Node(
        name=_text(row["name"]),
        path=_text(row["path"]),
        op=_text(row["op"]),
        args=tuple(_argument(argument) for argument in _list(row["args"])),
        kwargs=tuple((_text(key), _argument(argument)) for key, argument in row["kwargs"].items()),
        outputs=tuple(None if value is None else _value(value) for value in outputs),
        several=several,
        flops=_whole(row["flops"]),
        state=_whole(row.get("state", 0)),
    )


def _argument(value: Any, depth: int = 0) -> Argument:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise ValueError("a number has more than 64 bits")
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list) and depth < 4:
        return tuple(_argument(element, depth + 1) for element in value)
    if isinstance(value, dict) and len(value) == 1:
        [(kind, name)] = value.items()
        if kind == "read":
            return Read(_text(name))
        if kind == "weight":
            return Weight(_text(name))
        if kind == "float" and name in ("inf", "-inf", "nan"):
            return float(name)
        if kind in KINDS:
            return Keyword(kind, _text(name))
    raise ValueError("an argument is of no known kind")


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"a list is expected where {type(value).__name__} stands")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MOST_TEXT:
        raise ValueError("a name is not a string, or too long")
    return value


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError("a size is not a whole number")
    return value
