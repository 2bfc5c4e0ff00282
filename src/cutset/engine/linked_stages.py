"""From settings to the stages that an engine's steps run on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Literal

from cutset.config import Settings
from cutset.engine.cluster_pipeline import ClusterPipeline, StageWorkers
from cutset.engine.local_stages import LocalStages
from cutset.engine.stage_graph import StageLimits
from cutset.engine.stage_item import StageSetup
from cutset.engine.stage_settings import stage_addresses
from cutset.errors import ConfigError
from cutset.link.keys import load_keys
from cutset.models.files.integer import Progress
from cutset.models.files.source import ModelSource
from cutset.models.run.backend import BackendChoice, kept_states
from cutset.models.stages import cuts
from cutset.partition.hop import Hop

__all__ = ["LinkedStages"]

STARTING = 10.0  # seconds in which all stages must be there
LOCAL_STARTING = 60.0  # seconds that processes on a busy machine may take to start


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
        hop: Hop | None = None,
    ) -> None:
        """`context`: tokens of the longest sequence. `hop`: emulated between every two parties. Raises CutsetError."""
        self._settings, self._choice, self._context, spec = settings, choice, context, source.spec
        most = len(cuts(spec)) + 1
        named, spares = stage_addresses(settings)
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
            workers = StageWorkers(named, spares, keys, settings.patience, starting=starting, hop=hop)
            self.pipeline = ClusterPipeline(
                source, workers, limits, backend=choice.backend, dtype=choice.dtype, progress=progress, log=log
            )
            parts.callback(self.pipeline.close)
            self._parts = parts.pop_all()

    def blocks(self, wanted: int) -> int:
        """Blocks of the cache: as many as were asked for by hand, else at most what the stages have memory for.
        `wanted`: where they don't say how much that is, so many, by the memory of this machine."""
        settings, spec = self._settings, self.pipeline.spec
        if settings.cache_mib:
            return wanted
        kept = kept_states(spec, self._choice, settings)
        states = settings.max_num_seqs + kept if spec.state_floats else 0
        kv_dtype: Literal["auto", "int8"] = "int8" if settings.kv_dtype == "int8" else "auto"
        most = settings.max_num_seqs * -(-self._context // settings.block_size)
        return self.pipeline.fitting(StageSetup(wanted, settings.block_size, states, kv_dtype), most)

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
