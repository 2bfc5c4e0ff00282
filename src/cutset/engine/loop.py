"""The one thread that owns an engine. Everyone else calls it through a queue."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cutset.engine.constraint import Restriction
from cutset.engine.delivery import Deliver, DeltaJoiner, deliver_each
from cutset.engine.embedding import EmbeddingJob
from cutset.engine.engine import Engine
from cutset.engine.handle import RequestHandle
from cutset.engine.outputs import Delta, EngineStats
from cutset.engine.params import SamplingParams
from cutset.engine.resumption import Resumption
from cutset.errors import EngineError, RequestError
from cutset.models.run.executor import LoadedAdapter

__all__ = ["EngineLoop"]

log = logging.getLogger(__name__)
FORKED = "The engine runs in the process that opened it, and this one was forked from it: open the model here."


@dataclass(frozen=True, slots=True, eq=False)
class _Ticket:
    """A request that was handed in. Its id may come again; the ticket doesn't."""

    request_id: str
    prompt_ids: NDArray[np.int32]
    params: SamplingParams
    cache_salt: str | None
    adapter: LoadedAdapter | None
    restriction: Restriction | None
    added: float
    background: bool
    receive: Callable[[Delta], object]
    deliver: Deliver | None
    joiner: DeltaJoiner | None
    resumption: Resumption | None


@dataclass(frozen=True, slots=True)
class _Command:
    what: Literal["add", "cancel", "embed", "close"]
    ticket: _Ticket | None = None
    job: EmbeddingJob | None = None


class EngineLoop:
    """Runs an engine in a thread of its own. Its methods may be called from any thread.

        with EngineLoop(engine) as loop:
            for delta in loop.submit(prompt_ids, SamplingParams(temperature=0)):
                print(delta.text, end="")

    The thread sleeps while there is nothing to do. If it dies, every request ends with an EngineError, and so does
    every later `submit`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # SimpleQueue.put may be called from a finaliser, whatever its thread holds at that moment.
        self._commands: SimpleQueue[_Command] = SimpleQueue()
        self._lock = threading.Lock()  # of the two below: who waits for an answer, and why nobody will get one
        self._tickets: dict[str, _Ticket] = {}
        self._ended: str | None = None
        self._numbers = count(1)
        self._stats = engine.stats()
        self._due: list[Delta] = []  # of the last step; they are delivered when the next one is on its way
        self._thread = threading.Thread(target=self._run, name="cutset-engine", daemon=True)
        self._thread.start()
        LOOPS.add(self)
        atexit.register(self.close, 10.0)  # a daemon thread inside native code must not outlive the interpreter

    def submit(
        self,
        prompt_ids: Any,  # (tokens,) a list or an array of whole numbers
        params: SamplingParams | None = None,
        *,
        background: bool = False,  # as in Engine.add
        request_id: str | None = None,  # None: one is made up
        prompt_text: str | None = None,  # only handed on to `RequestHandle.result`
        cache_salt: str | None = None,  # as in Engine.add
        adapter: LoadedAdapter | None = None,  # as in Engine.add
        on_delta: Callable[[Delta], object] | None = None,
        deliver: Deliver | None = None,
        whole: bool = False,
        resumption: Resumption | None = None,  # as in Engine.add
    ) -> RequestHandle:
        """Hands in a request. Raises RequestError at once if it can't be run, EngineError if the engine has stopped.

        With `on_delta`, the engine's thread calls it with each delta, and the handle only cancels. It must not block;
        an asyncio caller passes `lambda delta: loop.call_soon_threadsafe(queue.put_nowait, delta)`. If it raises, the
        request is cancelled. With `deliver`, that is called instead, once a step with the deltas of all requests that
        were handed in with it, each with its own `on_delta`. With `whole`, nobody reads the answer before its end: a
        delta may come a few milliseconds later, with several tokens.
        """
        params, added = params or SamplingParams(), self._engine.clock()
        restriction = self._engine.restriction(params)  # in the caller's thread: a new grammar takes a while
        ids = self._engine.check(prompt_ids, params, restriction)
        deltas: SimpleQueue[Delta | None] = SimpleQueue()
        receive = on_delta or deltas.put
        made_up = request_id is None
        with self._lock:
            if self._ended is not None:
                raise EngineError(self._ended)
            while request_id is None or (made_up and request_id in self._tickets):
                request_id = f"request-{next(self._numbers)}"
            if request_id in self._tickets:
                raise RequestError(f"The request id {request_id!r} is in use: give another.")
            receive = on_delta or deltas.put
            shared = cache_salt, adapter, restriction, added
            joiner = DeltaJoiner() if whole else None
            ticket = _Ticket(request_id, ids, params, *shared, background, receive, deliver, joiner, resumption)
            self._tickets[request_id] = ticket
            self._commands.put(_Command("add", ticket))
        cancel = partial(self._commands.put, _Command("cancel", ticket))
        return RequestHandle(request_id, ids, prompt_text, None if on_delta else deltas, cancel)

    def embed(self, job: EmbeddingJob) -> None:
        """Hands in sequences to embed, of 1 to `max_model_len` tokens each that the cache can hold. Raises EngineError
        if the engine has stopped."""
        with self._lock:
            if self._ended is not None:
                raise EngineError(self._ended)
            self._commands.put(_Command("embed", job=job))

    def stats(self) -> EngineStats:
        """How the engine stood after its last step."""
        return self._stats

    @property
    def alive(self) -> bool:
        """It takes requests."""
        return self._ended is None

    def close(self, timeout: float | None = None) -> None:
        """Ends the thread after the step it is in; requests that go on end with an EngineError. May be called twice.

        Waits for the thread, at most `timeout` seconds.
        """
        atexit.unregister(self.close)
        self._commands.put(_Command("close"))
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def __enter__(self) -> EngineLoop:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        try:
            while self._obey():
                self._due = self._engine.step(self._deliver_due)
                self._stats = self._engine.stats()
                if not self._engine.has_work:
                    self._deliver_due()
                    self._engine.rest()
        except BaseException as error:
            log.exception("the engine's thread stopped")
            self._deliver_due()
            self._stop(f"The engine stopped: {str(error).rstrip('.') or type(error).__name__}.", error)
        else:
            self._stop("The engine was closed.", None)

    def _obey(self) -> bool:
        """Carries out the commands that have come, waiting for one if there is nothing else to do. False to close."""
        while True:
            try:
                command = self._commands.get(block=not self._engine.has_work)
            except Empty:
                return True
            self._deliver_due()  # before what follows from a command
            ticket = command.ticket
            if command.job is not None:
                self._engine.embedding.add(command.job)
                continue
            if ticket is None:
                return False
            deltas: list[Delta] = []
            if command.what == "add":
                deltas = self._add(ticket)
            elif self._tickets.get(ticket.request_id) is ticket:
                deltas = self._engine.abort(ticket.request_id)
            self._stats = self._engine.stats()
            self._deliver(deltas)

    def _add(self, ticket: _Ticket) -> list[Delta]:
        try:
            self._engine.add(
                ticket.request_id,
                ticket.prompt_ids,
                ticket.params,
                background=ticket.background,
                cache_salt=ticket.cache_salt,
                adapter=ticket.adapter,
                restriction=ticket.restriction,
                added=ticket.added,
                resumption=ticket.resumption,
            )
        except Exception as error:  # it was checked before; what is wrong with it must not end the others
            shown = EngineError(f"Request {ticket.request_id!r} couldn't be added: {error}.")
            shown.__cause__ = error
            return [Delta(ticket.request_id, 0, finish_reason="abort", error=shown, finished=True)]
        return []

    def _deliver_due(self) -> None:
        due, self._due = self._due, []
        self._deliver(due)

    def _deliver(self, deltas: list[Delta]) -> None:
        parcels: dict[Deliver, list[tuple[_Ticket, Delta]]] = {}
        for delta in deltas:
            ticket = self._tickets.get(delta.request_id)
            if ticket is None:
                continue  # its receiver has raised
            if delta.finished:
                self._forget(ticket)  # first: who gets the last delta may hand in the same id again
            due = [(ticket, one) for one in self._due_of(ticket, delta)]
            if ticket.deliver is None:
                self._hand_over(due)
            else:
                parcels.setdefault(ticket.deliver, []).extend(due)
        for parcel in parcels.values():
            self._hand_over(parcel)

    def _due_of(self, ticket: _Ticket, delta: Delta) -> list[Delta]:
        return [delta] if ticket.joiner is None else ticket.joiner.take(delta, self._engine.clock())

    def _forget(self, ticket: _Ticket) -> None:
        with self._lock:
            del self._tickets[ticket.request_id]

    def _hand_over(self, parcel: list[tuple[_Ticket, Delta]]) -> None:
        """To whoever gets them: all by the same `deliver`, or of one ticket without. If that raises, their requests are
        cancelled."""
        deliver = parcel[0][0].deliver if parcel else None
        try:
            (deliver or deliver_each)([(ticket.receive, delta) for ticket, delta in parcel])
        except Exception:
            names = dict.fromkeys(ticket.request_id for ticket, _ in parcel)
            log.exception("on_delta of request %s raised; the request is cancelled", ", ".join(names))
            for ticket, _ in parcel:
                if self._tickets.get(ticket.request_id) is ticket:
                    self._forget(ticket)
                    self._engine.abort(ticket.request_id)

    def _stop(self, why: str, error: BaseException | None) -> None:
        with self._lock:
            self._ended = why
            tickets, self._tickets = list(self._tickets.values()), {}
            while not self._commands.empty():
                if (job := self._commands.get().job) is not None:
                    self._engine.embedding.add(job)
        ended = EngineError(why)
        ended.__cause__ = error
        self._engine.embedding.end(ended)
        for ticket in tickets:
            if error is None:
                self._engine.abort(ticket.request_id)
            shown = EngineError(why)  # one each: a raised exception keeps the traceback of its thread
            shown.__cause__ = error
            last = Delta(ticket.request_id, 0, finish_reason="abort", error=shown, finished=True)
            self._hand_over([(ticket, one) for one in self._due_of(ticket, last)])
        self._stats = self._engine.stats()

    def _forked(self) -> None:
        """In a child process, which has no thread of the engine: what waits for one would wait for ever."""
        self._lock = threading.Lock()  # the parent's may be held by a thread that isn't here
        self._commands = SimpleQueue()
        self._ended = FORKED
        tickets, self._tickets = list(self._tickets.values()), {}
        for ticket in tickets:
            if isinstance(getattr(ticket.receive, "__self__", None), SimpleQueue):  # callbacks are the parent's
                error = EngineError(FORKED)
                ticket.receive(Delta(ticket.request_id, 0, finish_reason="abort", error=error, finished=True))


LOOPS: weakref.WeakSet[EngineLoop] = weakref.WeakSet()


def _in_child() -> None:
    for loop in list(LOOPS):
        loop._forked()


os.register_at_fork(after_in_child=_in_child)
