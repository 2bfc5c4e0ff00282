"""LLM and AsyncLLM: a model directory becomes something that answers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from cutset.engine.delivery import Deliver
from cutset.engine.embedding import unit_vectors
from cutset.engine.handle import RequestHandle
from cutset.engine.outputs import Delta, RequestOutput, collect
from cutset.engine.params import SamplingParams
from cutset.engine.resumption import Resumption
from cutset.errors import RequestError
from cutset.loaded_model import LoadedModel, Message, Prompt
from cutset.models.pooling import Pooling

__all__ = ["LLM", "AsyncLLM", "Prompt"]

_Timed = TypeVar("_Timed", Delta, RequestOutput)


class LLM(LoadedModel):
    """A model on this machine.

        with LLM("story") as llm:
            for piece in llm.stream("Once upon a time", SamplingParams(max_tokens=64)):
                print(piece.text, end="")

    `model` is a directory in Hugging Face layout, a name from models.yaml, `story` (the bundled one), or a hub id when
    downloads are allowed. The keywords are the settings that `cutset config` lists (backend, dtype, device, threads,
    cache_mib, max_model_len, offload, mode, …), each over its CUTSET_ variable, cutset.toml and its default; or give
    all of them at once as `settings`.

    Raises ModelError, ConfigError or DeviceError for a model that can't be loaded so.
    """

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        adapter: str | Sequence[str | None] | None = None,
    ) -> list[RequestOutput]:
        """Continues all prompts together; outputs in their order. `params` and `adapter` are for all, or one each."""
        wanted = _as_prompts(prompts)
        each = list(params) if isinstance(params, Sequence) else [params or SamplingParams()] * len(wanted)
        if len(each) != len(wanted):
            raise RequestError(f"{len(each)} sampling parameters for {len(wanted)} prompts: give one, or one each")
        each = [self.params(one) for one in each]
        names = [adapter] * len(wanted) if adapter is None or isinstance(adapter, str) else list(adapter)
        if len(names) != len(wanted):
            raise RequestError(f"{len(names)} adapters for {len(wanted)} prompts: give one, or one each")
        adapters = [self.adapter(name) for name in names]
        encoded = [self.encode(prompt) for prompt in wanted]
        for ids, one in zip(encoded, each, strict=True):
            self._engine.check(ids, one)  # before any of them starts
        handles: list[RequestHandle] = []
        try:
            for prompt, ids, one, own in zip(wanted, encoded, each, adapters, strict=True):
                text = prompt if isinstance(prompt, str) else None
                handles.append(self._loop.submit(ids, one, prompt_text=text, adapter=own))
            return [self._result(handle) for handle in handles]
        finally:
            for handle in handles:  # those that an error or Ctrl-C left running
                handle.cancel()

    def embed(
        self,
        texts: Prompt | Sequence[Prompt],
        *,
        pooling: Pooling | None = None,
        dimensions: int | None = None,
        normalise: bool = True,
        adapter: str | None = None,
    ) -> NDArray[np.float32]:
        """One vector for each text, (texts, dimensions): the last token's hidden state after the final norm, the mean
        of all or the first one's, as `pooling` or the model's files say; the first `dimensions` of it, of length 1.

        A vector depends on its own text alone. Raises RequestError, or ContextLengthError, for what can't be embedded.
        """
        sequences = [self.embeddings.encode(text) for text in _as_prompts(texts)]
        if not sequences:
            return np.empty((0, dimensions or self.spec.hidden), dtype=np.float32)
        found = self.embeddings.vectors(sequences, pooling=pooling, adapter=self.adapter(adapter))
        return unit_vectors(found, dimensions, normalise=normalise)

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, *, adapter: str | None = None
    ) -> Iterator[Delta]:
        """Continues one prompt, piece by piece. Leaving the loop cancels the rest."""
        return self._stream(self.encode(prompt), params, adapter)

    def chat(
        self, messages: Sequence[Message], params: SamplingParams | None = None, *, adapter: str | None = None
    ) -> RequestOutput:
        """Answers a conversation: a list of {"role": …, "content": …}."""
        own = self.adapter(adapter)
        return self._result(self._loop.submit(self.encode_chat(messages), self.params(params), adapter=own))

    def stream_chat(
        self, messages: Sequence[Message], params: SamplingParams | None = None, *, adapter: str | None = None
    ) -> Iterator[Delta]:
        """Answers a conversation, piece by piece."""
        return self._stream(self.encode_chat(messages), params, adapter)

    def _stream(self, ids: NDArray[np.int32], params: SamplingParams | None, adapter: str | None) -> Iterator[Delta]:
        own = self.adapter(adapter)
        handle = self._loop.submit(ids, self.params(params), adapter=own)  # errors come here, not at the first piece

        def pieces() -> Iterator[Delta]:
            with handle:
                for delta in handle:
                    yield _with_load_time(delta, self.load_s)

        return pieces()

    def _result(self, handle: RequestHandle) -> RequestOutput:
        return _with_load_time(handle.result(), self.load_s)


class AsyncLLM(LoadedModel):
    """The same for asyncio: its engine runs in a thread of its own, and no call blocks the event loop for long.

    Loading blocks; construct it before the loop serves anyone, or in a thread.
    """

    async def __aenter__(self) -> AsyncLLM:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        import asyncio  # takes 40 ms to import, a fifth of the way to a first token, and only this class needs it

        await asyncio.to_thread(self.close)

    async def generate(
        self, prompt: Prompt, params: SamplingParams | None = None, *, adapter: str | None = None
    ) -> RequestOutput:
        """Continues one prompt. Run several at once with asyncio.gather: they share batches."""
        ids = await self._elsewhere(lambda: self.encode(prompt), params)
        return await self._collected(ids, params, adapter, prompt if isinstance(prompt, str) else None)

    async def chat(
        self, messages: Sequence[Message], params: SamplingParams | None = None, *, adapter: str | None = None
    ) -> RequestOutput:
        """Answers a conversation."""
        ids = await self._elsewhere(lambda: self.encode_chat(messages), params)
        return await self._collected(ids, params, adapter, None)

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, *, adapter: str | None = None
    ) -> AsyncIterator[Delta]:
        """Continues one prompt, piece by piece. Closing the iterator, or cancelling its task, cancels the rest.

        What is wrong with the prompt is raised at the first piece."""
        return self._stream(lambda: self.encode(prompt), params, adapter)

    def stream_chat(
        self, messages: Sequence[Message], params: SamplingParams | None = None, *, adapter: str | None = None
    ) -> AsyncIterator[Delta]:
        """Answers a conversation, piece by piece."""
        return self._stream(lambda: self.encode_chat(messages), params, adapter)

    def submit(
        self,
        ids: NDArray[np.int32],  # (tokens,)
        params: SamplingParams | None = None,
        *,
        on_delta: Callable[[Delta], object],
        cache_salt: str | None = None,
        adapter: str | None = None,
        background: bool = False,  # all other requests go before it
        deliver: Deliver | None = None,
        whole: bool = False,
        resumption: Resumption | None = None,
    ) -> RequestHandle:
        """Hands in a prompt; the engine's thread calls `on_delta`, which must not block, with each piece of the answer.

        For servers that wait for many answers at once. The handle cancels. With `deliver`, that is called instead, once
        a step with the pieces of all requests that share it; with `whole` pieces may come late, several tokens in one.
        Only requests of the same `cache_salt` share what is cached. With a `resumption` the answer goes on that another
        engine has begun.
        Raises RequestError at once for a prompt that can't be run, EngineError if the engine stopped.
        """
        return self._loop.submit(
            ids,
            self.params(params),
            on_delta=on_delta,
            cache_salt=cache_salt,
            adapter=self.adapter(adapter),
            background=background,
            deliver=deliver,
            whole=whole,
            resumption=resumption,
        )

    async def _elsewhere(
        self, encode: Callable[[], NDArray[np.int32]], params: SamplingParams | None
    ) -> NDArray[np.int32]:
        """In a thread: a long text takes a while, a chat waits for the process that renders it, and a grammar that is
        new is compiled."""
        import asyncio

        def ready() -> NDArray[np.int32]:
            self.prepare(params)
            return encode()

        return await asyncio.to_thread(ready)

    async def _collected(
        self, ids: NDArray[np.int32], params: SamplingParams | None, adapter: str | None, prompt: str | None
    ) -> RequestOutput:
        deltas = [delta async for delta in self._pieces(ids, params, adapter)]
        return collect(deltas[0].request_id, deltas, prompt=prompt, prompt_token_ids=ids.tolist())

    async def _stream(
        self, encode: Callable[[], NDArray[np.int32]], params: SamplingParams | None, adapter: str | None
    ) -> AsyncIterator[Delta]:
        async with contextlib.aclosing(self._pieces(await self._elsewhere(encode, params), params, adapter)) as pieces:
            async for delta in pieces:
                yield delta

    async def _pieces(
        self, ids: NDArray[np.int32], params: SamplingParams | None, adapter: str | None
    ) -> AsyncGenerator[Delta]:
        import asyncio

        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Delta] = asyncio.Queue()

        def receive(delta: Delta) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop has closed, so nobody waits any more
                loop.call_soon_threadsafe(pieces.put_nowait, delta)

        handle = self.submit(ids, params, on_delta=receive, adapter=adapter)
        try:
            while True:
                delta = await pieces.get()
                if delta.error is not None:
                    raise delta.error
                yield _with_load_time(delta, self.load_s)
                if delta.finished:
                    return
        finally:
            handle.cancel()


def _as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or several, as several: a list of numbers is one."""
    if isinstance(prompts, str) or (isinstance(prompts, np.ndarray) and prompts.ndim == 1):
        return [prompts]
    several = list(prompts)
    if several and not isinstance(several[0], str | Sequence | np.ndarray):
        return [cast(Prompt, prompts)]
    return cast(list[Prompt], several)


def _with_load_time(output: _Timed, load_s: float) -> _Timed:
    """The engine's output, with the one time that it can't know."""
    return output if output.timings is None else replace(output, timings=replace(output.timings, load_s=load_s))
