"""Which of several models a request is for; it waits here until that one is loaded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from cutset.serve.model_pool import Applications, ModelPool, PooledModel
from cutset.serve.plain_requests import parse_plain
from cutset.serve.replies import replayed, until_gone
from cutset.serve.request_limits import read_body

__all__ = ["ModelRouter"]


class Named(msgspec.Struct):
    """What every request may say."""

    model: str | None = None


class ModelRouter:
    """An ASGI application that hands a request on to the application of its path of the model that it names."""

    def __init__(self, pool: ModelPool) -> None:
        self.pool = pool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pool = self.pool
        pool.check_open()
        body = await read_body(scope, receive, send, pool.limits)
        if body is None:
            return
        model = pool.named(parse_plain(body, Named).model)
        async with contextlib.AsyncExitStack() as stack:
            found = await _unless_gone(self._enter(stack, model), receive)
            if found is not None:
                await found.by_path[scope["path"]](scope, replayed(body, receive), send)

    async def _enter(self, stack: contextlib.AsyncExitStack, model: PooledModel) -> Applications:
        return await stack.enter_async_context(self.pool.lease(model))


async def _unless_gone(work: Coroutine[Any, Any, Applications], receive: Receive) -> Applications | None:
    """What `work` gives, or None if the client leaves first."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(until_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return None if gone.done() else task.result()
    finally:
        for one in (task, gone):
            one.cancel()
            with contextlib.suppress(BaseException):
                await one
