"""One API request while it runs: its prompts in the engine, and what they bring."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cutset.engine.handle import RequestHandle
from cutset.engine.outputs import Delta, Usage, joined
from cutset.engine.params import SamplingParams
from cutset.llm import AsyncLLM
from cutset.serve.api_errors import NO_RETRY, ApiError
from cutset.serve.mailbox import Mailbox
from cutset.serve.watch import Watch

__all__ = ["RunningRequest"]

MOST_TAKEN = 128  # pieces: a connection's buffer gets no larger than what they become


@dataclass(slots=True)
class _Piece:
    """What wasn't read yet: part of a sample of prompt `number`, and about how much memory it takes."""

    number: int
    delta: Delta
    nbytes: int


def _nbytes(delta: Delta) -> int:
    found = 400 + len(delta.text)
    return found + sum(200 + 120 * len(one.top) for one in delta.logprobs or ())


class RunningRequest:
    """The prompts of one request, run together. Leave it as a context, and what still runs gives its blocks back.

    Raises RequestError or ContextLengthError if one of the prompts can't be run; then none is.
    """

    def __init__(
        self,
        llm: AsyncLLM,
        mailbox: Mailbox,
        prompts: Sequence[NDArray[np.int32]],
        params: SamplingParams,
        salt: str | None = None,
        watches: Sequence[Watch] = (),
        most_unread: int | None = None,  # bytes of memory; None: nobody can read yet
        adapter: str | None = None,
        *,
        background: bool = False,  # all other requests go before it
    ) -> None:
        self.started = time.perf_counter()
        self.prompt_tokens = sum(len(ids) for ids in prompts)
        self.samples = len(prompts) * params.n
        self._watches, self._most_unread = watches, most_unread
        self._last: dict[tuple[int, int], float] = {}  # when each sample got its last token
        self._waiter: asyncio.Future[None] | None = None  # of whoever waits for the next piece
        self._pieces: deque[_Piece] = deque()
        self._newest: dict[tuple[int, int], _Piece] = {}  # of each sample, if it hasn't been taken
        self._unread = 0  # bytes of memory
        self._left = len(prompts)
        self._handles: list[RequestHandle] = []
        self._usages: list[Usage] = []
        self._error: Exception | None = None
        self.tokens = 0  # generated so far
        self.first_token: float | None = None  # when the first one came
        for ids in prompts:
            llm.check(ids, params)
        try:
            for number, ids in enumerate(prompts):
                handle = llm.submit(
                    ids,
                    params,
                    on_delta=partial(self._receive, number),
                    cache_salt=salt,
                    adapter=adapter,
                    background=background,
                    deliver=mailbox.put,
                    whole=most_unread is None and params.logprobs is None,  # else each token is told apart
                )
                self._handles.append(handle)
        except BaseException:
            self.cancel()
            raise

    @property
    def usage(self) -> Usage:
        """Of all prompts that have ended."""
        return Usage(
            sum(one.prompt_tokens for one in self._usages),
            sum(one.completion_tokens for one in self._usages),
            sum(one.cached_tokens for one in self._usages),
        )

    async def pieces(self) -> AsyncIterator[list[tuple[int, Delta]]]:
        """What has come since the last time, with the number of its prompt; whoever is slow gets more at once, and
        several tokens in one piece.

        Raises the error that ended a prompt, or what `end` was given.
        """
        while self._left:
            if not self._pieces and self._error is None:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
            if self._error is not None:
                raise self._error
            some = self._take()
            for _, delta in some:
                if delta.error is not None:
                    raise delta.error
                if delta.finished:
                    self._left -= 1
                    if delta.usage is not None:
                        self._usages.append(delta.usage)
            if not self._left:
                for watch in self._watches:
                    watch.request_ended(time.perf_counter() - self.started, self.prompt_tokens, self.tokens)
            yield some

    def end(self, error: Exception) -> None:
        """Has `pieces` raise `error` next: the client has left, or may not have more."""
        self._error = self._error or error
        self._pieces.clear()
        self._newest.clear()
        self._wake()
        self.cancel()

    def __enter__(self) -> RunningRequest:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Ends what still runs. Never blocks."""
        for handle in self._handles:
            handle.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _take(self) -> list[tuple[int, Delta]]:
        """The oldest pieces, not more than are soon sent."""
        some: list[tuple[int, Delta]] = []
        while self._pieces and len(some) < MOST_TAKEN:
            piece = self._pieces.popleft()
            some.append((piece.number, piece.delta))
            self._unread -= piece.nbytes
            if self._newest.get((piece.number, piece.delta.index)) is piece:
                del self._newest[piece.number, piece.delta.index]
        return some

    def _keep(self, number: int, delta: Delta) -> None:
        before = self._newest.get((number, delta.index))
        scored = delta.logprobs is not None or (before is not None and before.delta.logprobs is not None)
        if before is not None and not scored and len(self._pieces) >= MOST_TAKEN:
            before.delta = joined([before.delta, delta])
            before.nbytes += len(delta.text)
            self._unread += len(delta.text)
        else:
            piece = self._newest[number, delta.index] = _Piece(number, delta, _nbytes(delta))
            self._pieces.append(piece)
            self._unread += piece.nbytes
        if self._most_unread is not None and self._unread > self._most_unread:
            self.end(
                ApiError(
                    408,
                    f"the client has left {self._unread} bytes of the answer unread, more than the {self._most_unread} "
                    "that are kept: read faster, or ask for less at once",
                    headers=NO_RETRY,
                )
            )

    def _receive(self, number: int, delta: Delta) -> None:
        if self._error is None:
            self._keep(number, delta)
        # An answer that is read when it is whole waits for its end, or until there is much of it.
        if self._most_unread is not None or delta.finished or len(self._pieces) >= MOST_TAKEN:
            self._wake()
        if delta.token_ids:
            count = len(delta.token_ids)
            self.tokens += count
            now, sample = time.perf_counter(), (number, delta.index)
            self.first_token = self.first_token or now
            before = self._last.get(sample)
            self._last[sample] = now
            for watch in self._watches:
                if before is None:
                    watch.token(now - self.started, first=True)
                    if count > 1:
                        watch.token(0.0, first=False, count=count - 1)
                else:
                    watch.token((now - before) / count, first=False, count=count)
        if delta.error is not None:
            for watch in self._watches:
                watch.request_failed(delta.error)
        if delta.finish_reason is not None:
            for watch in self._watches:
                watch.sample_ended(delta.finish_reason)
