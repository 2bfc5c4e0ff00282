"""From settings to the stages that an engine's steps run on: who they are, and what doesn't go together with them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from cutset.config import Settings
from cutset.engine.cluster_pipeline import Addresses, ClusterPipeline, StageWorkers
from cutset.engine.local_stages import LocalStages
from cutset.engine.stage_graph import StageLimits
from cutset.errors import ConfigError
from cutset.link.keys import load_keys, load_public
from cutset.models.files.integer import Progress
from cutset.models.files.source import ModelSource
from cutset.models.run.backend import BackendChoice
from cutset.models.stages import cuts

__all__ = ["LinkedStages", "check_stages"]

STARTING = 10.0  # seconds in which all stages must be there
LOCAL_STARTING = 60.0  # seconds that processes on a busy machine may take to start


def check_stages(settings: Settings, adapters: Collection[str] = ()) -> None:
    """Raises ConfigError for settings that don't go together with stages."""
    if not settings.stages:
        for name in ("stage_keys", "spares", "spare_keys"):
            if getattr(settings, name):
                raise ConfigError(f"--{name.replace('_', '-')} is for stages: name them with --stages")
        return
    other = next((name for name in ("offload", "mode", "pads_from", "prefix_cache") if getattr(settings, name)), None)
    if other is not None:
        raise ConfigError(f"--stages and --{other.replace('_', '-')} don't go together yet: leave one of them out")
    if adapters:
        raise ConfigError("adapters can't be sent to stages yet: merge them into the model, or leave out --stages")
    if settings.device != "cpu" or settings.backend == "torch":
        raise ConfigError(
            "stages run on the backends native and reference, on the CPU: leave out --device and --backend"
        )
    if isinstance(settings.stages, int) and settings.stage_keys:
        raise ConfigError("--stage-keys is for stages at addresses: name them with --stages tcp://…")
    _addresses(settings)


class LinkedStages:
    """The pipeline of an engine over stages at workers, and those of them that were started here. `close` ends both."""

    def __init__(
        self,
        source: ModelSource,
        settings: Settings,
        choice: BackendChoice,
        context: int,
        *,
        progress: Progress | None = None,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`context`: tokens of the longest sequence. Raises CutsetError."""
        spec = source.spec
        most = len(cuts(spec)) + 1
        named, spares = _addresses(settings)
        count = settings.stages if isinstance(settings.stages, int) else len(named)
        if count > most:
            raise ConfigError(f"--stages: this model of {spec.layers} layers makes at most {most} stages, not {count}")
        limits = StageLimits(settings.max_batch_tokens, min(settings.max_num_seqs, settings.max_batch_tokens), context)
        self.local: LocalStages | None = None
        with contextlib.ExitStack() as parts:
            if isinstance(settings.stages, int):
                threads = max(1, settings.thread_count // count)
                self.local = LocalStages(count, source.path, threads=threads)
                parts.callback(self.local.close)
                named = self.local.addresses
            keys = load_keys(settings.key) if settings.key is not None else None
            starting = LOCAL_STARTING if self.local is not None else STARTING
            workers = StageWorkers(named, spares, keys, settings.patience, starting=starting)
            self.pipeline = ClusterPipeline(
                source, workers, limits, backend=choice.backend, dtype=choice.dtype, progress=progress, log=log
            )
            parts.callback(self.pipeline.close)
            self._parts = parts.pop_all()

    def summary(self) -> str:
        """Which layers run where, in a line."""
        plan, pipeline = self.pipeline.plan, self.pipeline
        if plan is None:
            return "stages: none at the moment"
        where = ", ".join(f"{stage.worker} {pipeline.layers_of(stage)}" for stage in plan.stages)
        failed = f"; lost {pipeline.failovers} times" if pipeline.failovers else ""
        return f"stages: {where}{failed}"

    def close(self) -> None:
        """A second call does nothing."""
        self._parts.close()


def _addresses(settings: Settings) -> tuple[Addresses, Addresses]:
    """Stages and spares by address. Raises ConfigError for one that is there twice, or keys that don't match."""
    stages = () if isinstance(settings.stages, int) else settings.stages
    found = _keyed("stages", stages, settings.stage_keys), _keyed("spares", settings.spares, settings.spare_keys)
    if both := set(found[0]) & set(found[1]):
        raise ConfigError(f"{sorted(both)[0]} is both in --stages and in --spares: name it once")
    tcp = [name for each in found for name in each if name.startswith("tcp://")]
    if tcp and settings.key is None:
        raise ConfigError(f"{tcp[0]} needs --key, this side's secret key; see `cutset keys`")
    return found


def _keyed(what: str, names: Sequence[str], keys: Sequence[Path]) -> Addresses:
    flag = f"--{what.removesuffix('s')}-keys"
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--{what} names {name} twice: each stage is a process of its own")
        if not name.startswith(("tcp://", "ipc://")):
            raise ConfigError(f"--{what}: {name[:100]!r} is no address of a stage: tcp://HOST:PORT or ipc://PATH")
    public = [load_public(path) for path in keys]
    tcp = [name for name in names if name.startswith("tcp://")]
    if tcp and not public:
        raise ConfigError(f"{tcp[0]} needs its public key: give {flag}, in the order of --{what}")
    if public and len(public) != len(names):
        raise ConfigError(f"{flag} names {len(public)} keys for {len(names)} {what}")
    return {name: (name, public[i] if public else None) for i, name in enumerate(names)}
