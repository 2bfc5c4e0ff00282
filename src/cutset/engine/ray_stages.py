"""Stages that Ray places on the nodes of a cluster."""

from __future__ import annotations

from collections.abc import Callable

from cutset.cluster.launch.party_evidence import PartyEvidence
from cutset.cluster.launch.party_needs import Needs, parse_places
from cutset.cluster.launch.ray_launcher import PartyOrder, RayLauncher, RayOptions
from cutset.config import Settings
from cutset.models.files.source import ModelSource
from cutset.models.run.backend import BackendChoice

__all__ = ["CACHE_MIB", "PROCESS", "held_bytes", "ray_stages", "stage_bytes"]

# Bytes of a parameter as a stage holds it, with scales; 4 for all others.
PARAMETER = {"bfloat16": 2.0, "float16": 2.0, "int8": 1.2, "int4": 0.7}
LAYOUT = 1.3  # of the weights, with their layout for the kernels
CACHE_MIB = 256  # of all stages, where settings name no size
PROCESS = 192 << 20  # bytes of a process that holds nothing


def held_bytes(source: ModelSource, choice: BackendChoice) -> int:
    """Bytes of all weights as they are computed with."""
    return int(source.spec.parameter_count() * PARAMETER.get(choice.dtype, 4.0) * LAYOUT)


def stage_bytes(source: ModelSource, settings: Settings, choice: BackendChoice, count: int) -> int:
    """Bytes that each of `count` stages may use: so many that, when one is gone, the others hold the model."""
    weights = held_bytes(source, choice)
    cache = (settings.cache_mib or CACHE_MIB) << 20
    return int((weights + cache) / max(count - 1, 1)) + (32 << 20)


def ray_stages(
    options: RayOptions,
    count: int,
    source: ModelSource,
    settings: Settings,
    choice: BackendChoice,
    log: Callable[[str], None],
    spares: int = 0,
    evidence: PartyEvidence | None = None,
) -> RayLauncher:
    """`count` stages, named stage0, stage1, …, and spares, named spare0, …; each gets its layers' weights over its
    link, or reads them from this machine's disk where the nodes are here. `evidence`: what each shows, and wants of the
    next one. Raises CutsetError."""
    local = options.where == "local"
    threads = max(1, settings.thread_count // count) if local else settings.threads or 1
    memory = stage_bytes(source, settings, choice, count)
    names = [*(f"stage{i}" for i in range(count)), *(f"spare{i}" for i in range(spares))]
    needs = parse_places(options.places, names, Needs(float(threads), memory + PROCESS))
    orders = {}
    for name, one in needs.items():
        threads = max(1, int(one.cpus))
        words = ["cutset.cli", "stage", *([str(source.path.absolute())] if local else [])]
        words += ["--threads", str(threads), "--memory", str(max(one.memory - PROCESS, one.memory // 2))]
        words += ["--device", "cuda"] if one.gpus else []
        words += [] if evidence is None else evidence.words(elsewhere=True)
        orders[name] = PartyOrder(words, threads, one, files={} if evidence is None else evidence.files)
    return RayLauncher(orders, options, log=log)
