"""Lines of a batch answered by a pool of Ray's actors, each with an engine of its own: Ray Data hands them out.

Ray Data runs a line again where an actor was lost, so answers may come twice; who takes them keeps the first of each.
It would do so without end: so whoever hands out lines counts how often, and a line that ends each actor that has it is
given up. Lines and answers go through Ray's object store as text; nothing of a model does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from cutset.batches.input_lines import InputLine, LineReader, Survey
from cutset.batches.line_results import LineResults
from cutset.cluster.launch.party_needs import Needs
from cutset.cluster.launch.ray_pool import PoolOptions, RayPool, open_pool, settle
from cutset.errors import ConfigError, CutsetError, EngineError
from cutset.serve.batches.answer_facts import answer_facts
from cutset.serve.batches.batch_lines import LineAnswer, custom_id
from cutset.serve.batches.model_order import ModelOrder
from cutset.serve.batches.shared_lock import SharedLock

__all__ = ["RayLines"]

_T = TypeVar("_T")
COLUMNS = ("line", "begin", "size", "first")  # of what actors get, see `RayLines._table`
MOST_BLOCKS = 1 << 14
AT_A_TIME = 16  # lines that go to an actor together
TOGETHER = 2  # times that a line is handed out beside others; if those actors were lost, any of these lines may be why
ALONE = 2  # times that a line may then end an actor that does nothing else
OPENINGS = 3  # of engines, for each actor, while none asks for lines
MOST_GIVEN_UP = 16  # lines, while none is answered: then they aren't to blame


class LineSource:
    """Reads lines for actors, on the machine where the input is, and knows which of them may be what ends actors. Ray
    calls it from threads."""

    def __init__(self, path: str, actors: int) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._most = OPENINGS * actors
        self._openings = 0  # since lines were asked for
        self._given_up = 0  # lines, since one was answered
        self._read: Counter[int] = Counter()  # of lines that have no answer: how often each was handed out
        self._begun: Counter[int] = Counter()  # and how often alone
        self._lock = threading.Lock()

    def may_open(self) -> bool:
        """Another actor is to open an engine; False where too many have ended that answered nothing."""
        with self._lock:
            self._openings += 1
            return self._openings <= self._most and self._given_up < MOST_GIVEN_UP

    def read(self, places: Sequence[tuple[int, int, int]]) -> tuple[list[bytes], bool]:
        """Of lines by number, offset and size in bytes: their bytes, and whether each is to be begun alone."""
        texts = [os.pread(self._file, size, begin) for _, begin, size in places]
        with self._lock:
            self._openings = 0
            self._read.update(line for line, _, _ in places)
            return texts, any(self._read[line] > TOGETHER for line, _, _ in places)

    def may_begin(self, line: int) -> bool:
        """A line is to be asked for alone; False where that ended its actor too often."""
        with self._lock:
            self._begun[line] += 1
            self._given_up += self._begun[line] == ALONE + 1
            return self._begun[line] <= ALONE

    def answered(self, lines: Sequence[int]) -> None:
        """These have answers."""
        with self._lock:
            self._given_up = 0
            for line in lines:
                self._read.pop(line, None)
                self._begun.pop(line, None)


class LineActor:
    """An engine, and answers of lines by their places in the input. Ray Data calls it with columns, from threads."""

    def __init__(self, order: ModelOrder, digest: str, source: Any, directory: str) -> None:
        import ray

        self._failed = ""
        try:
            if not ray.get(source.may_open.remote()):
                raise EngineError("engines end before they answer anything; the logs of their nodes say why")
            settle(directory)
            self._service = order.open()
            self._facts = msgspec.json.encode(answer_facts(self._service))
        except CutsetError as error:  # said by the driver: what is raised here Ray prints, and tries again
            self._failed = str(error)
            return
        self._answerer = order.answerer(self._service, digest)
        self._source, self._longest, self._engine = source, order.longest, SharedLock()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="cutset-batch", daemon=True).start()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Rows as RayLines sends them; `line`, `ok` and `text` of their answers, or why there are none."""
        import ray

        if self._failed:
            return _failure(self._failed)
        rows = list(zip(*(batch[name].tolist() for name in COLUMNS), strict=True))
        places = [(line, begin, min(size, self._longest)) for line, begin, size, _ in rows]
        texts, alone = ray.get(self._source.read.remote(places))
        given = [
            (InputLine(line, text if size <= self._longest else None, size, begin), None if first < 0 else first)
            for (line, begin, size, first), text in zip(rows, texts, strict=True)
        ]
        found: list[LineAnswer] = []
        for some in [[one] for one in given] if alone else [given]:
            with self._engine.hold(alone=alone):
                if alone and not ray.get(self._source.may_begin.remote(some[0][0].number)):
                    found.append(self._given_up(some[0][0]))
                    continue
                found += asyncio.run_coroutine_threadsafe(self._answer(some), self._loop).result()
            self._source.answered.remote([line.number for line, _ in some])
        if any(one.status >= 500 for one in found) and not self._service.ready:
            return _failure("an engine has stopped; the log of its node says why")
        answers = np.empty(len(found), dtype=object)
        answers[:] = [one.text for one in found]
        facts = np.array([self._facts, *[b""] * (len(found) - 1)], dtype=object)
        ok = np.array([one.ok for one in found])
        return {"line": batch["line"], "ok": ok, "text": answers, "facts": facts}

    async def _answer(self, given: Sequence[tuple[InputLine, int | None]]) -> list[LineAnswer]:
        return list(await asyncio.gather(*(self._answerer.answer(line, first) for line, first in given)))

    def _given_up(self, line: InputLine) -> LineAnswer:
        name = None if line.text is None else custom_id(line.text)
        text = f"{TOGETHER + ALONE} engines ended while they ran it, the last {ALONE} of them nothing else"
        return self._answerer.refused(line.number, name, "engine_ended", text)


class RayLines:
    """The lines of one file that have no answer yet, over a cluster."""

    def __init__(self, source: Path, found: Survey, results: LineResults, order: ModelOrder) -> None:
        threads = order.settings.threads or 1  # of each actor: all cores of a node may be those of several
        self._order = replace(order, settings=replace(order.settings, threads=threads))
        self._source, self._found, self._results = source, found, results

    def run(self, options: PoolOptions, begun: Callable[[], object], changed: Callable[[], object]) -> None:
        """Until each line has its answer on disk; `begun` is called once the cluster is there, `changed` when there are
        new answers.

        Raises LinkError where there is no such cluster or it has no room, ConfigError where it lets anybody in, the
        input isn't what it was, or a node has another model; EngineError where actors fail. What has come by then is on
        disk.
        """
        table, digest = self._table()
        if digest != self._found.sha256:
            raise ConfigError(f"{self._source} was changed since its batch began: begin anew")
        if not len(table):
            return
        with open_pool(options, Needs(float(self._order.settings.threads))) as pool:
            import ray.data

            logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it was set up anew when it was imported
            begun()
            ray.data.DataContext.get_current().enable_progress_bars = False
            errors = (ray.exceptions.RayError, ray.data.exceptions.UserCodeException)
            try:
                self._run(pool, table, changed)
            except errors as error:
                from cutset.cluster.launch.ray_connection import reason_of

                raise EngineError(f"the actors can't go on: {reason_of(error)[:300]}") from error
            finally:
                self._results.commit()

    def _run(self, pool: RayPool, table: NDArray[np.int64], changed: Callable[[], object]) -> None:
        ray, actors, settings = pool.ray, pool.actors, self._order.settings
        at_a_time = max(1, min(AT_A_TIME, settings.max_num_seqs))
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        source = ray.remote(LineSource).options(num_cpus=0, scheduling_strategy=here, max_concurrency=4)
        reader = source.remote(os.path.realpath(self._source), actors)
        data = ray.data.from_blocks(_blocks(table, actors, at_a_time)).map_batches(
            LineActor,
            fn_constructor_args=(self._order, self._found.sha256, reader, os.getcwd()),
            batch_size=at_a_time,
            batch_format="numpy",
            num_cpus=pool.needs.cpus,
            compute=ray.data.ActorPoolStrategy(
                size=actors,
                max_concurrent_calls_per_actor=max(2, 2 * settings.max_num_seqs // at_a_time),
                enable_true_multi_threading=True,
            ),
        )
        for batch in _watched(data.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0), pool.check):
            if (batch["line"] < 0).any():
                raise EngineError(f"an actor can't go on: {msgspec.json.decode(batch['text'][batch['line'] < 0][0])}")
            for facts in filter(None, batch["facts"].tolist()):  # before an answer of another model is taken
                self._results.folder.require(msgspec.json.decode(facts))
            rows = zip(batch["line"].tolist(), batch["ok"].tolist(), batch["text"].tolist(), strict=True)
            for line, ok, text in rows:
                self._results.add(line, ok, text)
            if self._results.wait_s == 0.0:
                self._results.commit()
            changed()
        left = sum(not self._results.has(int(line)) for line in table[:, 0])
        if left:
            raise EngineError(f"{left} lines came back without an answer")

    def _table(self) -> tuple[NDArray[np.int64], str]:
        """Number, first byte, size, and the line that had its name, or -1, of each line that has no answer (lines, 4),
        whatever their texts; and the digest of the input."""
        reader = LineReader(self._source, self._order.longest)
        found: list[tuple[int, int, int, int]] = []
        for line in reader:
            if line.number < self._found.lines and not line.blank and not self._results.has(line.number):
                first = self._found.first(line.number)
                found.append((line.number, line.begin, line.size, -1 if first is None else first))
        return np.array(found, np.int64).reshape(-1, 4), reader.sha256


def _watched(batches: Iterable[_T], check: Callable[[], None]) -> Iterator[_T]:
    """The same, taken by a thread; meanwhile `check` is called every second, which may raise."""
    came: queue.Queue[tuple[bool, Any]] = queue.Queue(2)

    def take() -> None:
        try:
            for batch in batches:
                came.put((True, batch))
            came.put((False, None))
        except BaseException as error:
            came.put((False, error))

    threading.Thread(target=take, name="cutset-batch-answers", daemon=True).start()
    while True:
        try:
            more, found = came.get(timeout=1.0)
        except queue.Empty:
            check()
            continue
        if more:
            yield found
        elif found is None:
            return
        else:
            raise found


def _failure(why: str) -> dict[str, Any]:
    """What an actor gives instead of answers."""
    said = np.array([msgspec.json.encode(why)], dtype=object)
    return {"line": np.array([-1]), "ok": np.array([False]), "text": said, "facts": np.array([b""], dtype=object)}


def _blocks(table: NDArray[np.int64], actors: int, at_a_time: int) -> list[Any]:
    """Lines in blocks, each of which an actor's answers come back with: small ones, so that a slow actor holds up few
    lines at the end, and little is done again for one that dies. They lie where the driver is, so no node that goes
    takes one along."""
    import pyarrow as pa

    count = min(max(actors, -(-len(table) // at_a_time)), MOST_BLOCKS, len(table))
    return [pa.table(dict(zip(COLUMNS, part.T, strict=True))) for part in np.array_split(table, count)]
