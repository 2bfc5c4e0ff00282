"""`/v1/files` and `/v1/batches`, as OpenAI's clients use them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cutset.batches.folder_lock import FolderLock
from cutset.errors import ConfigError
from cutset.serve.api_errors import ApiError, invalid
from cutset.serve.batches.batch_lines import URLS
from cutset.serve.batches.batch_store import ENDED, BatchStore, StoredBatch
from cutset.serve.batches.batch_worker import BatchWorker
from cutset.serve.batches.file_store import FileStore, StoredFile, StoreLimits
from cutset.serve.plain_requests import parse_plain
from cutset.serve.replies import json_reply, send_json
from cutset.serve.request_limits import RequestLimits, read_body

__all__ = ["BatchApi"]

MOST_LISTED = 100
_Stored = TypeVar("_Stored", StoredFile, StoredBatch)


class BatchRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/batches`."""

    input_file_id: str
    endpoint: str
    completion_window: Literal["24h"]
    metadata: dict[str, str] | None = None


class BatchApi:
    """What a server offers of files and batches, kept below a directory; without one it offers none.

    `answer_by` says who answers, `routes` where clients reach it, and batches run while `running` is entered.
    """

    def __init__(self, folder: Path | None, limits: StoreLimits | None = None) -> None:
        """Finds what is there. Raises ConfigError for a directory that can't be used."""
        self._folder = folder
        if folder is None:
            return
        self.limits = limits or StoreLimits()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = FolderLock(
                folder / "lock", f"another server keeps its batches in {folder}: name another directory"
            )
            self.files = FileStore(folder / "files", self.limits)
            self.batches = BatchStore(folder / "batches", self.limits)
        except OSError as error:
            raise ConfigError(f"batches can't be kept in {folder}: {error.strerror}") from None
        self.files.used_beside = self.batches.used

    def answer_by(
        self,
        apps: Mapping[str, ASGIApp],
        check_open: Any,
        *,
        at_once: int,
        facts: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """`apps` answer requests by their paths, at most `at_once` at a time; `check_open` raises ApiError while they
        can't. `facts`: what answers depend on, if it is the same for all; it is asked from a thread."""
        self._apps, self._check_open, self._at_once, self._facts = apps, check_open, at_once, facts

    def routes(self, limits: RequestLimits, origins: Sequence[str]) -> list[BaseRoute]:
        """All paths below `/v1/files` and `/v1/batches`; `origins`: pages that may upload."""
        if self._folder is None:
            return [Route(f"/v1/{name}{{rest:path}}", _not_offered) for name in ("files", "batches")]
        self._worker = BatchWorker(
            self.files,
            self.batches,
            self._apps,
            self._check_open,
            at_once=self._at_once,
            facts=self._facts,
            body_bytes=limits.body_bytes,
        )
        files = _Files(self.files, self.batches)
        batches = _Batches(self.batches, self.files, self._worker)
        return [
            Route("/v1/files", _Upload(self.files, limits, self._check_open, origins), methods=["POST"]),
            Route("/v1/files", files.list, methods=["GET"]),
            Route("/v1/files/{name}", files.get, methods=["GET"]),
            Route("/v1/files/{name}", files.delete, methods=["DELETE"]),
            Route("/v1/files/{name}/content", files.content, methods=["GET"]),
            Route("/v1/batches", _Create(batches, limits, self._check_open), methods=["POST"]),
            Route("/v1/batches", batches.list, methods=["GET"]),
            Route("/v1/batches/{name}", batches.get, methods=["GET"]),
            Route("/v1/batches/{name}/cancel", batches.cancel, methods=["POST"]),
        ]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Batches run meanwhile; those that haven't ended by then go on the next time."""
        if self._folder is None:
            yield
            return
        task = asyncio.create_task(self._worker.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self._lock.close()


class _Upload:
    """`POST /v1/files`."""

    def __init__(self, files: FileStore, limits: RequestLimits, check_open: Any, origins: Sequence[str]) -> None:
        self._files, self._limits, self._check_open, self._origins = files, limits, check_open, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from cutset.serve.batches.uploads import check_origin, receive_upload

        self._check_open()
        check_origin(scope, self._origins)
        file = await receive_upload(self._files, scope.get("cutset.owner"), scope, receive, self._limits)
        if file is not None:
            await send_json(send, file.shown())


class _Files:
    """What is answered about files that are there."""

    def __init__(self, files: FileStore, batches: BatchStore) -> None:
        self._files, self._batches = files, batches

    async def list(self, request: Request) -> Response:
        """`GET /v1/files`."""
        return _listed(request, self._files.of(_owner(request), request.query_params.get("purpose")), most=10_000)

    async def get(self, request: Request) -> Response:
        """`GET /v1/files/{id}`. Raises ApiError 404."""
        return json_reply(self._found(request).shown())

    async def content(self, request: Request) -> Response:
        """`GET /v1/files/{id}/content`. Raises ApiError 404."""
        file = self._found(request)
        if not self._files.path(file.id).is_file():
            raise ApiError(404, f"the bytes of {file.id} are gone: upload it again", code="file_not_found")
        return FileResponse(self._files.path(file.id), media_type="application/octet-stream", filename=file.filename)

    async def delete(self, request: Request) -> Response:
        """`DELETE /v1/files/{id}`. Raises ApiError 404, and 400 for the input of a batch that isn't over."""
        file = self._found(request)
        for batch in self._batches.of(file.owner):
            if batch.input_file_id == file.id and batch.status not in ENDED:
                raise invalid(f"{file.id} is the input of {batch.id}, which isn't over: cancel that first")
        self._files.delete(file.owner, file.id)
        return json_reply({"id": file.id, "object": "file", "deleted": True})

    def _found(self, request: Request) -> StoredFile:
        return self._files.get(_owner(request), request.path_params["name"])


class _Create:
    """`POST /v1/batches`."""

    def __init__(self, batches: _Batches, limits: RequestLimits, check_open: Any) -> None:
        self._batches, self._limits, self._check_open = batches, limits, check_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._check_open()
        body = await read_body(scope, receive, send, self._limits)
        if body is not None:
            await send_json(
                send, self._batches.create(scope.get("cutset.owner"), parse_plain(body, BatchRequest)).shown()
            )


class _Batches:
    """What is answered about batches."""

    def __init__(self, batches: BatchStore, files: FileStore, worker: BatchWorker) -> None:
        self._batches, self._files, self._worker = batches, files, worker

    def create(self, owner: str | None, asked: BatchRequest) -> StoredBatch:
        """A new batch, which is begun when it is its turn. Raises ApiError."""
        if asked.endpoint not in URLS:
            raise invalid(f"endpoint must be one of {', '.join(URLS)}", "endpoint")
        file = self._files.get(owner, asked.input_file_id, "input_file_id")
        if file.purpose != "batch":
            raise invalid(
                f"{file.id} has the purpose {file.purpose}: upload the input with purpose batch", "input_file_id"
            )
        pairs = asked.metadata or {}
        if len(pairs) > 16 or any(len(name) > 64 or len(value) > 512 for name, value in pairs.items()):
            raise invalid("metadata may have 16 names of 64 characters, with texts of 512", "metadata")
        batch = self._batches.create(owner, asked.endpoint, file.id, asked.metadata)
        self._worker.wake()
        return batch

    async def list(self, request: Request) -> Response:
        """`GET /v1/batches`."""
        return _listed(request, self._batches.of(_owner(request)), most=MOST_LISTED)

    async def get(self, request: Request) -> Response:
        """`GET /v1/batches/{id}`. Raises ApiError 404."""
        return json_reply(self._found(request).shown())

    async def cancel(self, request: Request) -> Response:
        """`POST /v1/batches/{id}/cancel`. Raises ApiError 404, and 400 for one that is over."""
        batch = self._found(request)
        if batch.status in ("finalizing", "failed", "completed", "expired"):
            raise invalid(f"a batch that is {batch.status} can't be cancelled")
        if batch.status in ("validating", "in_progress"):
            self._worker.cancel(batch)
        return json_reply(batch.shown())

    def _found(self, request: Request) -> StoredBatch:
        return self._batches.get(_owner(request), request.path_params["name"])


async def _not_offered(request: Request) -> Response:
    raise ApiError(404, "this server keeps no files and batches: start it with --batch-dir DIR")


def _owner(request: Request) -> str | None:
    owner: str | None = request.scope.get("cutset.owner")
    return owner


def _listed(request: Request, found: Sequence[_Stored], *, most: int) -> Response:
    """A page of what there is, the newest first unless `order` is asc. Raises ApiError."""
    asked = request.query_params
    items = list(found) if asked.get("order") == "asc" else list(reversed(found))
    if (after := asked.get("after")) is not None:
        at = next((place for place, one in enumerate(items) if one.id == after), None)
        if at is None:
            raise invalid(f"after: there is no {after[:80]!r}", "after")
        items = items[at + 1 :]
    given = asked.get("limit", str(min(most, MOST_LISTED)))
    if not (given.isascii() and given.isdigit() and len(given) < 10 and 1 <= int(given) <= most):
        raise invalid(f"limit must be from 1 to {most}", "limit")
    page = [one.shown() for one in items[: int(given)]]
    ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
    return json_reply({"object": "list", "data": page, "has_more": len(items) > len(page)} | ends)
