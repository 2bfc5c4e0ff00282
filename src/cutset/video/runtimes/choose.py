"""Which runtime computes a network's stages: the one that was asked for, or the quickest that keeps the promise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from cutset.cluster.stage import Stage
from cutset.cluster.values import Array, copied, readable
from cutset.errors import ConfigError, CutsetError
from cutset.partition.plan import Plan
from cutset.partition.timing import Run, in_turns
from cutset.video.check import Ranges
from cutset.video.network_model import NetworkModel
from cutset.video.profile.setup import torch_threads
from cutset.video.runtimes import FUSED, RUNTIMES, installed, open_stage, reference_of
from cutset.video.runtimes.checked import pictures

__all__ = ["choose_runtime", "named", "stamped", "whole_network"]


def named(model: NetworkModel, asked: str, tolerance: float) -> str:
    """The word in plans for a runtime that a user names; "" for the network's reference."""
    reference = reference_of(model.graph)
    if asked == "onnxruntime" and (tolerance or reference != "onnxruntime"):
        return FUSED
    return "" if asked == reference else asked


def choose_runtime(
    model: NetworkModel, asked: str, tolerance: float, threads: int, log: Callable[[str], None] = lambda line: None
) -> str:
    """What plans are to name, "" for the reference, whose bits don't depend on the cuts.

    `asked` is one of RUNTIMES, or `auto`: with a tolerance above 0 the whole network is timed here with all that is
    installed, and the quickest is taken whose results on made-up pictures are within the tolerance of the reference's.
    Raises CutsetError where what is asked for isn't there, can't run it, or isn't within the tolerance.
    """
    if asked == "auto" and not tolerance:
        return ""
    if asked != "auto" and not (word := named(model, asked, tolerance)):
        return ""
    with torch_threads(threads, model.graph):
        if asked == "auto":
            return _quickest(model, tolerance, threads, log)
        stage = open_stage(model.graph, range(len(model.graph.nodes)), model.tensors, word, threads=threads)
        if tolerance and not (error := _error(model, stage)) <= tolerance:
            raise ConfigError(
                f"{asked} is off by {error:.1e} of the output's range here, more than --tolerance {tolerance:g}; allow "
                "more, or take --runtime auto"
            )
    return word


def whole_network(model: NetworkModel, runtime: str, threads: int) -> Callable[[Array], dict[str, Array]]:
    """What computes the whole network's outputs of a picture by a runtime as plans name it; "" for the reference. Its
    stage is its own, and is opened when it is first called. Not for several threads at once."""
    stages: list[Stage] = []

    def run(picture: Array) -> dict[str, Array]:
        with torch_threads(threads, model.graph):
            if not stages:
                nodes = range(len(model.graph.nodes))
                stages.append(open_stage(model.graph, nodes, model.tensors, runtime, threads=threads))
            given = {model.input.name: copied(picture.reshape(model.input.shape), model.input)}
            made = given | stages[0].run(0, given)
        return {name: readable(made[name], model.graph.values[name]) for name in model.graph.outputs}

    return run


def _quickest(model: NetworkModel, tolerance: float, threads: int, log: Callable[[str], None]) -> str:
    nodes, reference = range(len(model.graph.nodes)), reference_of(model.graph)
    there = [one for one in RUNTIMES if installed(one)]
    given = {model.input.name: pictures(model.input)[0]}
    runs: dict[str, Run] = {}
    errors: dict[str, float] = {}
    for word in dict.fromkeys(["", *(named(model, one, tolerance) for one in there)]):
        try:
            stage = open_stage(model.graph, nodes, model.tensors, word, threads=threads)
            error = _error(model, stage) if word else 0.0
        except CutsetError as why:
            log(f"{_called(word, reference)}: {why}")
            continue
        if error <= tolerance:  # others have no turns, so that they don't decide who is close to the quickest
            runs[word], errors[word] = partial(_once, stage, given), error
        else:
            log(f"{_called(word, reference)}: off by {error:.1e} of the output's range, more than the tolerance")
    found = in_turns(runs)
    for word, seconds in found.items():
        off = f"off by {errors[word]:.1e} of the output's range"
        log(f"{_called(word, reference)}: {seconds * 1e3:,.1f} ms a picture, {off}")
    best = min(found, key=found.__getitem__)
    log(f"stages are computed by {(best or reference).partition('+')[0]}")
    return best


def _called(word: str, reference: str) -> str:
    """A runtime as plans name it, for people."""
    return (word or reference).partition("+")[0] + (", layers fused" if word == FUSED else "")


def _error(model: NetworkModel, stage: Stage) -> float:
    """How far a stage of all nodes is from the reference, as a share of the output's range over a few pictures."""
    ranges, most = Ranges(), dict[str, float]()
    for picture in pictures(model.input):
        wanted = model.run(picture)
        made = {model.input.name: picture, **stage.run(0, {model.input.name: picture})}
        got = {name: readable(made[name], model.graph.values[name]) for name in wanted}
        ranges.add(wanted)
        errors = ranges.errors(got, wanted)
        most = {name: max(error, most.get(name, 0.0)) for name, error in errors.items()}
    return ranges.share(most)


def _once(stage: Stage, values: Mapping[str, Array], observe: object) -> None:
    stage.run(0, values)


def stamped(plan: Plan, runtime: str) -> Plan:
    """The plan with this runtime for all stages that name none."""
    if not runtime:
        return plan
    return replace(
        plan, stages=tuple(stage if stage.runtime else replace(stage, runtime=runtime) for stage in plan.stages)
    )
