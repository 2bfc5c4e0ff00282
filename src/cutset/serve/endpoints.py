"""`/v1/completions` and `/v1/chat/completions`: from the bytes of a request to those of its answer."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.types import Receive, Scope, Send

from cutset.engine.intake import truncated
from cutset.engine.outputs import Delta
from cutset.engine.params import SamplingParams
from cutset.errors import CutsetError
from cutset.receipts.issuer import OpenReceipt
from cutset.serve.answer_reader import ChatForm
from cutset.serve.answers import Answer, CompletionAnswer
from cutset.serve.api_errors import ApiError, as_api_error
from cutset.serve.chat_answer import ChatAnswer
from cutset.serve.prompt_scores import Echo, PromptReport, echo_of
from cutset.serve.replies import until_gone
from cutset.serve.request_limits import BACKGROUND, read_body
from cutset.serve.requests import ChatRequest, CompletionRequest, parse
from cutset.serve.running_request import RunningRequest
from cutset.serve.service import Service, salted

__all__ = ["ChatCompletions", "Completions"]

Prompts = list[NDArray[np.int32]]


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class _Endpoint(ABC):
    """An ASGI application: Starlette's own requests report too late that a client has left."""

    kind: type[CompletionRequest] | type[ChatRequest]
    default_tokens: int | None = None  # where a request doesn't say how many; None: to the end of the context

    def __init__(self, service: Service, *, cuts: bool = False) -> None:
        """`cuts`: an answer that doesn't fit ends with the context, rather than that it is refused."""
        self.service, self._cuts = service, cuts

    def read(self, body: bytes, client: str | None) -> Any:
        """The request of `client`, where there are keys. Raises ApiError."""
        return parse(body, self.kind)

    @abstractmethod
    def count(self, request: Any) -> int:
        """How many prompts a request has."""

    @abstractmethod
    async def prompts(self, request: Any) -> tuple[Prompts, ChatForm | None]:
        """The token ids of each, and how a chat's answers are read."""

    @abstractmethod
    def answer(self, request: Any, form: ChatForm | None, *args: Any) -> Answer:
        """An empty answer; `args` are Answer's."""

    async def report(self, request: Any, params: SamplingParams, prompts: Prompts) -> PromptReport:
        """What the answer says of its prompts."""
        return PromptReport(params.n, listed=request.prompt_logprobs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self.service
        service.check_open()
        body = await read_body(scope, receive, send, service.limits)
        if body is None:
            return
        request = self.read(body, scope.get("cutset.client"))
        model = service.check_model(request.model)
        params = request.sampling(self.default_tokens, service.llm.generation.values)
        background = bool(scope.get(BACKGROUND))
        with service.admission.admit(self.count(request) * params.n, background=background):  # prompts take time too
            found, form = await self.prompts(request)
            prompts = [truncated(ids, params, service.llm.max_model_len) for ids in found]
            params = await service.formed(params, form)
            if not self._cuts:
                self._check_room(prompts, request.limit())
            extra = {"cutset": {"mode": service.mode}}
            answer = self.answer(request, form, model, service.fingerprint, service.texts, extra)
            answer.report = await self.report(request, params, prompts)
            salt = salted(scope.get("cutset.client"), request.cache_salt)
            adapter = service.adapter(model)
            receipt = service.receipt(prompts, params, adapter) if request.cutset_receipt else None
            params = params if receipt is None else receipt.params
            running = service.generate(
                prompts, params, salt, stream=bool(request.stream), adapter=adapter, background=background
            )
            with running as generation, service.watching(answer.id, generation, model, background=background):
                await self._answer(request, params.n, generation, answer, receipt, receive, send)

    async def _answer(
        self,
        request: Any,
        n: int,
        generation: RunningRequest,
        answer: Answer,
        receipt: OpenReceipt | None,
        receive: Receive,
        send: Send,
    ) -> None:
        watcher = asyncio.create_task(_end_once_gone(receive, generation))
        try:
            if request.stream:
                wants_usage = bool(request.stream_options and request.stream_options.include_usage)
                await self._stream(generation, answer, n, wants_usage, receipt, send)
            else:
                await self._whole(generation, answer, n, receipt, send)
        except ClientGone:
            for watch in self.service.watches:
                watch.client_left()
        finally:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher

    def _check_room(self, prompts: Prompts, wanted: int | None) -> None:
        """Raises ApiError if a prompt and the tokens that were asked for are more than the context."""
        limit = self.service.llm.max_model_len
        longest = max(len(ids) for ids in prompts)
        if wanted is not None and longest < limit < longest + wanted:
            raise ApiError(
                400,
                f"this model's context is {limit} tokens, but {longest + wanted} were asked for ({longest} in the "
                f"prompt, {wanted} in the answer): shorten the prompt or the answer",
                code="context_length_exceeded",
            )

    async def _whole(
        self, generation: RunningRequest, answer: Answer, n: int, receipt: OpenReceipt | None, send: Send
    ) -> None:
        async for pieces in _noted(generation, receipt):
            for prompt, delta in pieces:
                answer.add(prompt * n + delta.index, delta)
        await self._attach(answer, receipt)
        body = await self.service.in_turn(16 * answer.scores, partial(answer.whole, generation.usage))
        size = (b"content-length", str(len(body)).encode())
        headers = self._headers(answer, (b"content-type", b"application/json"), size)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _attach(self, answer: Answer, receipt: OpenReceipt | None) -> None:
        if receipt is not None:
            answer.attach("cutset_receipt", await self.service.finished(receipt))

    async def _stream(
        self,
        generation: RunningRequest,
        answer: Answer,
        n: int,
        wants_usage: bool,
        receipt: OpenReceipt | None,
        send: Send,
    ) -> None:
        started = False
        try:
            async for pieces in _noted(generation, receipt):
                if not started:  # only now: an error before the first token still has a status of its own
                    kind = (b"content-type", b"text/event-stream")
                    headers = self._headers(answer, kind, (b"cache-control", b"no-cache"))
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                    started = True
                text = b"".join(answer.chunk(prompt * n + one.index, one, wants_usage) for prompt, one in pieces)
                if text:
                    await send({"type": "http.response.body", "body": text, "more_body": True})
        except (CutsetError, ApiError) as error:
            if not started:
                raise
            shown = error if isinstance(error, ApiError) else as_api_error(error)
            await send({"type": "http.response.body", "body": answer.failed(shown)})
            return
        await self._attach(answer, receipt)
        await send({"type": "http.response.body", "body": answer.end(generation.usage, wants_usage)})

    def _headers(self, answer: Answer, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        return [*more, (b"x-cutset-mode", self.service.mode.encode()), (b"x-request-id", answer.id.encode())]


class Completions(_Endpoint):
    """`POST /v1/completions`."""

    kind, default_tokens = CompletionRequest, 16

    def count(self, request: CompletionRequest) -> int:
        """The number of prompts in a request."""
        return len(request.prompts())

    async def prompts(self, request: CompletionRequest) -> tuple[Prompts, ChatForm | None]:
        """The prompts as token ids."""
        return [await self.service.encode(prompt) for prompt in request.prompts()], None

    def answer(self, request: CompletionRequest, form: ChatForm | None, *args: Any) -> Answer:
        """An empty answer."""
        return CompletionAnswer(*args)

    async def report(self, request: CompletionRequest, params: SamplingParams, prompts: Prompts) -> PromptReport:
        """With the prompts, where they are asked for."""
        report = PromptReport(params.n, listed=request.prompt_logprobs)
        if not request.echo:
            return report
        llm, scored, echoes = self.service.llm, request.logprobs is not None, list[Echo]()
        for given, ids in zip(request.prompts(), prompts, strict=True):
            llm.check(ids, params)  # its ids, before they are decoded
            text = given if isinstance(given, str) and params.truncate_prompt_tokens is None else None
            echo = partial(echo_of, llm.tokenizer, ids.tolist(), text, begins=scored)
            hidden = params.skip_special_tokens
            echoes.append(await self.service.in_turn(8 * len(ids), partial(echo, skip_special_tokens=hidden)))
        return report._replace(echoes=echoes, echoed=request.logprobs, alone=request.scores_alone)


class ChatCompletions(_Endpoint):
    """`POST /v1/chat/completions`."""

    kind = ChatRequest

    def count(self, request: ChatRequest) -> int:
        """The number of prompts in a request."""
        return 1

    async def prompts(self, request: ChatRequest) -> tuple[Prompts, ChatForm | None]:
        """The prompt as token ids, and how its answers are read."""
        text, form = await self.service.render(request)
        return [await self.service.encode_rendered(text)], form

    def answer(self, request: ChatRequest, form: ChatForm | None, *args: Any) -> Answer:
        """An empty answer."""
        assert form is not None
        return ChatAnswer(*args, form=form)


async def _noted(generation: RunningRequest, receipt: OpenReceipt | None) -> AsyncIterator[list[tuple[int, Delta]]]:
    """The pieces of a request, which its receipt is told of."""
    async for pieces in generation.pieces():
        if receipt is not None:
            for prompt, delta in pieces:
                receipt.take(prompt, delta)
        yield pieces


async def _end_once_gone(receive: Receive, generation: RunningRequest) -> None:
    await until_gone(receive)
    generation.end(ClientGone())
