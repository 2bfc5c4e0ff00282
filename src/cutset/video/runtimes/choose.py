"""Which runtime computes a network's stages: the one that was asked for, or the quickest that keeps the promise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from cutset.cluster.stage import Stage
from cutset.cluster.values import Array, readable
from cutset.errors import ConfigError, CutsetError
from cutset.partition.plan import Plan
from cutset.partition.timing import quickest
from cutset.video.check import range_error
from cutset.video.network_model import NetworkModel
from cutset.video.profile.setup import torch_threads
from cutset.video.runtimes import FUSED, RUNTIMES, has_onnx, installed, open_stage, reference_of
from cutset.video.runtimes.checked import made_up

__all__ = ["choose_runtime", "named", "stamped"]

ROUNDS = 3


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
    installed, and the quickest is taken whose results on a made-up picture are within the tolerance of the reference's.
    Raises CutsetError where what is asked for isn't there or can't run it.
    """
    nodes = range(len(model.graph.nodes))
    if asked != "auto":
        word = named(model, asked, tolerance)
        if word:
            open_stage(model.graph, nodes, model.tensors, word, threads=threads)
        return word
    if not tolerance:
        return ""
    with torch_threads(threads, model.graph):
        return _quickest(model, tolerance, threads, log)


def _quickest(model: NetworkModel, tolerance: float, threads: int, log: Callable[[str], None]) -> str:
    nodes = range(len(model.graph.nodes))
    picture = made_up(model.input)
    wanted = {name: model.run(picture)[name] for name in model.graph.outputs}
    found: dict[str, float] = {}
    for one in RUNTIMES:
        word = named(model, one, tolerance)
        if not installed(one) or (one == "torch" and has_onnx(model.graph)):
            continue
        try:
            stage = open_stage(model.graph, nodes, model.tensors, word, threads=threads)
            made = {model.input.name: picture, **stage.run(0, {model.input.name: picture})}
            got = {name: readable(made[name], model.graph.values[name]) for name in wanted}
            error = range_error(got, wanted)
            seconds = quickest(partial(_once, stage, {model.input.name: picture}), ROUNDS)
        except CutsetError as why:
            log(f"{one}: {why}")
            continue
        log(f"{one}: {seconds * 1e3:,.1f} ms a picture, off by {error:.1e} of the output's range")
        if error <= tolerance:
            found[word] = seconds
    if not found:
        raise ConfigError(f"no runtime that is installed stays within --tolerance {tolerance:g}")
    best = min(found, key=found.__getitem__)
    log(f"stages are computed by {(best or reference_of(model.graph)).partition('+')[0]}")
    return best


def _once(stage: Stage, values: Mapping[str, Array], observe: object) -> None:
    stage.run(0, values)


def stamped(plan: Plan, runtime: str) -> Plan:
    """The plan with this runtime for all stages that name none."""
    if not runtime:
        return plan
    return replace(
        plan, stages=tuple(stage if stage.runtime else replace(stage, runtime=runtime) for stage in plan.stages)
    )
