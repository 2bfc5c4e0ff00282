"""Runs the batches of a server, one of each client at a time, and goes on with them after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from cutset.batches.input_lines import LineReader, Survey, survey
from cutset.batches.line_results import LineResults
from cutset.batches.shard_folder import ShardFolder
from cutset.errors import CutsetError
from cutset.serve.batches.batch_lines import ENVELOPE, LineAnswerer, custom_id
from cutset.serve.batches.batch_run import BatchRun, NotAnswering
from cutset.serve.batches.batch_store import BatchStatus, BatchStore, StoredBatch
from cutset.serve.batches.file_store import FileStore

__all__ = ["BatchWorker"]

log = logging.getLogger(__name__)
MOST_ACTIVE = 4  # batches, of as many clients
PAUSE_S = 2.0  # while nothing can be answered


class BatchWorker:
    """Answers the lines of batches by the applications that answer clients, who go before."""

    def __init__(
        self,
        files: FileStore,
        batches: BatchStore,
        apps: Mapping[str, ASGIApp],
        check_open: Callable[[], object],
        *,
        at_once: int,  # requests of all batches
        facts: Callable[[], Mapping[str, Any]],  # what answers depend on, beside requests
        body_bytes: int,  # of a request
    ) -> None:
        self.files, self.batches = files, batches
        self._apps, self._check_open, self._at_once = apps, check_open, at_once
        self._body_bytes, self._facts = body_bytes, facts
        self._tasks: dict[str, tuple[StoredBatch, asyncio.Task[None]]] = {}  # by ids of batches
        self._stops: dict[str, asyncio.Event] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Until it is cancelled; what has been answered by then is on disk."""
        try:
            while True:
                self._changed.clear()
                self._begin()
                await self._changed.wait()
        finally:
            tasks = [task for _, task in self._tasks.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def wake(self) -> None:
        """There is a new batch."""
        self._changed.set()

    def cancel(self, batch: StoredBatch) -> None:
        """Ends a batch soon; what has been answered is kept. Raises OSError."""
        self.batches.move(batch, "cancelling")
        if (stop := self._stops.get(batch.id)) is not None:
            stop.set()
        self.wake()

    def _begin(self) -> None:
        busy = {batch.owner for batch, _ in self._tasks.values()}
        for batch in self.batches.unfinished():
            if len(self._tasks) >= MOST_ACTIVE:
                return
            if batch.id not in self._tasks and (batch.owner not in busy or batch.status == "cancelling"):
                busy.add(batch.owner)
                self._tasks[batch.id] = batch, asyncio.create_task(self._guarded(batch))

    async def _guarded(self, batch: StoredBatch) -> None:
        """Runs a batch; whatever is wrong with it ends it alone."""
        try:
            try:
                await self._run(batch)
            except (CutsetError, OSError) as error:
                log.error("batch %s failed: %s", batch.id, error)
                # Not the error's own words, which have the server's paths.
                text = "its input can't be read, or its answers can't be kept; the server's log says more"
                self._fail(batch, "batch_failed", text)
            except Exception:
                log.exception("batch %s failed", batch.id)
                self._fail(batch, "server_error", "the server failed; its log says why")
        except OSError as error:
            log.error("batch %s: %s", batch.id, error)
        finally:
            self._tasks.pop(batch.id, None)
            self._stops.pop(batch.id, None)
            self.wake()

    def _fail(self, batch: StoredBatch, code: str, message: str) -> None:
        batch.errors = [*batch.errors, {"code": code, "message": message, "param": None, "line": None}]
        self.batches.move(batch, "failed")

    async def _run(self, batch: StoredBatch) -> None:
        source, longest = self.files.path(batch.input_file_id), self._body_bytes + ENVELOPE
        found = await asyncio.to_thread(survey, source, longest, custom_id)
        most = self.files.limits.lines
        if not 0 < found.items <= most:
            why = f"more than the {most} that a batch may have" if found.items else "so there is nothing to do"
            self._fail(batch, "invalid_file", f"the file has {found.items} requests, {why}")
            return
        batch.total = found.items
        manifest = {"of": "requests", "input": found.sha256, "lines": found.lines}
        with await asyncio.to_thread(ShardFolder, self.batches.parts(batch), manifest) as folder:
            results = await asyncio.to_thread(LineResults, folder, found.lines)
            if batch.status == "validating":
                self.batches.move(batch, "in_progress")
            ended: BatchStatus = "completed"
            if batch.status == "cancelling":
                ended = "cancelled"
            elif batch.status != "finalizing":
                facts = await asyncio.to_thread(self._facts)
                if differs := folder.difference(facts):  # the server was started again, with another one
                    text = (
                        f"the batch began with {differs}: what was answered by then is kept, so ask for the rest anew"
                    )
                    batch.errors = [{"code": "model_changed", "message": text, "param": None, "line": None}]
                    ended = "failed"
                else:
                    await asyncio.to_thread(folder.require, facts)
                    ended = await self._answer(batch, source, found, results, longest)
            await self._finish(batch, results, ended)
            folder.remove()

    async def _answer(
        self, batch: StoredBatch, source: Path, found: Survey, results: LineResults, longest: int
    ) -> BatchStatus:
        """Answers what has no answer yet; the status that the batch comes to."""
        stop = self._stops[batch.id] = asyncio.Event()
        answerer = self._answerer(batch, found, longest)

        def changed() -> None:
            batch.done, batch.failed, batch.nbytes = results.done, results.failed, results.nbytes()
            if self.files.used(batch.owner) > self.files.limits.space:
                stop.set()

        run = BatchRun(
            source,
            found,
            results,
            answerer.answer,
            longest=longest,
            at_once=lambda: self._at_once // max(1, len(self._tasks)),
            check_open=self._check_open,
            changed=changed,
        )
        changed()
        timer = asyncio.get_running_loop().call_later(max(0.0, batch.expires - time.time()), stop.set)
        try:
            while True:
                try:
                    whole = await run.run(stop)
                    break
                except NotAnswering as error:
                    log.warning("batch %s waits: %s", batch.id, error)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), PAUSE_S)
        finally:
            timer.cancel()
        if whole:
            return "completed"
        if batch.status == "cancelling":
            return "cancelled"
        if time.time() >= batch.expires:
            await asyncio.to_thread(self._expire, batch, found, results, longest)
            return "expired"
        limit = self.files.limits.space
        text = f"its answers and your files have more than {limit} bytes, the most that are kept"
        batch.errors = [{"code": "storage_limit_exceeded", "message": text, "param": None, "line": None}]
        return "failed"

    def _expire(self, batch: StoredBatch, found: Survey, results: LineResults, longest: int) -> None:
        """Gives an error to each line that has no answer. In a thread: it reads the whole file."""
        answerer, text = self._answerer(batch, found, longest), "the batch expired before this request was answered"
        for line in LineReader(self.files.path(batch.input_file_id), longest):
            if not line.blank and not results.has(line.number):
                name = None if line.text is None else custom_id(line.text)
                results.add(line.number, False, answerer.refused(line.number, name, "batch_expired", text).text)
                if results.wait_s == 0.0:
                    results.commit()
        results.commit()

    async def _finish(self, batch: StoredBatch, results: LineResults, ended: BatchStatus) -> None:
        """Makes files of the answers, under names that are the same if it is done again after a crash."""
        batch.done, batch.failed = results.done, results.failed
        if ended == "completed":
            self.batches.move(batch, "finalizing")
        names: list[str | None] = []
        for ok, kind in ((True, "output"), (False, "error")):
            if not results.count(ok=ok):
                names.append(None)
                continue
            name = f"file-{hashlib.sha256(f'{batch.id} {kind}'.encode()).hexdigest()[:24]}"
            path = self.files.path(name)
            await asyncio.to_thread(results.assemble, path, ok=ok, mode=0o600)
            size, purpose = path.stat().st_size, "batch_output"
            await self.files.keep(name, batch.owner, f"{batch.id}_{kind}.jsonl", purpose, size)
            names.append(name)
        batch.output_file_id, batch.error_file_id = names
        batch.nbytes = 0
        self.batches.move(batch, ended)

    def _answerer(self, batch: StoredBatch, found: Survey, longest: int) -> LineAnswerer:
        digest = f"{batch.id}:{found.sha256}"  # ids of answers are the batch's own
        return LineAnswerer(self._apps, digest, endpoint=batch.endpoint, owner=batch.owner, longest=longest)
