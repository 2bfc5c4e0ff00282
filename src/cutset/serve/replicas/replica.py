"""A replica: runs what one front hands in, and sends back what comes of it."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.engine.delivery import Letter
from cutset.engine.embedding import EmbeddingJob
from cutset.engine.handle import RequestHandle
from cutset.engine.outputs import Delta
from cutset.errors import CutsetError, FrameError, HandshakeError
from cutset.link import Link, Listener
from cutset.link.keys import Keys
from cutset.link.peer import Binding, Hello, is_hello, refusal
from cutset.llm import AsyncLLM
from cutset.models.files.fingerprint import fingerprint
from cutset.models.files.source import open_source
from cutset.serve.replicas.replica_messages import (
    BEAT,
    REPLICA_HANDSHAKE,
    CancelRequest,
    EmbedTexts,
    ReplicaBeat,
    ReplicaFacts,
    ReplicaPieces,
    SubmitRequest,
    TextVectors,
    WireDelta,
    failure_of,
    ids_from,
    pack,
    params_from,
    read_from_front,
    wire_delta,
)

__all__ = ["Replica", "facts_of_replica"]

log = logging.getLogger(__name__)
TURN = 0.2  # seconds that a wait for a frame takes at most
PATIENCE = 10.0  # seconds for which a front may take nothing
MOST_PIECES = 4096  # in one message


def facts_of_replica(llm: AsyncLLM) -> ReplicaFacts:
    """What a replica of this model says of itself."""
    choice, settings = llm.choice, llm.settings
    return ReplicaFacts(
        model=fingerprint(open_source(llm.directory, settings.verify).tensors),
        backend=choice.backend,
        dtype=choice.dtype,
        device=choice.device,
        threads=choice.threads,
        context=llm.context,
        cache_tokens=llm.cache_tokens,
        slots=settings.max_num_seqs,
        blocks=llm.stats().blocks,
        adapters=list(llm.adapters),
    )


class _Outbox:
    """What goes to the front of one link: engine and heartbeats put it in, a thread of its own sends it."""

    def __init__(self, link: Link, llm: AsyncLLM) -> None:
        self.link, self._llm = link, llm
        self.broken = ""
        self._queue: queue.SimpleQueue[list[WireDelta] | TextVectors | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="cutset-replica-send", daemon=True)

    def start(self, facts: ReplicaFacts) -> None:
        """Says what this replica is, and sends from now on."""
        pack(self.link, facts, PATIENCE)
        self._thread.start()

    def put(self, found: list[WireDelta] | TextVectors) -> None:
        """What a step has brought, or vectors. Any thread may call it; never blocks."""
        self._queue.put(found)

    def close(self) -> None:
        """Sends no more."""
        self.broken = self.broken or "the link is over"
        self._queue.put(None)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(PATIENCE)

    def _run(self) -> None:
        try:
            beat = 0.0
            while not self.broken:
                pieces, vectors = self._taken(max(0.0, beat + BEAT - time.monotonic()))
                stats, now = self._llm.stats(), time.monotonic()
                if pieces:
                    pack(self.link, ReplicaPieces(pieces, stats), PATIENCE)
                elif vectors or now - beat >= BEAT:
                    pack(self.link, ReplicaBeat(stats), PATIENCE)
                else:
                    continue
                beat = now
                for one in vectors:
                    pack(self.link, one, PATIENCE)
        except CutsetError as error:
            self.broken = self.broken or str(error)

    def _taken(self, wait: float) -> tuple[list[WireDelta], list[TextVectors]]:
        """All that is there."""
        pieces: list[WireDelta] = []
        vectors: list[TextVectors] = []
        with contextlib.suppress(queue.Empty):
            one = self._queue.get(timeout=wait)
            while one is not None:
                if isinstance(one, TextVectors):
                    vectors.append(one)
                else:
                    pieces += one
                if len(pieces) >= MOST_PIECES:
                    break
                one = self._queue.get_nowait()
        return pieces, vectors


class _Serving:
    """One front's requests."""

    def __init__(self, link: Link, llm: AsyncLLM) -> None:
        self.outbox = _Outbox(link, llm)
        self._llm = llm
        self._lock = threading.Lock()
        self._running: dict[int, RequestHandle | EmbeddingJob | None] = {}  # None: it is being made ready
        self._cancelled: set[int] = set()  # of these
        # A new grammar takes a while to compile: nothing else waits for that.
        self._compiling = ThreadPoolExecutor(2, "cutset-replica-compile")

    def take(self, message: SubmitRequest | EmbedTexts | CancelRequest) -> None:
        """Does what the front asks. Raises FrameError for a number that is in use."""
        if isinstance(message, CancelRequest):
            self._cancel(message.number)
            return
        with self._lock:
            if message.number in self._running:
                raise FrameError(f"the number {message.number} is in use")
            self._running[message.number] = None
        if isinstance(message, EmbedTexts):
            self._embed(message)
        elif any(message.params.get(name) for name in ("structured_outputs", "bad_words")):
            self._compiling.submit(self._submit, message)
        else:
            self._submit(message)

    def close(self) -> None:
        """The front has gone: what runs for it ends."""
        self._compiling.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            running = list(self._running)
        for number in running:
            self._cancel(number)
        self.outbox.close()

    def _submit(self, message: SubmitRequest) -> None:
        number = message.number
        try:
            handle = self._llm.submit(
                ids_from(message.ids),
                params_from(message.params),
                on_delta=partial(self._piece, number),
                cache_salt=message.salt,
                adapter=message.adapter,
                background=message.background,
                deliver=self._deliver,
                whole=message.whole,
                resumption=None if message.resumed is None else message.resumed.resumption(),
            )
        except Exception as error:
            if not isinstance(error, CutsetError):
                log.exception("a request couldn't be handed in")
            self._forget(number)
            failed = WireDelta(number, 0, finish_reason="abort", finished=True, error=failure_of(error))
            self.outbox.put([failed])
            return
        self._keep(number, handle)

    def _embed(self, message: EmbedTexts) -> None:
        number = message.number

        def done(result: NDArray[np.float32] | Exception) -> None:
            self._forget(number)
            if isinstance(result, Exception):
                self.outbox.put(TextVectors(number, 0, b"", failure_of(result)))
            else:
                self.outbox.put(TextVectors(number, result.shape[1], result.astype("<f4").tobytes()))

        try:
            own = self._llm.adapter(message.adapter)
            embeddings = self._llm.embeddings
            sequences = [embeddings.encode(ids_from(one)) for one in message.sequences]
            job = embeddings.submit(sequences, done, pooling=message.pooling, adapter=own)
        except CutsetError as error:
            done(error)
            return
        self._keep(number, job)

    def _keep(self, number: int, running: RequestHandle | EmbeddingJob) -> None:
        with self._lock:
            if number in self._running:  # else it has ended meanwhile
                self._running[number] = running
            cancelled = number in self._cancelled
        if cancelled:
            running.cancel()

    def _cancel(self, number: int) -> None:
        with self._lock:
            running = self._running.get(number)
            if number in self._running:
                self._cancelled.add(number)
            if isinstance(running, EmbeddingJob):  # it says no more
                self._running.pop(number)
                self._cancelled.discard(number)
        if running is not None:
            running.cancel()

    def _forget(self, number: int) -> None:
        with self._lock:
            self._running.pop(number, None)
            self._cancelled.discard(number)

    def _deliver(self, letters: list[Letter]) -> None:
        """What a step has brought; from the engine's thread."""
        made = [receive(delta) for receive, delta in letters]
        if pieces := [one for one in made if isinstance(one, WireDelta)]:
            self.outbox.put(pieces)

    def _piece(self, number: int, delta: Delta) -> WireDelta | None:
        """A delta as it is sent, or None for one that isn't."""
        if delta.error is not None and not self._llm.alive:
            self.outbox.broken = "the engine has ended"  # another replica may go on with it
            return None
        if delta.finished:
            self._forget(number)
        return wire_delta(number, delta)


class Replica:
    """Serves one front at a time, and the next when that has gone. It ends by itself when its engine has ended, so that
    whoever started it starts another."""

    def __init__(
        self,
        llm: AsyncLLM,
        listener: Listener,
        keys: Keys | None = None,
        report: Callable[[str], None] = lambda line: None,
        *,
        prove: Callable[[Binding], bytes] | None = None,  # makes evidence for a front that asks, see Handshake
    ) -> None:
        self.llm, self.listener, self._report = llm, listener, report
        self.facts = facts_of_replica(llm)
        self._handshake = replace(REPLICA_HANDSHAKE, model=self.facts.model, prove=prove).with_keys(keys)
        self._serving: _Serving | None = None

    def serve(self, stopped: Callable[[], bool]) -> None:
        """Until `stopped()`, which is asked at least every 200 ms, or the engine's end."""
        while not stopped() and self.llm.alive:
            got = self.listener.recv(TURN)
            self._look()
            if got is not None:
                self._take(*got)

    def close(self) -> None:
        """Ends what runs, and stops listening."""
        self._end("this replica stops")
        self.listener.close()

    def _look(self) -> None:
        gone, serving = self.listener.gone(), self._serving  # also without a front: keys may have been revoked
        if serving is None:
            return
        if serving.outbox.link in gone:
            self._end("the front has gone")
        elif serving.outbox.broken:
            self._end(serving.outbox.broken)

    def _take(self, link: Link, frame: Any) -> None:
        try:
            if is_hello(frame.header):
                self._greet(link, self._handshake.accept(link, frame.header))
            elif self._serving is None or self._serving.outbox.link is not link:
                raise FrameError("say hello first")
            else:
                self._serving.take(read_from_front(frame))
        except CutsetError as error:
            self._report(f"refused: {error}")
            with contextlib.suppress(CutsetError):
                link.send(refusal(frame.header, str(error)), timeout=0.2)
            if self._serving is not None and self._serving.outbox.link is link:
                self._end(str(error))
            link.close()
        finally:
            frame.release()

    def _greet(self, link: Link, hello: Hello) -> None:
        if self._serving is not None:
            raise HandshakeError("this replica serves another front: start another replica for this one")
        link.send(self._handshake.welcome(link, hello), timeout=PATIENCE)
        serving = _Serving(link, self.llm)
        serving.outbox.start(self.facts)
        self._serving = serving
        self._report("a front is here")

    def _end(self, why: str) -> None:
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.close()
            serving.outbox.link.close()
            self._report(f"a front's requests end: {why}")
