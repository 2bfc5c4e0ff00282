"""From settings to the stages that an engine's steps run on."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from itertools import permutations
from typing import Literal

from cutset.cluster.coordinator.joining import open_rendezvous
from cutset.cluster.launch import Launcher
from cutset.cluster.launch.given import GivenAddresses
from cutset.cluster.launch.party_evidence import PartyEvidence
from cutset.cluster.launch.supervisor import Supervisor
from cutset.config import Settings
from cutset.engine.cluster_pipeline import ClusterPipeline
from cutset.engine.local_stages import LocalStages
from cutset.engine.prefix_context import check_store, libraries
from cutset.engine.ray_stages import ray_stages
from cutset.engine.stage_divider import StageDivider
from cutset.engine.stage_graph import StageLimits
from cutset.engine.stage_item import StageSetup
from cutset.engine.stage_planner import StageLoad
from cutset.engine.stage_settings import StageWorkers, ray_options, spare_count, stage_addresses, stage_count
from cutset.errors import ConfigError
from cutset.link.keys import load_keys
from cutset.link.peer import Binding
from cutset.models.files.integer import Progress
from cutset.models.files.source import ModelSource
from cutset.models.run.backend import BackendChoice, draft_states, kept_states
from cutset.models.stages import cuts
from cutset.partition.hop import Hop
from cutset.partition.plan import COORDINATOR

__all__ = ["LinkedStages"]

LEAST_MEASURED = 16 << 20  # weights of a model that is worth measuring
STARTING = 10.0  # seconds in which all stages must be there
JOINING = 60.0  # seconds for those that dial in: people walk from machine to machine
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
        fresh: bool = False,
        hop: Hop | None = None,
        verify: Callable[[bytes, Binding], bool] | None = None,
        evidence: PartyEvidence | None = None,
    ) -> None:
        """`context`: tokens of the longest sequence; `fresh`: measure what is remembered again; `hop`: emulated between
        every two parties; `verify`: says whether a stage's evidence is enough, see Handshake; `evidence`: what those
        show that are started for this. Raises CutsetError."""
        self._settings, self._choice, self._context, spec = settings, choice, context, source.spec
        most = len(cuts(spec)) + 1
        named, spares = stage_addresses(settings)
        local = 0 if named else stage_count(settings)
        count = local or len(named)
        if count > most:
            raise ConfigError(f"--stages: this model of {spec.layers} layers makes at most {most} stages, not {count}")
        if settings.prefix_cache is not None:
            check_store(spec, settings, choice)
        if choice.backend != "native":
            warnings.warn(
                f"stages on the {choice.backend} backend can change tokens: what it computes for a row depends on the "
                "rows beside it, which are others after a loss; the native one keeps every token",
                stacklevel=4,
            )
        limits = StageLimits(settings.max_batch_tokens, min(settings.max_num_seqs, settings.max_batch_tokens), context)
        self.local: LocalStages | None = None
        ray = ray_options(settings)
        with contextlib.ExitStack() as parts:
            keys = load_keys(settings.key) if settings.key is not None else None
            launcher: Launcher
            if ray is not None:
                placed = ray_stages(ray, count, source, settings, choice, log, spare_count(settings), evidence)
                parts.callback(placed.close)
                launcher, started, keys = placed, placed.addresses, placed.keys
            elif local:
                threads = max(1, settings.thread_count // count)
                prefixes = None
                if settings.prefix_cache is not None:
                    prefixes = settings.prefix_cache.absolute(), settings.prefix_cache_size
                self.local = LocalStages(
                    count + spare_count(settings), source.path, threads=threads, prefixes=prefixes, evidence=evidence
                )
                parts.callback(self.local.close)
                launcher, started, keys = self.local, self.local.addresses, self.local.keys
            else:
                launcher = GivenAddresses(named)
            if local:
                names = list(launcher.names)
                named = {name: started[name] for name in names[:count]}
                spares = {name: started[name] for name in names[count:]}
            parts.callback(Supervisor(launcher, log).close)
            starting = LOCAL_STARTING if local else STARTING
            rendezvous = open_rendezvous(settings.stages_listen, {**named, **spares}, keys, log)
            if rendezvous is not None:
                parts.callback(rendezvous.close)
            paces = dict.fromkeys(permutations([COORDINATOR, *named, *spares], 2), hop) if hop is not None else {}
            workers = StageWorkers(
                named,
                spares,
                keys,
                settings.patience,
                starting=starting,
                paces=paces,
                rendezvous=rendezvous,
                joining=max(JOINING, settings.patience),
                launcher=launcher,
                verify=verify,
            )
            divider = None
            if self._measured(source):
                load = StageLoad(settings.objective, context, limits.sequences)
                every = self.local is not None or (ray is not None and ray.where == "local")
                divider = StageDivider(workers, load, choice.threads, all_of_them=every, fresh=fresh, progress=progress)
            self.pipeline = ClusterPipeline(
                source,
                workers,
                limits,
                backend=choice.backend,
                dtype=choice.dtype,
                divider=divider,
                progress=progress,
                log=log,
            )
            parts.callback(self.pipeline.close)
            self._parts = parts.pop_all()

    def _measured(self, source: ModelSource) -> bool:
        """Whether layers are divided by what is measured: not where that takes longer than it could ever win."""
        settings = self._settings
        if settings.scheduler != "auto":
            return settings.scheduler == "optimal"
        asked = settings.sources["objective"] != "default"
        return asked or source.spec.parameter_count() >= LEAST_MEASURED

    def blocks(self, wanted: int) -> int:
        """Blocks of the cache: as many as were asked for by hand, else at most what the stages have memory for.
        `wanted`: where they don't say how much that is, so many, by the memory of this machine."""
        settings, spec = self._settings, self.pipeline.spec
        if settings.cache_mib:
            return wanted
        kept = kept_states(spec, self._choice, settings) + draft_states(spec, self._choice, settings)
        states = settings.max_num_seqs + kept if spec.state_floats else 0
        kv_dtype: Literal["auto", "int8"] = "int8" if settings.kv_dtype == "int8" else "auto"
        most = settings.max_num_seqs * -(-self._context // settings.block_size)
        return self.pipeline.planning.fitting(StageSetup(wanted, settings.block_size, states, kv_dtype), most)

    @property
    def libraries(self) -> list[str]:
        """Whose arithmetic it is: natively the instruction set at which all stages run."""
        return [self.pipeline.planning.isa] if self._choice.backend == "native" else libraries(self._choice)

    @property
    def ready(self) -> bool:
        """A plan stands, so that steps are run."""
        return self.pipeline.plan is not None

    def planned(self, setup: StageSetup) -> StageDivider:
        """What divides the layers, for a cache of that size, when it has measured all that plans depend on.

        Raises CutsetError: a stage that can't be used, a model that doesn't fit.
        """
        planning = self.pipeline.planning
        planning.describe(setup)
        assert planning.divider is not None
        return planning.divider

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
