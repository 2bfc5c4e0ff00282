"""A network as a graph of layers: values, nodes in topological order, and what is alive across a cut.

A *cut* parts the nodes into those that are done and the rest; no done node may read from the rest (the done set is
*closed*). What crosses it are the values that the rest or the caller still needs: one tensor in a chain, several
across branches and skip connections. This module knows no torch, so that planners and drawings don't load it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property

from cutset.errors import GraphError
from cutset.partition.node import Node, Value

__all__ = ["Cut", "Graph"]


@dataclass(frozen=True)
class Cut:
    """What crosses between the nodes that are done and the rest: names of values, and their bytes as they are."""

    values: tuple[str, ...]
    nbytes: int


@dataclass(frozen=True)
class Graph:
    """The layers of a network for inputs of one size. Nodes are numbered by their place in `nodes`."""

    inputs: tuple[Value, ...]
    outputs: tuple[str, ...]  # values, in the order in which the module returns its tensors
    nodes: tuple[Node, ...]
    weights: dict[str, Value]

    def __post_init__(self) -> None:
        known = {value.name for value in self.inputs}
        if len(known) != len(self.inputs):
            raise GraphError("two inputs of the graph have the same name")
        for node in self.nodes:
            for name in node.reads:
                if name not in known:
                    raise GraphError(f"{node.name} reads {name!r}, which no node before it makes")
            for name in node.weights:
                if name not in self.weights:
                    raise GraphError(f"{node.name} needs the weight {name!r}, which the graph doesn't describe")
            for value in node.made:
                if value.name in known:
                    raise GraphError(f"{node.name} makes {value.name!r}, which is there already")
                known.add(value.name)
        for name in self.outputs:
            if name not in known:
                raise GraphError(f"the output {name!r} is made by no node")

    @cached_property
    def values(self) -> dict[str, Value]:
        """Every value by name: inputs first, then in the order in which nodes make them."""
        return {v.name: v for v in (*self.inputs, *(v for node in self.nodes for v in node.made))}

    @cached_property
    def maker(self) -> dict[str, int]:
        """The number of the node that makes a value; -1 for the inputs."""
        made = {value.name: i for i, node in enumerate(self.nodes) for value in node.made}
        return {value.name: -1 for value in self.inputs} | made

    @cached_property
    def readers(self) -> dict[str, tuple[int, ...]]:
        """The numbers of the nodes that read a value; the caller reads the outputs as node `len(nodes)`."""
        found: dict[str, list[int]] = {name: [] for name in self.values}
        for i, node in enumerate(self.nodes):
            for name in node.reads:
                found[name].append(i)
        for name in dict.fromkeys(self.outputs):
            found[name].append(len(self.nodes))
        return {name: tuple(numbers) for name, numbers in found.items()}

    @property
    def flops(self) -> int:
        """Operations for one input; a multiply-add counts as two."""
        return sum(node.flops for node in self.nodes)

    def cut(self, done: int | Collection[int]) -> Cut:
        """The cut after the first `done` nodes, or after a set of nodes. Raises GraphError if that isn't closed."""
        if isinstance(done, int):
            if not 0 <= done <= len(self.nodes):
                raise GraphError(f"there is no cut {done}: the graph has {len(self.nodes)} nodes")
            return self.cuts[done]
        closed = self._closed(done)
        return self._crossing([n for n, at in self.maker.items() if at == -1 or at in closed], closed)

    @cached_property
    def cuts(self) -> tuple[Cut, ...]:
        """The cuts of the order: the one at k comes after the first k nodes, so there is one more than nodes."""
        last = {name: max(numbers, default=-1) for name, numbers in self.readers.items()}
        alive = {value.name: value.nbytes for value in self.inputs if last[value.name] >= 0}
        found = [Cut(tuple(alive), sum(alive.values()))]
        for i, node in enumerate(self.nodes):
            for name in node.reads:
                if last[name] == i:
                    del alive[name]
            alive |= {value.name: value.nbytes for value in node.made if last[value.name] > i}
            found.append(Cut(tuple(alive), sum(alive.values())))
        return tuple(found)

    @cached_property
    def trunk(self) -> tuple[int, ...]:
        """The cuts of the order that one tensor crosses: between blocks, not inside them."""
        return tuple(k for k, cut in enumerate(self.cuts) if len(cut.values) == 1)

    def weights_of(self, nodes: Iterable[int]) -> tuple[str, ...]:
        """The names of the weights that these nodes need, each once; a tied one is shared."""
        return tuple(dict.fromkeys(name for i in nodes for name in self.nodes[i].weights))

    def weight_bytes(self, nodes: Iterable[int]) -> int:
        """The bytes of `weights_of`."""
        return sum(self.weights[name].nbytes for name in self.weights_of(nodes))

    def peak_bytes(self, nodes: Collection[int]) -> int:
        """The most bytes of values alive at once while these nodes run in order, without weights and scratch space."""
        chosen = sorted(nodes)
        inside = set(chosen)
        last = {}
        for name, numbers in self.readers.items():
            leaves = any(i not in inside for i in numbers) and self.maker[name] in inside
            last[name] = len(self.nodes) if leaves else max((i for i in numbers if i in inside), default=-1)
        held = {n for i in chosen for n in self.nodes[i].reads if self.maker[n] not in inside}
        sizes = {n: value.memory if n in held else value.nbytes for n, value in self.values.items()}
        now = peak = sum(sizes[name] for name in held)
        for i in chosen:
            now += sum(value.nbytes for value in self.nodes[i].made)
            peak = max(peak, now)
            gone = {*self.nodes[i].reads, *(value.name for value in self.nodes[i].made)}
            now -= sum(sizes[name] for name in gone if last[name] <= i)
        return peak

    def boundary(self, nodes: Collection[int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The names of what a stage of these nodes takes from elsewhere, and of what others need of it.

        The nodes must be the difference of two closed sets: nothing that leaves them may come back in. Raises
        GraphError otherwise.
        """
        inside = self._known(nodes)
        tainted: set[int] = set()  # nodes outside that come after one inside
        for i, node in enumerate(self.nodes):
            before = {self.maker[name] for name in node.reads}
            if i in inside:
                if before & tainted:
                    raise GraphError(f"a stage can't leave out what lies between its layers: {node.name} needs it")
            elif before & inside or before & tainted:
                tainted.add(i)
        takes = [n for i in sorted(inside) for n in self.nodes[i].reads if self.maker[n] not in inside]
        gives = [v.name for i in sorted(inside) for v in self.nodes[i].made]
        return tuple(dict.fromkeys(takes)), self._crossing(gives, inside).values

    def _known(self, nodes: Collection[int]) -> set[int]:
        known = set(nodes)
        if not all(0 <= i < len(self.nodes) for i in known):
            raise GraphError(f"the graph has {len(self.nodes)} nodes, numbered from 0")
        return known

    def _closed(self, done: Collection[int]) -> set[int]:
        closed = self._known(done)
        for i in closed:
            for name in self.nodes[i].reads:
                if self.maker[name] not in closed and self.maker[name] != -1:
                    raise GraphError(f"no cut: {self.nodes[i].name} is before it, and {name}, which it reads, after it")
        return closed

    def _crossing(self, made: Iterable[str], inside: set[int]) -> Cut:
        names = tuple(name for name in made if any(i not in inside for i in self.readers[name]))
        return Cut(names, sum(self.values[name].nbytes for name in names))
