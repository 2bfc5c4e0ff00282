"""A torch module becomes a graph and its tensors, through torch.export.

What torch.export gives is made functional first (an in-place ReLU becomes an ordinary one, also through views), and
what does nothing in inference (dropout, assertions, copies) is left out.
"""

from __future__ import annotations

import io
import logging
import operator
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.nn.parameter import is_lazy

from cutset.errors import GraphError
from cutset.partition.graph import Graph
from cutset.partition.node import ITEM_BYTES, Argument, Keyword, Node, Read, Value, Weight, free_name
from cutset.video.imports.constants import Constants
from cutset.video.imports.explain import explain, line_of
from cutset.video.imports.flops import flops
from cutset.video.imports.fused import fused_attention
from cutset.video.imports.naming import node_names, place
from cutset.video.imports.operators import keyword, operator_of
from cutset.video.imports.state import Attributes
from cutset.video.imports.trial import NO_STATE, Trial
from cutset.video.torch_stage import layout_of

__all__ = ["Exported", "export", "inference"]

# Operators that give back what they take, where they have no further arguments.
# What torch says at length before it raises: an error of ours has that in a line.
LOGGERS = ("export._trace", "fx.experimental.symbolic_shapes", "_subclasses.fake_tensor")
NOTHING = ("aten.alias.default", "aten.clone.default", "aten.detach.default", "aten.lift_fresh_copy.default")
ASSIGNED = re.compile(r"tensor attributes? (self\..+?) (?:was|were) assigned during export")
CHANGED = {OutputKind.BUFFER_MUTATION: "buffer", OutputKind.PARAMETER_MUTATION: "parameter"}
WEIGHTS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


class Exported(NamedTuple):
    """A graph, and its weights by name: parameters, buffers and constants, not copied."""

    graph: Graph
    tensors: dict[str, Tensor]


def export(module: nn.Module, *inputs: Tensor) -> Exported:
    """The graph of a module in inference mode, for inputs of these shapes and dtypes.

    The module is called a few times, with these inputs (with random ones in place of zeros) and with others, to see
    how values lie in memory and that it keeps nothing from one call to the next; with a module on the meta device
    nothing is computed or allocated. The module stays as it was, but for tables that its first call makes. Raises
    GraphError, with the operator, the line or the attribute, for what can't be exported or cut: branches that depend on
    data, state that a call changes, randomness, operators of other libraries than torch.
    """
    name = type(module).__name__
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise GraphError(f"{name} can't be exported: it is TorchScript; give the module that it was made from")
    if any(is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
        raise GraphError(f"{name} can't be exported: it has layers without sizes; call it once, with a picture")
    with inference(module), torch.no_grad():
        before = Attributes(module)
        try:
            trial = Trial(module, inputs, before) if Trial.possible(module, inputs) else None
            if trial is not None:
                trial.begin()
            begun = Attributes(module) if trial is not None else before
            program, assigned = _program(module, inputs)
            if assigned and trial is None:  # else the trial sees whether a real call does that
                raise GraphError(f"a call changes its attribute {', '.join(assigned)}, {NO_STATE}")
            begun.restore()  # what it keeps for the same call would be the exporter's
            reader = _Reader(program)
            graph, tensors = reader.read()
            if trial is not None:
                graph = trial.settle(graph, tensors, *reader.otherwise(tensors))
            return Exported(graph, tensors)
        except _CannotExport:
            before.restore()
            raise
        except GraphError as error:
            before.restore()
            raise GraphError(f"{name} can't be cut: {error}") from error.__cause__


class _CannotExport(GraphError):
    """What torch.export refuses."""


def _program(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Any, list[str]]:
    """What torch.export gives, and the attributes that a call set to tensors."""
    with _quiet() as warned:
        try:
            with fused_attention():
                program: Any = torch.export.export(module, inputs).run_decompositions({})
        except Exception as error:  # torch raises many kinds; a module that can't be exported is the user's to mend
            raise _CannotExport(explain(type(module).__name__, error)) from error
    found = [ASSIGNED.search(str(one.message)) for one in warned]
    names = [name.removeprefix("self.") for match in found if match for name in match[1].split(", ")]
    return program, [name for name in names if "._flat_weights[" not in f".{name}"]  # those of torch's recurrent layers


@contextmanager
def inference(module: nn.Module) -> Iterator[None]:
    """The module in inference mode and without `torch.compile`, whose kernels round otherwise; and then as it was."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def _quiet() -> Iterator[list[warnings.WarningMessage]]:
    """Holds back what torch prints before it raises, and the warnings of its parts about each other: they are given."""
    loggers = [logging.getLogger(f"torch.{name}") for name in LOGGERS]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        with warnings.catch_warnings(record=True) as warned, redirect_stderr(io.StringIO()):
            warnings.simplefilter("always")
            yield warned
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


class _Reader:
    """Goes through an exported program once, in order. `known` says what each of its nodes is in an argument."""

    def __init__(self, program: Any) -> None:
        self.program = program
        self.known: dict[Any, Argument] = {}
        self.inputs: list[Value] = []
        self.weights: dict[str, Value] = {}
        self.tensors: dict[str, Tensor] = {}
        self.constants = Constants()
        self.folded: dict[str, Any] = {}  # names of weights that are constants, and their nodes
        self.names: dict[Any, str] = {}

    def read(self) -> Exported:
        self._placeholders()
        results = self._results()
        needed = _needed(results)
        called = [n for n in self.program.graph.nodes if n in needed and n.op != "placeholder"]
        self.names = node_names([n for n in called if not _is_item(n)], {value.name for value in self.inputs})
        nodes = []
        for node in called:
            if self.constants.take(node):
                continue
            if _is_item(node):
                made = self.known[node.args[0]]
                self.known[node] = made[node.args[1]] if isinstance(made, tuple) else made
            elif self._does_nothing(node):
                self.known[node] = self._argument(node, node.args[0])
            else:
                nodes.append(self._node(node, self.names[node], needed))
        outputs = self._outputs([self._argument(node, node) for node in results], nodes)
        graph = Graph(tuple(self.inputs), outputs, tuple(nodes), self.weights)
        used = graph.weights_of(range(len(nodes)))
        self.weights = {name: self.weights[name] for name in used}
        graph = Graph(graph.inputs, graph.outputs, graph.nodes, self.weights)
        return Exported(graph, {name: self.tensors[name] for name in used})

    def otherwise(self, used: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
        """Other tensors for the weights that torch.empty left undefined, and where it was called."""
        others = {name: self.constants.otherwise(node) for name, node in self.folded.items() if name in used}
        found = {name: other for name, other in others.items() if other is not self.tensors[name]}
        return found, next((line for node in self.constants.undefined if (line := line_of(node))), "")

    def _outputs(self, found: list[Argument], nodes: list[Node]) -> tuple[str, ...]:
        """The names of what the module returns. A weight, and an input if there is nothing to do, needs a copy."""
        values = {v.name: v for v in (*self.inputs, *(v for node in nodes for v in node.made))}
        computes = bool(nodes)
        copied: dict[Argument, str] = {}
        names = []
        for output in found:
            if not isinstance(output, Read | Weight):
                raise GraphError(f"it returns {output!r} where a tensor is expected")
            if isinstance(output, Weight) or not computes:
                if output not in copied:
                    before = (values if isinstance(output, Read) else self.weights)[output.name]
                    value = Value(free_name(f"{output.name}.clone", values), before.shape, before.dtype)
                    nodes.append(Node(value.name, "", "aten.clone.default", (output,), (), (value,), False, 0))
                    values[value.name], copied[output] = value, value.name
                names.append(copied[output])
            else:
                names.append(output.name)
        return tuple(names)

    def _placeholders(self) -> None:
        found = [node for node in self.program.graph.nodes if node.op == "placeholder"]
        for node, spec in zip(found, self.program.graph_signature.input_specs, strict=True):
            if spec.kind == InputKind.USER_INPUT:
                self.inputs.append(_value(node, node.name, node.meta["val"]))
                self.known[node] = Read(node.name)
            elif spec.kind in WEIGHTS:
                table = self.program.state_dict if spec.target in self.program.state_dict else self.program.constants
                self.tensors[spec.target] = table[spec.target].detach()
                value = _value(node, spec.target, self.tensors[spec.target])
                self.weights[spec.target] = replace(value, requires_grad=table[spec.target].requires_grad)
                self.known[node] = Weight(spec.target)
            else:
                if isinstance(self.program.constants.get(spec.target), torch.Generator):
                    raise GraphError("it draws random numbers; a stage couldn't repeat them")
                raise GraphError(f"it takes {node.name}, which is no tensor")

    def _results(self) -> list[Any]:
        """The nodes that the module returns."""
        [end] = [node for node in self.program.graph.nodes if node.op == "output"]
        results = []
        for node, spec in zip(end.args[0], self.program.graph_signature.output_specs, strict=True):
            if spec.kind in CHANGED:
                raise GraphError(f"a call changes its {CHANGED[spec.kind]} {spec.target}, {NO_STATE}")
            if spec.kind == OutputKind.USER_OUTPUT:
                if not isinstance(node, torch.fx.Node):
                    raise GraphError(f"it returns {node!r} where a tensor is expected")
                results.append(node)
        if not results:
            raise GraphError("it returns no tensor")
        return results

    def _does_nothing(self, node: Any) -> bool:
        if str(node.target) not in NOTHING or len(node.args) != 1 or node.kwargs:
            return False
        before, after = node.args[0].meta["val"], node.meta["val"]
        return bool(before.stride() == after.stride())  # a copy can also close gaps in memory

    def _node(self, node: Any, name: str, needed: set[Any]) -> Node:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            raise GraphError(f"operator {node.target} is not one that a stage can run{line_of(node)}")
        made = node.meta["val"]
        several = isinstance(made, tuple | list)
        wanted = [True]
        if several:
            read = {user.args[1] for user in node.users if _is_item(user) and user in needed}
            wanted = [i in read for i in range(len(made))]
        alone = sum(wanted) == 1
        outputs = [
            _value(node, name if alone else f"{name}:{i}", fake) if want else None
            for i, (want, fake) in enumerate(zip(wanted, made if several else [made], strict=True))
        ]
        reads = tuple(Read(value.name) if value else None for value in outputs)
        self.known[node] = reads if several else reads[0]
        op = str(node.target)
        args = tuple(self._argument(node, argument) for argument in node.args)
        shapes = [tuple(a.meta["val"].shape) if _is_tensor(a) else None for a in node.args]
        first = made[0] if several else made
        found = Node(
            name=name,
            path=place(node)[0],
            op=op,
            args=args,
            kwargs=tuple((key, self._argument(node, argument)) for key, argument in node.kwargs.items()),
            outputs=tuple(outputs),
            several=several,
            flops=flops(op.split(".")[1], shapes, tuple(first.shape), args),
        )
        try:
            operator_of(found)
        except GraphError as error:
            raise GraphError(f"{error}{line_of(node)}") from None
        return found

    def _argument(self, node: Any, argument: Any) -> Argument:
        if isinstance(argument, torch.fx.Node):
            return self._constant(argument) if argument in self.constants else self.known[argument]
        if isinstance(argument, tuple | list):
            return tuple(self._argument(node, element) for element in argument)
        if argument is None or isinstance(argument, bool | int | float | str):
            return argument
        if isinstance(argument, torch.device):
            return Keyword("device", "")  # wherever the stage runs
        for kind in ("dtype", "layout", "memory_format"):
            if isinstance(argument, getattr(torch, kind)):
                found = Keyword(kind, str(argument).removeprefix("torch."))
                try:
                    keyword(found)
                except GraphError as error:
                    raise GraphError(f"{error}{line_of(node)}") from None
                return found
        raise GraphError(f"operator {node.target} takes {type(argument).__name__} {argument}{line_of(node)}")

    def _constant(self, node: Any) -> Argument:
        """A constant becomes a weight where something reads it."""
        made = self.constants[node]
        if not isinstance(made, Tensor):
            return self._argument(node, made)
        if node not in self.known:
            parent = node.args[0] if _is_item(node) else node
            name = self.names[parent] + (f":{node.args[1]}" if _is_item(node) else "")
            name = free_name(name, self.weights)
            self.weights[name] = _value(node, name, made)
            self.tensors[name], self.folded[name] = made, node
            self.known[node] = Weight(name)
        return self.known[node]


def _needed(results: list[Any]) -> set[Any]:
    """These nodes and all that they read from."""
    needed: set[Any] = set()
    waiting = list(results)
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting.extend(node.all_input_nodes)
    return needed


def _is_item(node: Any) -> bool:
    return node.op == "call_function" and node.target is operator.getitem


def _is_tensor(argument: Any) -> bool:
    return isinstance(argument, torch.fx.Node) and isinstance(argument.meta.get("val"), Tensor)


def _value(node: Any, name: str, fake: Any) -> Value:
    if not isinstance(fake, Tensor):
        raise GraphError(
            f"{node.target} makes a number out of values, which differs from picture to picture{line_of(node)}"
        )
    shape = tuple(fake.shape)
    if not all(isinstance(size, int) for size in shape):
        raise GraphError(f"the shape of what {node.target} makes depends on values{line_of(node)}")
    dtype = str(fake.dtype).removeprefix("torch.")
    if fake.layout != torch.strided:
        raise GraphError(f"{node.target} makes a tensor that isn't dense, which can't be sent{line_of(node)}")
    if dtype not in ITEM_BYTES:
        raise GraphError(f"{node.target} makes {dtype}, which can't be sent{line_of(node)}")
    return Value(name, shape, dtype, *layout_of(fake))
