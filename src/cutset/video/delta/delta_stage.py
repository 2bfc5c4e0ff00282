"""A stage that computes again only what changed since the picture before, and dense where that is quicker."""

from __future__ import annotations

import statistics
import time
import timeit
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from cutset.cluster.stage import Stage
from cutset.cluster.values import Array, empty
from cutset.codec.changed import Changed
from cutset.errors import DeviceError
from cutset.partition.graph import Graph
from cutset.video.delta.dense_switch import DenseSwitch
from cutset.video.delta.glance import Glance
from cutset.video.delta.program import HeldState, PictureWork, Program
from cutset.video.delta.shifting import Motion, Shift
from cutset.video.delta.sparse_layers import Mask

__all__ = ["DeltaStage", "check_incremental"]

ABANDON = 1.6  # times dense: a second picture that would take longer is computed dense at once
EARLY = 0.5  # of the dense seconds: no picture is abandoned after that
RECENT = 64  # pictures of which the work is kept
RUNS = 3  # of dense, until its time is known


class DeltaStage:
    """Computes by positions on our own kernels (`program`), or has `dense` compute, a stage of the same nodes.

    `scale` times the thresholds (2 of 255 levels of pixels, 2 % of each layer's range) is what stays as it is held; 0:
    every bit is followed. `factors` times those of single values. With `always`, dense is never used. Not for several
    threads at once, but for `scale` and `factors`.
    """

    def __init__(
        self,
        graph: Graph,
        nodes: Collection[int],
        weights: Mapping[str, Any],
        dense: Stage,
        *,
        threads: int = 1,
        scale: float = 0.0,
        dense_seconds: float = 1e9,
        always: bool = False,
        runtime: str = "",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`weights` and `runtime` as of `Program`; `clock` gives the seconds by which dense is chosen.

        Raises GraphError, DeviceError.
        """
        self.program = Program(graph, nodes, weights, threads, runtime)
        self.dense, self.scale = dense, scale
        self.factors: Mapping[str, float] = self.program.factors
        self.recent: deque[PictureWork] = deque(maxlen=RECENT)
        self._always, self._dense_seconds, self._clock = always, dense_seconds, clock
        self._key_seconds: float | None = None
        self._states: dict[int, HeldState] = {}
        self._switches: dict[int, DenseSwitch] = {}
        self._glances: dict[int, Glance] = {}
        self._motions: dict[int, Motion] = {}
        self.shifted = 0  # pictures for which what is held was moved

    @classmethod
    def timed(
        cls,
        graph: Graph,
        nodes: Collection[int],
        weights: Mapping[str, Array],
        dense: Stage,
        *,
        threads: int,
        scale: float,
        runtime: str = "",
        clock: Callable[[], float] = time.perf_counter,
    ) -> DeltaStage:
        """One that knows how long `dense` and its own layers take: both ran on zeros a few times."""
        zeros = {name: empty(graph.values[name]) for name in dense.inputs}
        for array in zeros.values():
            array[...] = 0
        dense.run(0, zeros)
        seconds = statistics.median(timeit.repeat(lambda: dense.run(0, zeros), timer=clock, number=1, repeat=RUNS))
        self = cls(
            graph,
            nodes,
            weights,
            dense,
            threads=threads,
            scale=scale,
            dense_seconds=seconds,
            runtime=runtime,
            clock=clock,
        )
        if self.program.sparse_flops:  # the first time weights are brought into their form
            self._key_seconds = min(timeit.repeat(lambda: self._key(zeros), timer=clock, number=1, repeat=2))
        return self

    def _key(self, values: Mapping[str, Array]) -> None:
        state = self.program.state()
        self.program.update(state, self.program.take(state, values))

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.program.inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.program.outputs

    @property
    def shares(self) -> list[float]:
        """Of each node, in the order of the graph, the share of its output that the last picture took."""
        last = self.recent[-1].shares if self.recent else {}
        return [last.get(i, 0.0) for i in self.program.nodes]

    @property
    def share(self) -> float:
        """Of all operations, what the last picture took; 1 where it was dense."""
        return self.recent[-1].share(self.program.flops) if self.recent else 1.0

    @property
    def whole(self) -> bool:
        """Whether `dense` computed the last picture."""
        return bool(self.recent) and self.recent[-1].dense

    def run(
        self,
        source: int,
        values: Mapping[str, Array],
        observe: Callable[[float], None] | None = None,
        changed: Mapping[str, Changed] | None = None,
    ) -> dict[str, Array]:
        """As `cutset.cluster.stage` asks of a stage. `changed`: what of its inputs the decoder replaced since then."""
        begin = self._clock()
        made = self._run(source, values, observe, changed, begin)
        if not self._always:
            dense = not self.recent[-1].tried
            self._switches[source].paid(self._clock() - begin, dense=dense)
        return made

    def charge(self, source: int, seconds: float) -> None:
        """Counts what delta compute's last picture cost elsewhere: one that was computed dense to check it."""
        self._switches[source].charged(seconds)

    def _run(
        self,
        source: int,
        values: Mapping[str, Array],
        observe: Callable[[float], None] | None,
        changed: Mapping[str, Changed] | None,
        begin: float,
    ) -> dict[str, Array]:
        state = self._states.get(source)
        if state is None:
            state = self._states[source] = self.program.state()
            self._switches[source] = DenseSwitch(self._dense_seconds, self._key_seconds)
        if self.factors is not self.program.factors:
            self._adopt(self.factors)
        switch, scale = self._switches[source], self.scale
        if scale < state.scale:  # what is held may be off by more than is allowed now, where nothing changes any more
            state.stale = True
        state.scale = scale
        glance = self._glances.setdefault(source, Glance())
        masks: dict[str, Mask | None] = {}
        shift: Shift | None = None
        if switch.on or self._always:
            glance.forget()
            shift = self._moved(source, state, values)
            masks = self.program.take(state, values, None if shift else changed, scale)
            share = _share(masks)
        else:  # all of what is held is to be replaced, should it begin again
            share = glance.share(values, self.program.thresholds(state, scale))
        kind = ("key" if state.stale else "delta") if self._always else switch.choose(share, state.stale)
        if not self.program.sparse_flops and not self._always:
            kind = "dense"  # nothing can be left out
        work = None
        if kind != "delta":  # what is held is of an earlier picture, or is about to be
            state.stale = True
        if kind != "dense" and state.stale:
            masks = self.program.take(state, values)  # a key has what came, not what was near enough
        if kind != "dense":
            limit, expected = switch.dense_seconds, 0.0

            def go_on(spent: float, rest: float) -> bool:
                nonlocal expected
                expected = spent + rest
                return not (spent < EARLY * limit and expected > ABANDON * limit)

            # One slow picture is carried through, however long it takes, as the first of each group in videos is: else
            # what is held is lost, and the next picture would have to be computed whole.
            watched = go_on if kind == "delta" and switch.doubts and not self._always else None
            work = self.program.update(state, masks, scale, go_on=watched, shift=shift)
            seconds = self._clock() - begin
            switch.took(kind, max(seconds, expected) if work.abandoned else seconds, share)
        if work is None or work.abandoned:
            return self._whole(source, values, observe, switch, share, tried=work is not None)
        self.recent.append(work)
        if not self._always and switch.wants_dense():
            start = self._clock()
            self.dense.run(source, values)
            switch.took("dense", self._clock() - start, share)
        if observe is not None:
            for i in self.program.nodes:
                observe(work.seconds.get(i, 0.0))
        return self.program.results(state)

    def _adopt(self, factors: Mapping[str, float]) -> None:
        """Takes other factors; where one is smaller, what is held may be off by more than is allowed now."""
        before, self.program.factors = self.program.factors, factors
        if any(factors.get(name, 1.0) < before.get(name, 1.0) for name in {*factors, *before}):
            for state in self._states.values():
                state.stale = True

    def _moved(self, source: int, state: HeldState, values: Mapping[str, Array]) -> Shift | None:
        """Moves what is held along with the picture, where that moved and it pays."""
        if not self.program.strides:
            return None
        motion = self._motions.setdefault(source, Motion())
        [name] = self.program.inputs
        if state.stale:
            motion.forget()
        found = self.program.shift(state, *motion.since(values[name]))
        self.shifted += found is not None
        return found

    def _whole(
        self,
        source: int,
        values: Mapping[str, Array],
        observe: Callable[[float], None] | None,
        switch: DenseSwitch,
        share: float,
        *,
        tried: bool,
    ) -> dict[str, Array]:
        start = self._clock()
        made = self.dense.run(source, values, observe)
        switch.took("dense", self._clock() - start, share)
        self.recent.append(PictureWork(dict.fromkeys(self.program.nodes, 1.0), dense=True, tried=tried))
        return made

    def dense_pictures(self) -> int:
        """How often delta compute was given up for a while, over all sources."""
        return sum(switch.off_count for switch in self._switches.values())


def _share(masks: Mapping[str, Mask | None]) -> float:
    """The changed share of the inputs, the largest of them."""
    return max((0.0 if mask is None else float(np.mean(mask)) for mask in masks.values()), default=0.0)


def check_incremental(device: str = "cpu") -> None:
    """Raises DeviceError where what changed alone can't be computed."""
    if device != "cpu":
        raise DeviceError(f"what changed alone is computed on processors, not on {device}: leave out --delta-compute")
