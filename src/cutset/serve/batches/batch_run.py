"""Answers the lines of one input file, as many at once as is allowed, and keeps each answer once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from cutset.batches.input_lines import InputLine, LineReader, Survey
from cutset.batches.line_results import LineResults
from cutset.errors import ConfigError
from cutset.serve.api_errors import ApiError
from cutset.serve.batches.batch_lines import LineAnswer

__all__ = ["BatchRun", "NotAnswering"]

MOST_HELD = 64 << 20  # bytes of lines whose answers haven't come
MOST_PENDING = 64 << 20  # bytes of answers that aren't written yet
SKIPPED = 256  # lines with answers that are passed before others get a turn
PATIENCE_S = 1.0  # before a request that found no room is made again

Answer = Callable[[InputLine, int | None], Coroutine[Any, Any, LineAnswer]]


class NotAnswering(Exception):
    """Requests can't be answered now, which says nothing of the request that was made: `error` says why."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error


class BatchRun:
    """The lines of one file that have no answer yet.

    What is held in memory is bounded: requests by their number and bytes, and answers until their shard is written.
    """

    def __init__(
        self,
        source: Path,
        found: Survey,
        results: LineResults,
        answer: Answer,
        *,
        longest: int,  # bytes of a line
        at_once: Callable[[], int],  # requests
        check_open: Callable[[], object],  # raises ApiError while nothing can be answered
        changed: Callable[[], object] = lambda: None,  # called when there are new answers
    ) -> None:
        self._source, self._found, self._results, self._answer = source, found, results, answer
        self._longest, self._at_once, self._check_open, self._changed = longest, at_once, check_open, changed
        self._tasks: dict[asyncio.Task[LineAnswer], InputLine] = {}
        self._held = 0  # bytes of lines

    async def run(self, stopped: asyncio.Event) -> bool:
        """True once every line has its answer on disk; False where it was stopped before: what has come is on disk.

        Raises NotAnswering where nothing can be answered now, ConfigError where the input isn't what it was, OSError
        where answers can't be written. What has come by then is on disk, as far as it can be.
        """
        stopping = asyncio.ensure_future(stopped.wait())
        try:
            return await self._run(stopped, stopping)
        finally:
            stopping.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(stopping, *self._tasks, return_exceptions=True)
            self._tasks.clear()
            self._held = 0
            await asyncio.shield(asyncio.to_thread(self._results.commit))

    async def _run(self, stopped: asyncio.Event, stopping: asyncio.Future[Any]) -> bool:
        reader = LineReader(self._source, self._longest)
        lines, more, skipped = self._items(reader), True, 0
        while (more or self._tasks) and not stopped.is_set():
            while more and self._room():
                line = next(lines, None)
                if line is None:
                    more = False
                elif not self._results.has(line.number):
                    self._tasks[asyncio.create_task(self._answered(line))] = line
                    self._held += len(line.text or b"")
                else:
                    skipped += 1
                    if skipped % SKIPPED == 0:
                        await asyncio.sleep(0)
            waited: set[asyncio.Future[Any]] = {*self._tasks, stopping}
            if self._tasks:
                await asyncio.wait(waited, timeout=self._results.wait_s, return_when=asyncio.FIRST_COMPLETED)
            self._take()
            if self._results.wait_s == 0.0:
                await asyncio.to_thread(self._results.commit)
                self._changed()
        if stopped.is_set():
            return False
        if reader.sha256 != self._found.sha256:
            raise ConfigError(f"{self._source} was changed while its batch ran: its answers are of both, so begin anew")
        await asyncio.to_thread(self._results.commit)
        self._changed()
        return True

    def _items(self, reader: LineReader) -> Iterator[InputLine]:
        """Lines with something in them."""
        for line in reader:
            if line.number >= self._found.lines:
                raise ConfigError(f"{self._source} was changed while its batch ran: begin anew")
            if not line.blank:
                yield line

    def _room(self) -> bool:
        """Another request may be made. One that alone is more than may be held is, too."""
        return (
            len(self._tasks) < max(1, self._at_once())
            and self._held < MOST_HELD
            and (self._results.pending_bytes < MOST_PENDING)
        )

    def _take(self) -> None:
        """Keeps what has come."""
        came = [task for task in self._tasks if task.done()]
        error: BaseException | None = None
        for task in came:
            line = self._tasks.pop(task)
            self._held -= len(line.text or b"")
            error = error or task.exception()
            if task.exception() is None:
                found = task.result()
                self._results.add(line.number, found.ok, found.text)
        if came:
            self._changed()
        if error is not None:
            raise error

    async def _answered(self, line: InputLine) -> LineAnswer:
        """Raises NotAnswering for what is no answer to this request."""
        while True:
            found = await self._answer(line, self._found.first(line.number))
            if found.status == 429:
                await asyncio.sleep(PATIENCE_S)
                continue
            if found.status >= 500:
                try:
                    self._check_open()
                except ApiError as error:
                    raise NotAnswering(error) from None
            return found
