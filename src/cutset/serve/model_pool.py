"""Several models in one process: loaded when they are asked for, and let go of when others need their room."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp

from cutset.errors import ConfigError, CutsetError
from cutset.llm import AsyncLLM
from cutset.receipts.issuer import ReceiptIssuer
from cutset.serve.api_errors import NO_RETRY, ApiError
from cutset.serve.hub import Hub
from cutset.serve.model_facts import ModelFacts
from cutset.serve.readiness import Readiness
from cutset.serve.request_limits import RequestLimits
from cutset.serve.running_request import RunningRequest
from cutset.serve.service import Service

__all__ = ["Applications", "ModelPool", "PooledModel"]

log = logging.getLogger(__name__)
PATIENCE_S = 5.0  # for which requests of models in memory go before one that waits for room


@dataclass(frozen=True, slots=True)
class Applications:
    """What one model answers: ASGI applications by path, and its metrics as Prometheus reads them."""

    by_path: dict[str, ASGIApp]
    metrics: Callable[[], bytes]


@dataclass(eq=False)
class PooledModel:
    """One model. `nbytes`: of memory that it takes when it is loaded, weights and cache. `load` blocks."""

    facts: ModelFacts
    nbytes: int
    load: Callable[[], AsyncLLM]
    service: Service | None = None
    applications: Applications | None = None  # while it is loaded
    users: int = 0  # requests
    used: float = 0.0  # when the last one ended
    busy: bool = False  # it is being loaded, or let go of
    loads: int = 0  # how often it was loaded


@dataclass(eq=False)
class _Waiting:
    model: PooledModel
    since: float
    error: Exception | None = None


class ModelPool:
    """Models within `memory` bytes together; all calls come on the event loop.

    A request waits until its model is loaded. What was used longest ago goes first, and only while nobody uses it. One
    that has waited for room for some seconds goes before all that come later, so that models in use don't keep others
    out for ever. Raises ConfigError for a model that doesn't fit alone, or for names that stand for two.
    """

    def __init__(
        self,
        models: Sequence[PooledModel],
        memory: int,
        *,
        limits: RequestLimits,
        applications: Callable[[Service], Applications],
        report: Callable[[str], None] = lambda line: None,
        parsers: tuple[str, str] = ("auto", "auto"),  # Service's tool_parser and reasoning_parser
        receipts: Callable[[AsyncLLM], ReceiptIssuer] | None = None,  # what makes those of a model; reads its files
    ) -> None:
        self.models = {model.facts.name: model for model in models}
        if len(self.models) != len(models):
            raise ConfigError("two models have the same name: give each another, as NAME=MODEL")
        for model in models:
            if model.nbytes > memory:
                raise ConfigError(
                    f"{model.facts.name} needs about {_mib(model.nbytes)}, more than the {_mib(memory)} of --memory"
                )
        self.memory, self.limits = memory, limits
        self.started = int(time.time())
        self.hub = Hub()
        self.readiness = Readiness(None)
        self.stopping = False
        self._applications, self._report = applications, report
        self._parsers, self._receipts = parsers, receipts
        self._changed = asyncio.Condition()
        self._line: list[_Waiting] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def served(self) -> list[ModelFacts]:
        """See Catalogue."""
        return [model.facts for model in self.models.values()]

    def loaded(self) -> list[str]:
        """See Catalogue."""
        return [name for name, model in self.models.items() if model.service is not None]

    def mode_of(self, name: str) -> str:
        """See Catalogue."""
        return "local"

    def named(self, name: str | None) -> PooledModel:
        """A model by the name that a request uses, the first without one. Raises ApiError 404."""
        if name is None:
            return next(iter(self.models.values()))
        found = self.models.get(name) or self.models.get(name.removesuffix(":latest"))
        if found is None:
            shown = name if len(name) <= 100 else name[:97] + "..."
            text = f"the model {shown!r} isn't served here; this server has {', '.join(self.models)}"
            raise ApiError(404, text, code="model_not_found", param="model")
        return found

    @property
    def services(self) -> list[Service]:
        """Those of the models in memory, the one first that was used last."""
        loaded = [model for model in self.models.values() if model.service is not None]
        loaded.sort(key=lambda model: (model.users > 0, model.used), reverse=True)
        return [model.service for model in loaded if model.service is not None]

    @property
    def running(self) -> dict[str, RunningRequest]:
        """Requests that run, of all models."""
        return {name: one for service in self.services for name, one in service.running.items()}

    def check_open(self) -> None:
        """Raises ApiError 503 while the server stops."""
        if self.stopping:
            raise ApiError(503, "the server is being stopped", kind="server_error", headers={"connection": "close"})

    def refused(self, status: int) -> None:
        """A request was answered with an error."""
        for service in self.services[:1]:
            service.refused(status)

    @contextlib.asynccontextmanager
    async def lease(self, model: PooledModel) -> AsyncIterator[Applications]:
        """The applications of a model, which stays in memory meanwhile; waits until it is loaded.

        Raises ApiError 429 where too many wait, 503 for one that can't be loaded, 504 after the time of a request.
        """
        await self._acquire(model)
        try:
            assert model.applications is not None
            yield model.applications
        finally:
            model.users -= 1
            model.used = time.monotonic()
            await self._wake()

    def preload(self, model: PooledModel) -> None:
        """Loads a model before the server listens; blocks. Raises what its `load` raises."""
        self._take_in(model, *self._loaded(model))

    def _loaded(self, model: PooledModel) -> tuple[AsyncLLM, ReceiptIssuer | None]:
        """Blocks."""
        llm = model.load()
        try:
            return llm, None if self._receipts is None else self._receipts(llm)
        except BaseException:
            llm.close()
            raise

    def _take_in(self, model: PooledModel, llm: AsyncLLM, receipts: ReceiptIssuer | None) -> None:
        tools, reasoning = self._parsers
        model.service = Service(
            llm,
            names=(model.facts.name,),
            limits=self.limits,
            tool_parser=tools,
            reasoning_parser=reasoning,
            receipts=receipts,
        )
        model.service.hub = self.hub
        model.applications = self._applications(model.service)
        model.loads += 1
        model.used = time.monotonic()

    async def _acquire(self, model: PooledModel) -> None:
        if len(self._line) >= self.limits.queue + len(self.models):
            text = f"the server is busy: {len(self._line)} requests wait for models to be loaded; try again soon"
            raise ApiError(429, text, kind="rate_limit_error", code="rate_limit_exceeded", headers={"retry-after": "1"})
        waiting = _Waiting(model, time.monotonic())
        try:
            async with asyncio.timeout(self.limits.request_s), self._changed:
                self._line.append(waiting)
                try:
                    await self._changed.wait_for(lambda: self._turn(waiting))
                finally:
                    self._line.remove(waiting)
                    self._changed.notify_all()  # who is behind may go before now
                if waiting.error is None:
                    model.users += 1
        except TimeoutError:
            text = f"{model.facts.name} couldn't be loaded within {self.limits.request_s:g} s"
            raise ApiError(504, text, kind="timeout", headers=NO_RETRY) from None
        if waiting.error is not None:
            log.error("%s can't be loaded: %s", model.facts.name, waiting.error)
            text = f"the model {model.facts.name!r} can't be loaded; the server's log says why"
            raise ApiError(503, text, kind="server_error", headers=NO_RETRY)

    def _turn(self, waiting: _Waiting) -> bool:
        """Whether it has what it waits for, or can't get it. Begins what has to be done for it."""
        if waiting.error is not None:
            return True
        self.check_open()
        model = waiting.model
        if model.service is not None and not model.busy:
            before = self._line[: self._line.index(waiting)]
            return not any(one.model.service is None and waiting.since - one.since > PATIENCE_S for one in before)
        others = (one for one in self._line if one.model.service is None and not one.model.busy)
        if not model.busy and next(others, None) is waiting:
            self._make_room(model)
        return False

    def _make_room(self, model: PooledModel) -> None:
        """Begins to load it if it fits, or to let go of what was used longest ago."""
        there = [one for one in self.models.values() if one.service is not None or one.busy]
        if sum(one.nbytes for one in there) + model.nbytes <= self.memory:
            self._begin(model, self._load(model))
            return
        idle = [one for one in there if one.users == 0 and not one.busy]
        going = sum(one.nbytes for one in there if one.busy and one.service is not None)
        excess = sum(one.nbytes for one in there) + model.nbytes - self.memory - going
        for victim in sorted(idle, key=lambda one: one.used):
            if excess <= 0:
                return
            excess -= victim.nbytes
            self._begin(victim, self._unload(victim))

    def _begin(self, model: PooledModel, work: Coroutine[Any, Any, None]) -> None:
        model.busy = True
        self._keep(asyncio.create_task(work))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load(self, model: PooledModel) -> None:
        began, name = time.monotonic(), model.facts.name
        error: Exception | None = None
        try:
            self._take_in(model, *await asyncio.to_thread(self._loaded, model))
            self._report(f"loaded {name} in {time.monotonic() - began:.1f} s")
        except (CutsetError, OSError, MemoryError) as failure:
            error = failure
        except Exception as failure:
            log.exception("%s can't be loaded", name)
            error = failure
        await self._done(model, error)

    async def _unload(self, model: PooledModel) -> None:
        service = model.service
        assert service is not None
        service.stop()
        service.close()
        model.applications = None
        try:
            await asyncio.to_thread(service.llm.close)
        finally:
            model.service = None
            del service
            gc.collect()
            self._report(f"let go of {model.facts.name}")
            await self._done(model, None)

    async def _done(self, model: PooledModel, error: Exception | None) -> None:
        model.busy = False
        async with self._changed:
            if error is not None:
                for waiting in self._line:
                    if waiting.model is model:
                        waiting.error = error
            self._changed.notify_all()

    def stop(self) -> None:
        """From now on requests are refused; those that run go on."""
        self.stopping = True
        for service in self.services:
            service.stop()
        with contextlib.suppress(RuntimeError):  # no loop runs, so nobody waits
            self._keep(asyncio.get_running_loop().create_task(self._wake()))

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Ends what still runs, with an error to its clients."""
        for service in self.services:
            service.close()

    def close_models(self) -> None:
        """Lets go of all models, after the server has stopped."""
        for service in self.services:
            service.llm.close()


def _mib(nbytes: int) -> str:
    return f"{nbytes / (1 << 20):,.0f} MiB"
