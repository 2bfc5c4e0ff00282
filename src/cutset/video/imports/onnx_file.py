"""ONNX files as they come from anybody: read within bounds, with external data from beside the file alone."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cutset.cluster.stage import WeightFile
from cutset.cluster.values import Array, as_kept
from cutset.errors import GraphError, printable
from cutset.models.files.lfs import check_no_pointer_at
from cutset.partition.node import Value

try:
    import onnx
    import onnx.inliner
    from google.protobuf.message import DecodeError
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper
except ImportError:
    raise GraphError("ONNX files need a few packages more: pip install 'cutset[onnx]'") from None

from cutset.video.runtimes.submodel import ELEMENTS, MOST_MODEL, NEWEST, OLDEST

__all__ = ["OnnxFile", "open_initializers", "read_onnx", "shown"]

LARGEST = 16384  # rows or columns of a picture
DTYPES = {number: name for name, number in ELEMENTS.items()}
MOST_EXTERNAL = 1 << 34  # bytes of weights that lie beside a file
MOST_NODES = 20_000
MOST_METADATA = 100
DEEPEST = 100  # functions that call each other


def shown(name: str) -> str:
    """A name out of a file, for a message or a table."""
    return printable(name, lines=False)[:100]


@dataclass(frozen=True)
class OnnxFile:
    """A network for pictures: one input of (1, 3, height, width), or (1, height, width, 3)."""

    path: Path
    model: ModelProto
    opset: int
    picture: ValueInfoProto  # the input
    last: bool  # whether channels are its last dimension
    sides: tuple[int | None, int | None]  # rows and columns; None: any

    @property
    def size(self) -> tuple[int, int] | None:
        """Rows and columns of its pictures; None where it takes any."""
        height, width = self.sides
        return None if height is None or width is None else (height, width)

    @property
    def dtype(self) -> str:
        """Of its input."""
        return DTYPES[self.picture.type.tensor_type.elem_type]

    @property
    def files(self) -> list[Path]:
        """The file, and those beside it that have elements of its tensors."""
        folder, found = self.path.parent.resolve(), {self.path}
        inner = (one.t for node in self.model.graph.node for one in node.attribute if one.HasField("t"))
        for tensor in (*self.model.graph.initializer, *inner):
            for entry in tensor.external_data:
                with contextlib.suppress(
                    ValueError, OSError, RuntimeError
                ):  # whoever opens that tensor says what it is
                    place = (folder / entry.value).resolve()
                    if entry.key == "location" and place.is_relative_to(folder) and place.is_file():
                        found.add(place)
        return sorted(found)

    @property
    def metadata(self) -> dict[str, str]:
        """What its exporter wrote beside the network; the first entries."""
        found = {one.key: one.value for one in self.model.metadata_props[:MOST_METADATA]}
        return {key: value for key, value in found.items() if isinstance(key, str) and isinstance(value, str)}

    def fitting(self, size: tuple[int, int]) -> tuple[int, ...]:
        """The shape of its input for pictures of this size. Raises GraphError for another than it takes."""
        for side, given in zip(self.sides, size, strict=True):
            if side is not None and side != given:
                height, width = ("any" if one is None else one for one in self.sides)
                raise GraphError(
                    f"{self.path} takes pictures of {height}x{width}, not of {size[0]}x{size[1]}: say --size as it does"
                )
        return (1, *size, 3) if self.last else (1, 3, *size)

    def array(self, tensor: TensorProto) -> Array:
        """The elements of one of its tensors, as parties keep them. Raises GraphError."""
        return tensor_array(self.path, tensor)


def read_onnx(path: Path) -> OnnxFile:
    """Reads a file; no code in it is run. Raises GraphError for what is no network for pictures, or isn't all there."""
    model = _parsed(path)
    opsets = [one.version for one in model.opset_import if one.domain in ("", "ai.onnx")]
    if len(opsets) != 1 or not OLDEST <= opsets[0] <= NEWEST:
        raise GraphError(
            f"{path} has operator set {', '.join(map(str, opsets)) or 'none'}; {OLDEST} to {NEWEST} can be run"
        )
    for part in (model.graph, *model.functions):
        if not all(isinstance(text, str) for text in _texts(part)):
            raise GraphError(f"{path} has a name that is no text: it may be damaged")
    if model.functions:
        if _written_out(model) > MOST_NODES:
            raise GraphError(f"{path}: its functions come to more than {MOST_NODES:,} nodes, the most that can be cut")
        try:
            model = onnx.inliner.inline_local_functions(model)
        except Exception as error:  # the library's own kinds
            raise GraphError(f"{path}: its functions can't be read: {_line(error)}") from None
    if len(model.graph.node) > MOST_NODES:
        raise GraphError(f"{path} has {len(model.graph.node):,} nodes; at most {MOST_NODES:,} can be cut")
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(shown(one.name) for one in inputs[:5]) or "none"
        raise GraphError(f"{path} takes {len(inputs)} inputs ({names}); a stream gives it one, the picture")
    return OnnxFile(path, model, opsets[0], inputs[0], *_sides(path, inputs[0]))


def _parsed(path: Path) -> ModelProto:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise GraphError(f"{path} is not a file")
        if size > MOST_MODEL:
            raise GraphError(f"{path} has {size:,} bytes; an ONNX file has at most 2 GiB, and its weights beside it")
        check_no_pointer_at(path, GraphError)
        with path.open("rb") as file:
            data = file.read(MOST_MODEL + 1)
    except (OSError, ValueError) as error:
        raise GraphError(f"can't read {path}: {getattr(error, 'strerror', None) or error}") from None
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, ValueError):
        raise GraphError(f"{path} is not an ONNX file, or it is cut off or damaged") from None
    if not model.graph.node or not model.graph.output:
        raise GraphError(f"{path} is not an ONNX file with a network in it, or it is cut off")
    return model


def _texts(message: Any) -> Iterator[str | bytes]:
    """Names in a part of a file, and in what it is made of; as bytes where they aren't UTF-8."""
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            continue
        if field.type == field.TYPE_STRING:
            yield from (value,) if isinstance(value, str | bytes) else value
        elif field.type == field.TYPE_MESSAGE:
            for part in (value,) if hasattr(value, "ListFields") else value:
                yield from _texts(part)


def _written_out(model: ModelProto) -> int:
    """How many nodes there are once calls of functions are what they stand for. A few functions that call each other
    twice come to more than any memory holds. What calls itself counts as too many."""
    functions = {(one.domain, one.name): one for one in model.functions}
    counts: dict[tuple[str, str], int] = {}

    def count(nodes: Iterable[NodeProto], depth: int) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in functions and key not in counts:
                counts[key] = MOST_NODES + 1 if depth > DEEPEST else count(functions[key].node, depth + 1)
            total += counts.get(key, 1)
            total += sum(count(one.g.node, depth + 1) for one in node.attribute if one.HasField("g"))
            if total > MOST_NODES:
                break
        return total

    return count(model.graph.node, 0)


def _sides(path: Path, picture: ValueInfoProto) -> tuple[bool, tuple[int | None, int | None]]:
    kind, name = picture.type.tensor_type, shown(picture.name)
    if picture.type.WhichOneof("value") != "tensor_type" or kind.elem_type not in DTYPES:
        raise GraphError(f"{path}: its input {name} is no tensor of numbers that pictures could be")
    dims = [d.dim_value if d.WhichOneof("value") == "dim_value" and d.dim_value > 0 else None for d in kind.shape.dim]
    words = "x".join("?" if d is None else str(d) for d in dims)
    last = len(dims) == 4 and dims[1] != 3 and dims[3] == 3
    channels, sides = (dims[3], dims[1:3]) if last else (dims[1], dims[2:4]) if len(dims) == 4 else (0, [])
    if channels not in (3, None) or dims[0] not in (1, None):
        raise GraphError(
            f"{path}: its input {name} is {words or 'a number'}; a stream gives it one picture of three channels, "
            "1x3xHxW or 1xHxWx3"
        )
    if any(side is not None and side > LARGEST for side in sides):
        raise GraphError(f"{path}: its input {name} is {words}; pictures have at most {LARGEST:,} rows and columns")
    return last, (sides[0], sides[1])


def tensor_array(path: Path, tensor: TensorProto) -> Array:
    """The elements of a tensor of a file. Raises GraphError for what isn't all there, before anything is allocated."""
    name = shown(tensor.name)
    if tensor.data_type not in DTYPES:
        kind = TensorProto.DataType.Name(tensor.data_type) if tensor.data_type in TensorProto.DataType.values() else "?"
        raise GraphError(f"{path}: the tensor {name} has the type {kind}, which stages can't have")
    dtype = np.dtype(DTYPES[tensor.data_type])
    if any(d < 0 for d in tensor.dims) or len(tensor.dims) > 16:
        raise GraphError(f"{path}: the tensor {name} has dimensions that can't be")
    shape = tuple(tensor.dims)
    nbytes = math.prod(shape) * dtype.itemsize
    value = Value(tensor.name, shape, dtype.name)
    if tensor.data_location == TensorProto.EXTERNAL:
        return as_kept(_external(path, tensor, nbytes).view(dtype).reshape(shape), value)
    if tensor.HasField("raw_data") or not nbytes:
        if len(tensor.raw_data) != nbytes:
            raise GraphError(f"{path}: the tensor {name} has {len(tensor.raw_data):,} bytes where {nbytes:,} belong")
        array = np.frombuffer(tensor.raw_data, dtype.newbyteorder("<")).astype(dtype).reshape(shape)
    else:
        held = max(len(tensor.float_data), len(tensor.int32_data), len(tensor.int64_data), len(tensor.double_data))
        if held != math.prod(shape):
            raise GraphError(f"{path}: the tensor {name} has {held:,} elements where {math.prod(shape):,} belong")
        try:
            array = np.ascontiguousarray(numpy_helper.to_array(tensor), dtype).reshape(shape)
        except (TypeError, ValueError, OverflowError) as error:
            raise GraphError(f"{path}: the tensor {name} can't be read: {_line(error)}") from None
    return as_kept(array, value)


def _external(path: Path, tensor: TensorProto, nbytes: int) -> Array:
    """The bytes of a tensor whose data lies in another file: one beside this one, by a plain name."""
    name, entries = shown(tensor.name), {entry.key: entry.value for entry in tensor.external_data}
    location, folder = entries.get("location", ""), path.parent.resolve()
    try:
        offset, length = int(entries.get("offset", "0")), int(entries.get("length", str(nbytes)))
        place = (folder / location).resolve()
        if not location or "\0" in location or os.path.isabs(location) or not place.is_relative_to(folder):
            raise GraphError(f"{path}: the data of {name} lies in {shown(location)!r}, which isn't beside it")
        if not place.is_file():
            raise GraphError(f"{path}: the data of {name} lies in {shown(location)!r}, which isn't there")
        if length != nbytes or nbytes > MOST_EXTERNAL or not 0 <= offset <= place.stat().st_size - length:
            raise GraphError(
                f"{path}: the data of {name} isn't in {shown(location)!r}, which is cut off, or another file"
            )
        with place.open("rb") as file:
            file.seek(offset)
            data = np.empty(nbytes, np.uint8)
            if file.readinto(data.data) != nbytes:
                raise GraphError(f"{path}: {shown(location)!r} is cut off")
    except (ValueError, OSError, RuntimeError) as error:  # a link to itself is a RuntimeError
        raise GraphError(
            f"{path}: the data of {name} can't be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    return data


def open_initializers(path: Path) -> WeightFile:
    """The weights of a file by name, for a worker that has it. Raises GraphError."""
    tensors: Mapping[str, TensorProto] = {tensor.name: tensor for tensor in read_onnx(path).model.graph.initializer}

    def find(name: str, value: Value) -> Array | None:
        tensor = tensors.get(name)
        if tensor is None or tuple(tensor.dims) != value.shape or DTYPES.get(tensor.data_type) != value.dtype:
            return None
        return tensor_array(path, tensor)

    return find


def _line(error: BaseException) -> str:
    return printable(" ".join(str(error).split()), lines=False)[:200]
