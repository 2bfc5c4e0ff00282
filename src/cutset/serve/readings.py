"""What a service says of itself, as events: for the dashboard and for Prometheus."""

from __future__ import annotations

import asyncio
import time

from cutset.offload.client.session import Session
from cutset.serve.events import (
    AcceleratorState,
    EngineEvent,
    ModelEvent,
    OffloadEvent,
    Pads,
    RequestState,
    StageHop,
    StagesEvent,
    StageState,
)
from cutset.serve.service import Service
from cutset.version import software

__all__ = ["Ticker", "engine_event", "model_event", "offload_event", "stages_event"]

MOST_REQUESTS = 32
SECONDS = 0.5


def model_event(service: Service) -> ModelEvent:
    """What doesn't change."""
    llm, settings = service.llm, service.llm.settings
    return ModelEvent(
        name=service.names[0],
        mode=service.mode,
        staged=llm.stages is not None,
        sees="nothing: everything is multiplied here" if llm.offload is None else llm.offload.mode.sees,
        backend=llm.choice.backend,
        dtype=llm.choice.dtype,
        threads=llm.choice.threads,
        context=llm.max_model_len,
        block_size=settings.block_size,
        most_running=settings.max_num_seqs,
        software=software(),
    )


def engine_event(service: Service) -> EngineEvent:
    """How the engine stood after its last step."""
    stats, now = service.llm.stats(), time.perf_counter()
    requests = [
        RequestState(name, now - one.started, one.prompt_tokens, one.tokens, one.samples)
        for name, one in list(service.running.items())[:MOST_REQUESTS]
    ]
    return EngineEvent(
        time=now,
        running=stats.running,
        waiting=stats.waiting,
        blocks=stats.blocks,
        blocks_used=stats.blocks_used,
        prefix_queries_total=stats.prefix_queries,
        prefix_hits_total=stats.prefix_hits,
        stored_hits_total=stats.stored_hits,
        preemptions_total=stats.preemptions,
        steps_total=stats.steps,
        prompt_tokens_total=stats.prompt_tokens,
        generated_tokens_total=stats.generated_tokens,
        drafted_tokens_total=stats.drafted_tokens,
        accepted_tokens_total=stats.accepted_tokens,
        alive=service.llm.alive,
        requests=requests,
    )


def offload_event(service: Service) -> OffloadEvent | None:
    """What crossed the cut so far; None without an offload."""
    offload = service.llm.offload
    if offload is None:
        return None
    linears = offload.linears
    parts, pads = linears.times, None
    if linears.pads is not None:
        counted = linears.pads.counters()
        pads = Pads(counted.level, counted.made, counted.used, counted.inline, counted.seconds_waited)
    accelerators = [_accelerator(linears.session, "multiplies")]
    if offload.pad_session is not None:
        accelerators.append(_accelerator(offload.pad_session, "makes pads"))
    return OffloadEvent(
        time=time.perf_counter(),
        parts={name: max(0.0, seconds) for name, seconds in parts.wall.items()},
        calls_total=parts.calls,
        rows_total=parts.rows,
        bytes_up_total=parts.bytes_up,
        bytes_down_total=parts.bytes_down,
        checks_passed_total=linears.checks_passed,
        checks_failed_total=linears.checks_failed,
        verified=offload.mode.verified,
        pads=pads,
        accelerators=accelerators,
    )


def stages_event(service: Service) -> StagesEvent | None:
    """How the stages of the model stand; None where it runs in one place."""
    stages = service.llm.stages
    if stages is None:
        return None
    found, stats = stages.pipeline.reading(), service.llm.stats()
    return StagesEvent(
        time=time.perf_counter(),
        ready=found.ready,
        plan=found.number,
        why=found.why,
        stages=[StageState(*one) for one in found.stages],
        hops=[StageHop(*one) for one in found.hops],
        in_flight=found.in_flight,
        most_in_flight=found.most_in_flight,
        failovers_total=found.failovers,
        blocks=stats.blocks,
        blocks_used=stats.blocks_used,
    )


def _accelerator(session: Session, role: str) -> AcceleratorState:
    able = session.capabilities
    return AcceleratorState(session.address, role, able.device, able.threads, session.resent, session.redialled)


class Ticker:
    """Publishes readings while somebody watches; costs nothing otherwise."""

    def __init__(self, service: Service) -> None:
        self.service, self.hub = service, service.hub

    async def run(self) -> None:
        """Until it is cancelled."""
        self.hub.publish(model_event(self.service))
        while True:
            if self.hub.watched:
                self.publish()
            await asyncio.sleep(SECONDS)

    def publish(self) -> None:
        """One reading of each kind."""
        self.hub.publish(engine_event(self.service))
        if (offload := offload_event(self.service)) is not None:
            self.hub.publish(offload)
        if (stages := stages_event(self.service)) is not None:
            self.hub.publish(stages)
