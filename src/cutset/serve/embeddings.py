"""`/v1/embeddings`, and Ollama's `/api/embed` and `/api/embeddings`."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.types import Receive, Scope, Send

from cutset.engine.embedding import unit_vectors
from cutset.errors import CutsetError
from cutset.llm import Prompt
from cutset.serve.api_errors import NO_RETRY, ApiError, invalid
from cutset.serve.plain_requests import read_plain
from cutset.serve.records import current_record
from cutset.serve.replies import send_json, until_gone
from cutset.serve.request_limits import BACKGROUND
from cutset.serve.service import Service

__all__ = ["Embeddings", "OllamaEmbed", "OllamaEmbeddings", "encoded_vectors"]

MOST_INPUTS = 2048  # of one request, as OpenAI has it


class EmbeddingsRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/embeddings`; beside OpenAI's fields vLLM's."""

    model: str | None = None
    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None
    truncate_prompt_tokens: int | None = None  # -1: to the context
    add_special_tokens: bool = True
    normalize: bool = True
    priority: int | None = None
    request_id: str | None = None


class OllamaEmbedRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`POST /api/embed`, and `/api/embeddings` with a `prompt`."""

    model: str
    input: str | list[str] = []
    prompt: str | None = None
    truncate: bool = True
    dimensions: int | None = None
    options: dict[str, Any] | None = None
    keep_alive: str | float | int | None = None


class _Embedding:
    """What the three have in common."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def _vectors(
        self,
        inputs: list[Prompt],
        model: str,
        receive: Receive,
        *,
        dimensions: int | None,
        special: bool = True,
        truncate: int | None = None,
        normalise: bool = True,
        background: bool = False,
    ) -> tuple[NDArray[np.float32], int] | None:
        """The vectors (inputs, dimensions), and how many tokens there were; None if the client has left."""
        service = self.service
        if not 1 <= len(inputs) <= MOST_INPUTS:
            raise invalid(f"input has {len(inputs)} entries: give 1 to {MOST_INPUTS}", "input")
        hidden = service.llm.spec.hidden
        if dimensions is not None and not 1 <= dimensions <= hidden:
            raise invalid(f"dimensions={dimensions} can't be used: this model has 1 to {hidden}", "dimensions")
        if truncate is not None and not 1 <= truncate <= service.llm.max_model_len:
            text = f"truncate_prompt_tokens must be -1 or 1 to {service.llm.max_model_len}"
            raise invalid(text, "truncate_prompt_tokens")
        with service.admission.admit(1, background=background):
            sequences = [await service.encode_to_embed(one, special=special, truncate=truncate) for one in inputs]
            found = await self._run(sequences, model, receive, background=background)
            if found is None:
                return None
        tokens = sum(len(one) for one in sequences)
        if (record := current_record()) is not None:
            record.model, record.prompt_tokens = model, tokens
        return unit_vectors(found, dimensions, normalise=normalise), tokens

    async def _run(
        self, sequences: list[NDArray[np.int32]], model: str, receive: Receive, *, background: bool
    ) -> NDArray[np.float32] | None:
        service, loop = self.service, asyncio.get_running_loop()
        came: asyncio.Future[NDArray[np.float32]] = loop.create_future()

        def settle(result: NDArray[np.float32] | Exception) -> None:
            if came.done():
                return
            if isinstance(result, Exception):
                came.set_exception(result)
            else:
                came.set_result(result)

        def done(result: NDArray[np.float32] | Exception) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop has closed, so nobody waits any more
                loop.call_soon_threadsafe(settle, result)

        own = service.llm.adapter(service.adapter(model))
        job = service.llm.embeddings.submit(sequences, done, adapter=own, background=background)
        patience = None if background else service.limits.request_s
        gone = asyncio.create_task(until_gone(receive))
        try:
            either: set[asyncio.Future[Any]] = {came, gone}
            await asyncio.wait(either, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if came.done():
                if isinstance(error := came.exception(), CutsetError):
                    for watch in service.watches:
                        watch.request_failed(error)
                return came.result()
            if gone.done():
                for watch in service.watches:
                    watch.client_left()
                return None
            raise ApiError(
                504, f"the answer took longer than {service.limits.request_s:g} s", kind="timeout", headers=NO_RETRY
            )
        finally:
            job.cancel()
            came.cancel()
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await gone


class Embeddings(_Embedding):
    """An ASGI application: OpenAI's embeddings."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self.service
        request = await read_plain(service, scope, receive, send, EmbeddingsRequest)
        if request is None:
            return
        model = service.check_model(request.model)
        truncate = request.truncate_prompt_tokens
        found = await self._vectors(
            _inputs(request.input),
            model,
            receive,
            dimensions=request.dimensions,
            special=request.add_special_tokens,
            truncate=service.llm.max_model_len if truncate == -1 else truncate,
            normalise=request.normalize,
            background=bool(scope.get(BACKGROUND)),
        )
        if found is None:
            return
        vectors, tokens = found
        in_base64 = request.encoding_format == "base64"
        shown = [_base64(one) for one in vectors] if in_base64 else await encoded_vectors(vectors)
        data = [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(shown)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        await send_json(send, {"object": "list", "data": data, "model": model, "usage": usage})


class OllamaEmbed(_Embedding):
    """An ASGI application: `/api/embed`, several texts at once."""

    several = True  # of `input` and `prompt` the first counts, where a client gives both

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter_ns()
        asked = await self._asked(scope, receive, send)
        if asked is None:
            return
        request, vectors, tokens = asked
        content = {
            "model": request.model,
            "embeddings": await encoded_vectors(vectors),
            "total_duration": time.perf_counter_ns() - started,
            "load_duration": 0,
            "prompt_eval_count": tokens,
        }
        await send_json(send, content)

    async def _asked(
        self, scope: Scope, receive: Receive, send: Send
    ) -> tuple[OllamaEmbedRequest, NDArray[np.float32], int] | None:
        service = self.service
        request = await read_plain(service, scope, receive, send, OllamaEmbedRequest)
        if request is None:
            return None
        model = service.check_model(request.model)
        texts = (request.input or request.prompt if self.several else request.prompt or request.input) or []
        inputs: list[Prompt] = [texts] if isinstance(texts, str) else list(texts)
        if not inputs:  # how clients have a model loaded
            return request, np.empty((0, 0), np.float32), 0
        truncate = service.llm.max_model_len if request.truncate else None
        found = await self._vectors(inputs, model, receive, dimensions=request.dimensions, truncate=truncate)
        return None if found is None else (request, *found)


class OllamaEmbeddings(OllamaEmbed):
    """An ASGI application: `/api/embeddings`, the older one of one text."""

    several = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = await self._asked(scope, receive, send)
        if asked is not None:
            await send_json(send, {"embedding": asked[1][0].tolist() if len(asked[1]) else []})


def _inputs(given: str | list[str | int | list[int]]) -> list[Prompt]:
    """One text or list of ids, or several. Raises ApiError for a mixture of ids and others."""
    if isinstance(given, str):
        return [given]
    numbers = [one for one in given if isinstance(one, int)]
    if numbers and len(numbers) == len(given):
        return [numbers]
    if numbers:
        raise invalid("input mixes token ids with others: give a text, texts, ids or lists of ids", "input")
    return [one for one in given if not isinstance(one, int)]


async def encoded_vectors(vectors: NDArray[np.float32]) -> list[msgspec.Raw]:
    """Vectors (inputs, dimensions) as JSON. Thousands of them take a second, so others get a turn between them."""
    found = []
    for vector in vectors:
        await asyncio.sleep(0)
        found.append(msgspec.Raw(msgspec.json.encode(vector.tolist())))
    return found


def _base64(vector: NDArray[np.float32]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
