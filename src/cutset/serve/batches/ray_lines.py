"""Lines of a batch answered by a pool of Ray's actors, each with an engine of its own: Ray Data hands them out.

Ray Data runs a line again where an actor was lost, so answers may come twice; who takes them keeps the first of each.
Lines and answers go through Ray's object store as text; nothing of a model does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from cutset.batches.input_lines import InputLine, LineReader, Survey
from cutset.batches.line_results import LineResults
from cutset.cluster.launch.ray_address import check_refuses_others, reachable, unreachable
from cutset.cluster.launch.ray_security import check_installed, check_protected
from cutset.errors import ConfigError, CutsetError, EngineError, LinkError
from cutset.link.addresses import parse_address
from cutset.serve.batches.batch_lines import LineAnswer
from cutset.serve.batches.model_order import ModelOrder, answer_facts

__all__ = ["RayLines", "check_ray"]

STORE = 256 << 20  # bytes of a local cluster's object store
AT_A_TIME = 16  # lines that go to an actor together


class LineSource:
    """Reads lines for actors, on the machine where the input is."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """So many bytes from each offset."""
        return [os.pread(self._file, size, begin) for begin, size in places]


class LineActor:
    """An engine, and answers of lines by their places in the input. Ray Data calls it with columns, from threads."""

    def __init__(self, order: ModelOrder, digest: str, source: Any) -> None:
        self._failed = ""
        try:
            self._service = order.open()
        except CutsetError as error:  # said by the driver: what is raised here Ray prints, and tries again
            self._failed = str(error)
            return
        self._facts = msgspec.json.encode(answer_facts(self._service))
        self._answerer = order.answerer(self._service, digest)
        self._source, self._longest = source, order.longest
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="cutset-batch", daemon=True).start()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Rows as RayLines sends them; `line`, `ok` and `text` of their answers, or why there are none."""
        import ray

        if self._failed:
            return _failure(self._failed)
        rows = batch["data"].tolist()
        texts = ray.get(self._source.read.remote([(begin, min(size, self._longest)) for _, begin, size, _ in rows]))
        given = [
            (InputLine(line, text if size <= self._longest else None, size, begin), None if first < 0 else first)
            for (line, begin, size, first), text in zip(rows, texts, strict=True)
        ]
        found = asyncio.run_coroutine_threadsafe(self._answer(given), self._loop).result()
        if any(one.status >= 500 for one in found) and not self._service.ready:
            return _failure("an engine has stopped; the log of its node says why")
        answers = np.empty(len(found), dtype=object)
        answers[:] = [one.text for one in found]
        facts = np.array([self._facts, *[b""] * (len(found) - 1)], dtype=object)
        ok = np.array([one.ok for one in found])
        return {"line": batch["data"][:, 0], "ok": ok, "text": answers, "facts": facts}

    async def _answer(self, given: Sequence[tuple[InputLine, int | None]]) -> list[LineAnswer]:
        return list(await asyncio.gather(*(self._answerer.answer(line, first) for line, first in given)))


class RayLines:
    """The lines of one file that have no answer yet, over a cluster."""

    def __init__(self, source: Path, found: Survey, results: LineResults, order: ModelOrder) -> None:
        self._source, self._found, self._results, self._order = source, found, results, order

    def run(self, where: str, *, actors: int, changed: Any, insecure: bool = False) -> None:
        """Until each line has its answer on disk. `where`: local, auto or the address of a head; `actors`: how many, 0
        for one on each node; `insecure`: a cluster that anybody may join will do.

        Raises LinkError where there is no such cluster, ConfigError where it lets anybody in or the input isn't what it
        was, EngineError where actors fail. What has come by then is on disk.
        """
        with _connected(where, actors, self._order.settings.threads, insecure=insecure) as ray:
            count = actors or sum(bool(node["Alive"]) for node in ray.nodes())
            try:
                self._run(ray, count, changed)
            except (ray.exceptions.RayError, ray.data.exceptions.UserCodeException) as error:
                raise EngineError(f"the actors can't go on: {_reason(error)}") from error
            finally:
                self._results.commit()

    def _run(self, ray: Any, actors: int, changed: Any) -> None:
        table, digest = self._table()
        if digest != self._found.sha256:
            raise ConfigError(f"{self._source} was changed since its batch began: begin anew")
        settings = self._order.settings
        at_a_time = max(1, min(AT_A_TIME, settings.max_num_seqs))
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        source = ray.remote(LineSource).options(num_cpus=0, scheduling_strategy=here, max_concurrency=4)
        reader = source.remote(os.path.realpath(self._source))
        # Small blocks: a slow actor holds up few lines at the end, and little is done again for one that dies.
        blocks = max(actors, -(-len(table) // (4 * at_a_time)))
        data = (
            ray.data.from_numpy(table)
            .repartition(min(blocks, 4096))
            .map_batches(
                LineActor,
                fn_constructor_args=(self._order, self._found.sha256, reader),
                batch_size=at_a_time,
                batch_format="numpy",
                num_cpus=settings.threads or 1,
                compute=ray.data.ActorPoolStrategy(
                    size=actors,
                    max_concurrent_calls_per_actor=max(2, 2 * settings.max_num_seqs // at_a_time),
                    enable_true_multi_threading=True,
                ),
            )
        )
        for batch in data.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
            if (batch["line"] < 0).any():
                raise EngineError(f"an actor can't go on: {msgspec.json.decode(batch['text'][batch['line'] < 0][0])}")
            rows = zip(batch["line"].tolist(), batch["ok"].tolist(), batch["text"].tolist(), strict=True)
            for line, ok, text in rows:
                self._results.add(line, ok, text)
            for facts in filter(None, batch["facts"].tolist()):
                self._results.folder.require(msgspec.json.decode(facts))
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


def _failure(why: str) -> dict[str, Any]:
    """What an actor gives instead of answers."""
    said = np.array([msgspec.json.encode(why)], dtype=object)
    return {"line": np.array([-1]), "ok": np.array([False]), "text": said, "facts": np.array([b""], dtype=object)}


def check_ray(where: str, *, insecure: bool) -> None:
    """Raises ConfigError without Ray, with another one, and for a cluster without its token authentication: whoever may
    join it runs code in the actors; LinkError where none is there."""
    if where not in ("local", "auto"):
        parse_address(f"tcp://{where.removeprefix('ray://')}")
    check_installed()
    check_protected(where, insecure=insecure)
    if where not in ("local", "auto"):  # Ray itself would try for minutes
        reachable(where)


@contextmanager
def _connected(where: str, actors: int, threads: int, *, insecure: bool) -> Iterator[Any]:
    """Ray, connected; a local cluster ends with the block. Raises ConfigError and LinkError."""
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    more: dict[str, Any] = {}
    if where == "local":
        # A token for this cluster alone: nobody else on this machine may use it.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        more = {"num_cpus": max(1, actors) * (threads or 1) + 1, "include_dashboard": False}
        more["object_store_memory"] = STORE
    import ray
    import ray.data

    try:
        context = ray.init(
            address=where if where == "local" else reachable(where),
            configure_logging=False,
            log_to_driver=False,
            **more,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise LinkError(unreachable(where, error)) from None
    ray.data.DataContext.get_current().enable_progress_bars = False
    for name in ("ray", "ray.data"):  # set up anew when they were imported
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what ends a run is said once, by us
    try:
        if where != "local" and not insecure:
            check_refuses_others(str(context.address_info["gcs_address"]))
        yield ray
    finally:
        ray.shutdown()


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
