"""Whole video files over a cluster: each is played by one of Ray's actors, on workers of its own.

The driver hands out a file at a time, takes its lines in pieces, and lets the output appear when all are there. When an
actor is lost, what it had of its file is dropped, another actor plays it from its beginning, and a new actor is started
where there is room. Lines go through Ray's object store; pictures and weights don't.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from cutset.batches.file_records import FileRecord, begin_record
from cutset.batches.shard_folder import ShardFolder
from cutset.cluster.launch.party_needs import Needs
from cutset.cluster.launch.ray_pool import PoolOptions, RayPool, open_pool, settle
from cutset.config import StreamSettings
from cutset.errors import ConfigError, CutsetError, EngineError, GraphError

__all__ = ["FileOrder", "FilePool", "RayFiles", "order_of"]

PIECE, EVERY_S = 1 << 20, 2.0  # bytes of lines that come together at most, and the seconds in which they do at least
TICK = 0.5  # seconds between two looks whether the run was stopped
JOINING_S = 5.0  # between two looks whether nodes have joined
SLOW_S = 20.0  # without an actor, after which it is said that there is none
MOST_DEATHS = 3  # of actors by a file, after which the file is given up
PLAIN = (str, int, float, bool, type(None), Path)


@dataclass(frozen=True)
class FileOrder:
    """What actors play files by. `flags`: of the command line; `facts`: what results depend on, see `result_facts`;
    `directory`: in which names of files are meant."""

    flags: Mapping[str, Any]
    settings: StreamSettings
    facts: Mapping[str, Any]
    directory: str

    @property
    def needs(self) -> Needs:
        """Of an actor."""
        assert isinstance(self.settings.workers, int)
        return Needs(float(self.settings.workers * self.settings.threads))


def order_of(args: argparse.Namespace, settings: StreamSettings) -> FileOrder:
    """The order that a command line gives; an actor has one worker unless `--workers` says how many. Raises
    ConfigError."""
    from cutset.cli.stream_files import result_facts
    from cutset.cli.stream_network import network_from

    if not isinstance(settings.workers, int):
        raise ConfigError("--ray plays files on workers of its own: give --workers a number, or leave --ray out")
    if args.module is not None:
        args.model = args.module  # its code is run by the actors alone
    else:
        network_from(args, lambda line: None)
    if not settings.by_hand("workers"):
        settings = replace(settings, workers=1)
    flags = {name: value for name, value in vars(args).items() if isinstance(value, PLAIN)}
    return FileOrder(flags, settings, result_facts(args, settings), os.getcwd())


class FilePiece(NamedTuple):
    """Lines of a file; `state` says whether there are more."""

    text: bytes
    pictures: int
    state: str  # more, done, unusable, doubted (the network may be what is wrong), failed
    error: str = ""


class FileActor:
    """Plays files on its node. Raises nothing that Ray would have to bring to the driver."""

    def __init__(self, order: FileOrder) -> None:
        self._order = order
        self._player: Any = None
        self._lines: Iterator[bytes] = iter(())

    def open(self) -> str:
        """Opens the network; "", or why it can't be."""
        order = self._order
        try:
            settle(order.directory)
            os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(order.settings.threads)
            from cutset.cli.stream_files import FilePlayer, result_facts
            from cutset.cli.stream_network import network_from

            args = argparse.Namespace(**order.flags)
            if args.module is not None:
                args.model = None
            network = network_from(args, lambda line: None)
            for name, value in result_facts(args, order.settings).items():
                if value != order.facts[name]:
                    raise ConfigError(
                        f"{name} is {str(value)[:200]} at {socket.gethostname()}, and {str(order.facts[name])[:200]} "
                        "here: put the same there"
                    )
            self._player = FilePlayer(args, network, order.settings, lambda line: None)
        except CutsetError as error:
            return str(error)
        return ""

    def begin(self, record: FileRecord) -> str:
        """Another file: "", or why it can't be found here."""
        try:
            here = begin_record(Path(record.file))
        except OSError as error:
            return f"{record.file} can't be read at {socket.gethostname()}: {error.strerror}"
        if here.sha256 != record.sha256:
            return f"{record.file} is another file at {socket.gethostname()}"
        self._lines = self._player.lines(Path(record.file))
        return ""

    def more(self) -> FilePiece:
        """The next lines of the file."""
        from cutset.cli.stream_files import UnusableFile

        lines, size, until = list[bytes](), 0, time.monotonic() + EVERY_S
        state, why = "done", ""
        try:
            for line in self._lines:
                lines.append(line)
                size += len(line)
                if size >= PIECE or time.monotonic() >= until:
                    state = "more"
                    break
        except UnusableFile as error:
            state, why = "doubted" if error.doubt else "unusable", str(error)
        except CutsetError as error:
            state, why = "failed", str(error)
        return FilePiece(b"".join(lines), len(lines), state, why)


class ActorPool(Protocol):
    """The small part of Ray that is used here; tests have one without Ray. A call's answer is waited for by `wait`."""

    def wanted(self) -> int:
        """How many actors there should be now."""

    def make(self) -> Any:
        """An actor, somewhere; it may take long until it is there."""

    def call(self, actor: Any, method: str, *given: Any) -> Any:
        """Begins a call of an actor."""

    def wait(self, calls: Sequence[Any], seconds: float) -> Sequence[Any]:
        """Those of the calls that have ended."""

    def answer(self, call: Any) -> Any:
        """Of a call that has ended. Raises ActorLost, and CutsetError for what is wrong with Ray."""

    def end(self, actor: Any) -> None:
        """Ends an actor at once."""


class ActorLost(Exception):
    """An actor is gone. `by_node`: with its node, which says nothing of the file that it played."""

    def __init__(self, why: str, by_node: bool) -> None:
        super().__init__(why)
        self.by_node = by_node


class FilePool:
    """See ActorPool."""

    def __init__(self, pool: RayPool, order: FileOrder) -> None:
        self._pool, self._ray = pool, pool.ray
        self._order = self._ray.put(order)
        self._made = self._ray.remote(FileActor).options(
            num_cpus=pool.needs.cpus, max_restarts=0, scheduling_strategy="SPREAD"
        )

    def wanted(self) -> int:
        """See ActorPool."""
        return self._pool.wanted()

    def make(self) -> Any:
        """See ActorPool."""
        return self._made.remote(self._order)

    def call(self, actor: Any, method: str, *given: Any) -> Any:
        """See ActorPool."""
        return getattr(actor, method).remote(*given)

    def wait(self, calls: Sequence[Any], seconds: float) -> Sequence[Any]:
        """See ActorPool."""
        self._pool.check()
        done: Sequence[Any] = self._ray.wait(list(calls), num_returns=len(calls), timeout=0)[0]
        return done or self._ray.wait(list(calls), timeout=seconds)[0]

    def answer(self, call: Any) -> Any:
        """See ActorPool."""
        from cutset.cluster.launch.ray_connection import reason_of

        errors = self._ray.exceptions
        try:
            return self._ray.get(call)
        except (
            errors.RayActorError,
            errors.WorkerCrashedError,
            errors.ObjectLostError,
            errors.OutOfMemoryError,
        ) as error:
            why = reason_of(error)
            raise ActorLost(why, "node is gone" in why or isinstance(error, errors.ObjectLostError)) from error
        except errors.RayError as error:
            raise EngineError(f"the actors can't go on: {reason_of(error)[:300]}") from error

    def end(self, actor: Any) -> None:
        """See ActorPool."""
        with contextlib.suppress(Exception):
            self._ray.kill(actor, no_restart=True)


@dataclass(eq=False)
class Playing:
    """A file that an actor plays, and the output that is being written, once there is something of it."""

    path: Path
    record: FileRecord
    output: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    file: IO[bytes] | None = None
    pictures: int = 0

    def drop(self) -> None:
        """Takes away what was written."""
        with contextlib.suppress(Dropped):
            self.output.__exit__(Dropped, Dropped(), None)


@dataclass(eq=False)
class Slot:
    """An actor, and the call of it that is waited for; `item` is None until it is there, and while it has nothing to
    do."""

    actor: Any
    call: Any
    there: bool = False
    item: Playing | None = None
    since: float = field(default_factory=time.monotonic)


class Dropped(Exception):
    """What was written of an output isn't wanted."""


class RayFiles:
    """Files that are played by actors. `done` is called with each file, its record, and whether the network is in
    doubt; its output is there then."""

    def __init__(
        self,
        order: FileOrder,
        folder: ShardFolder,
        done: Callable[[Path, FileRecord, CutsetError | None], None],
        log: Callable[[str], None],
        unread: Callable[[Path, OSError], None] = lambda path, error: None,  # called with a file that can't be read
    ) -> None:
        self._order, self._folder, self._done, self._log, self._unread = order, folder, done, log, unread
        self._stopped = False
        self._slots: list[Slot] = []
        self._deaths: Counter[Path] = Counter()  # of actors, by the file that they played
        self._early = 0  # of actors that hadn't begun
        self._outputs: dict[Path, Path] = {}
        self._again: deque[tuple[Path, FileRecord]] = deque()  # that were lost with their actors
        self._ahead: deque[tuple[Path, Future[FileRecord]]] = deque()  # whose digests are being made
        self._said = False

    def stop(self) -> None:
        """Files that play are given up; from a signal handler too."""
        self._stopped = True

    def run(
        self, options: PoolOptions, files: Sequence[tuple[Path, Path]], begun: Callable[[], object] = lambda: None
    ) -> None:
        """Plays files, each to its output; `begun` is called once the cluster is there. Raises CutsetError; what was
        done by then is noted."""
        if not files:
            return
        with open_pool(options, self._order.needs) as pool:
            begun()
            self.play(FilePool(pool, self._order), files)

    def play(self, pool: ActorPool, files: Sequence[tuple[Path, Path]]) -> None:
        """`run` with a pool that is there."""
        self._outputs = dict(files)
        waiting, looked = deque(self._outputs), time.monotonic()
        with ThreadPoolExecutor(1) as readers:
            try:
                self._grow(pool)
                while not self._stopped and (waiting or self._ahead or self._again or self._playing()):
                    while waiting and len(self._ahead) <= len(self._slots):
                        path = waiting.popleft()
                        self._ahead.append((path, readers.submit(begin_record, path)))
                    self._hand_out(pool)
                    self._look(pool)
                    if time.monotonic() - looked > JOINING_S:
                        looked = time.monotonic()
                        self._grow(pool)
            finally:
                for _, future in self._ahead:
                    future.cancel()
                for slot in self._slots:
                    if slot.item is not None:
                        slot.item.drop()
                    pool.end(slot.actor)

    def _playing(self) -> bool:
        return any(slot.item is not None for slot in self._slots)

    def _grow(self, pool: ActorPool) -> None:
        """Starts actors that there should be, as when nodes have joined."""
        for _ in range(pool.wanted() - len(self._slots)):
            self._slots.append(self._started(pool))

    def _started(self, pool: ActorPool) -> Slot:
        actor = pool.make()
        return Slot(actor, pool.call(actor, "open"))

    def _hand_out(self, pool: ActorPool) -> None:
        """Gives a file to each actor that has none."""
        for slot in self._slots:
            if not slot.there or slot.item is not None:
                continue
            if self._again:
                slot.item = Playing(*self._again.popleft())
            elif self._ahead and (self._ahead[0][1].done() or not self._playing()):
                path, future = self._ahead.popleft()
                try:
                    slot.item = Playing(path, future.result())
                except OSError as error:
                    self._unread(path, error)
                    continue
            else:
                return
            slot.call = pool.call(slot.actor, "begin", slot.item.record)

    def _look(self, pool: ActorPool) -> None:
        """Takes what has come of the calls."""
        calls = {slot.call: slot for slot in self._slots if not slot.there or slot.item is not None}
        now = time.monotonic()
        if not self._said and all(not slot.there and now - slot.since > SLOW_S for slot in self._slots):
            self._said = True
            self._log("no actor is there yet: the cluster may have no room")
        for call in pool.wait(list(calls), TICK) if calls else ():
            slot = calls[call]
            try:
                self._take(pool, slot, pool.answer(call))
            except ActorLost as error:
                self._lost(pool, slot, error)

    def _take(self, pool: ActorPool, slot: Slot, answer: Any) -> None:
        """The answer to a slot's call, and the next call. Raises CutsetError, OSError."""
        item = slot.item
        if item is None:
            if answer:
                raise EngineError(f"an actor can't go on: {answer}")
            slot.there, self._said = True, False
        elif item.file is None:
            if answer:
                raise EngineError(f"{answer}: what a batch reads must be found under the same names on all nodes")
            item.file = item.output.enter_context(self._folder.output(self._outputs[item.path]))
            slot.call = pool.call(slot.actor, "more")
        else:
            piece = FilePiece(*answer)
            item.file.write(piece.text)
            item.pictures += piece.pictures
            if piece.state == "more":
                slot.call = pool.call(slot.actor, "more")
            else:
                self._through(item, piece)
                slot.item = None

    def _through(self, item: Playing, piece: FilePiece) -> None:
        """The last piece of a file has come."""
        if piece.state == "failed":
            raise EngineError(f"an actor can't go on: {piece.error}")
        if piece.state == "done":
            item.output.close()
            item.record.items, item.record.output = item.pictures, self._outputs[item.path].name
        else:
            item.drop()
            item.record.error = piece.error
        self._done(item.path, item.record, GraphError(piece.error) if piece.state == "doubted" else None)

    def _lost(self, pool: ActorPool, slot: Slot, error: ActorLost) -> None:
        """Starts another actor; the file is played again, or given up where it ends whoever plays it."""
        item, why = slot.item, str(error)[:300]
        if item is None:
            self._early += not error.by_node
            if self._early >= MOST_DEATHS * len(self._slots):
                raise EngineError(f"actors end before they play anything: {why}")
        else:
            item.drop()
            self._deaths[item.path] += not error.by_node
            if self._deaths[item.path] >= MOST_DEATHS:
                item.record.error = f"{MOST_DEATHS} times it ended the actor that played it: {why}"
                self._done(item.path, item.record, None)
            else:
                self._log(f"{item.path} is played again: {why}")
                self._again.append((item.path, item.record))
        self._slots[self._slots.index(slot)] = self._started(pool)
