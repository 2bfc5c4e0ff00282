"""Workers on this machine: processes that end with the one that started them."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from itertools import count as numbers
from types import TracebackType
from typing import IO, Self

from cutset.cluster.launch.party_evidence import PartyEvidence
from cutset.cluster.launch.party_keys import LISTENING, PartyKeys
from cutset.cluster.launch.run_folder import RunFolder
from cutset.cluster.model import Model
from cutset.errors import ConfigError, LinkError
from cutset.link.keys import Keys, new_keys
from cutset.link.launch import PIPE, Child, end_all, environment

__all__ = ["MOST_WORKERS", "LocalWorkers"]

MOST_WORKERS = 64
BEGINNING = 120.0  # seconds until all that have keys must have said where they listen
LAST_WORDS = 5  # lines of what a worker said, for the reason of its end


class LocalWorkers:
    """Starts `count` workers on ipc in a directory that only this user can open, and stops them when closed.

    They share a cache of weights there; `stock` fills it, so that nothing has to be sent. When this process dies,
    however it does, the workers end and remove the directory. With `evidence`, which is bound to keys, they listen on
    tcp, each with a pair that is made for each of its starts, and admit `keys`, this side's; then it is waited until
    all of them listen. Raises ConfigError, and LinkError for one that doesn't.
    """

    def __init__(
        self,
        count: int,
        *,
        threads: int = 1,
        speeds: Sequence[float] = (),
        extra: Sequence[str] = (),
        quiet: bool = True,
        evidence: PartyEvidence | None = None,
    ) -> None:
        if not 1 <= count <= MOST_WORKERS:
            raise ConfigError(f"the number of workers must be from 1 to {MOST_WORKERS}, not {count}")
        self._folder = RunFolder()
        self.directory = self._folder.path
        self.cache = self.directory / "weights"
        self.names = [f"worker{i + 1}" for i in range(count)]
        self._threads, self._speeds, self._extra, self._quiet = threads, list(speeds), list(extra), quiet
        self._children: dict[str, Child] = {}
        self._evidence, self._starts = evidence, numbers(1)
        self.keys: Keys | None = None if evidence is None else new_keys()
        self._pairs: dict[str, PartyKeys] = {}  # of those that are started on tcp
        self._found: dict[str, tuple[str, bytes | None]] = {}  # where they listen
        self._why: dict[str, str] = {}  # of those that ended before that, or later
        self._step = threading.Condition()
        try:
            self.cache.mkdir(mode=0o700)
            for name in self.names:
                self.start(name)
            if self.keys is not None:
                self._wait_for_all()
        except BaseException:
            self.close()
            raise

    @property
    def addresses(self) -> dict[str, tuple[str, bytes | None]]:
        """Name to address and key, as a coordinator takes them."""
        if self.keys is not None:
            with self._step:
                return {name: self._found[name] for name in self.names if name in self._found}
        return {name: (f"ipc://{self.directory}/{name}", None) for name in self.names}

    def locate(self, name: str) -> tuple[str, bytes | None]:
        """See Launcher: always at the same socket; on tcp where it listens since its last start."""
        found = self.addresses.get(name)
        if found is None:
            raise LinkError(f"{name} is nowhere: {self._why.get(name, 'it is being started')}")
        return found

    def ended(self) -> dict[str, str]:
        """See Launcher."""
        codes = {name: child.process.poll() for name, child in list(self._children.items())}
        return {name: f"its process ended with {code}" for name, code in codes.items() if code is not None}

    def start(self, name: str) -> None:
        """Starts a worker, or starts it again."""
        if name in self._children:
            self._children[name].end()
        stderr = subprocess.DEVNULL if self._quiet else None
        if self.keys is not None:
            with self._step:
                self._found.pop(name, None)
                self._why.pop(name, None)
            self._pairs[name] = PartyKeys(self.directory / f"{name}-{next(self._starts)}", [self.keys.public])
            stderr = PIPE
        child = self._children[name] = Child(
            name,
            self.command(name),
            prefix=self.prefix(name),
            directory=self.directory,
            env=environment(self._threads),
            stderr=stderr,
        )
        if self.keys is not None and child.process.stderr is not None:
            # The thread that reads closes it too: to close a file waits for whoever reads it.
            said, child.process.stderr = child.process.stderr, None
            given = (name, child, self._pairs[name], said)
            threading.Thread(target=self._read, args=given, name=f"cutset-{name}-lines", daemon=True).start()

    def _read(self, name: str, child: Child, keys: PartyKeys, stderr: IO[str]) -> None:
        """Learns where a worker listens, until it ends."""
        last: deque[str] = deque(maxlen=LAST_WORDS)
        with stderr:
            for line in stderr:
                last.append(line.strip())
                if found := re.search(LISTENING, line):
                    keys.forget()
                    with self._step:
                        if self._children.get(name) is child:
                            self._found[name] = found[1], keys.public
                        self._step.notify_all()
                if not self._quiet:
                    sys.stderr.write(line)
        keys.remove()
        with self._step:
            if self._children.get(name) is child:
                self._found.pop(name, None)
                self._why[name] = " ".join(last).removeprefix("cutset: error: ")[-300:] or "it said nothing"
            self._step.notify_all()

    def _wait_for_all(self) -> None:
        """Raises ConfigError for one that ends, LinkError for one that says nothing."""
        until = time.monotonic() + BEGINNING
        with self._step:
            while len(self._found) < len(self.names):
                if self._why:
                    name, why = next(iter(self._why.items()))
                    raise ConfigError(f"{name} can't be started: {why}")
                if time.monotonic() > until:
                    absent = ", ".join(name for name in self.names if name not in self._found)
                    raise LinkError(f"{absent}: nobody listens after {BEGINNING:.0f} s")
                self._step.wait(0.5)

    def prefix(self, name: str) -> list[str]:
        """What a worker is started by, as `nice -n 10`: a program that becomes the worker (see `Child`); or nothing.

        Launchers on this machine override it, or `command`. Both are called while workers start, in `__init__`.
        """
        return []

    def command(self, name: str) -> list[str]:
        """What runs as a worker: a module of Cutset's and its arguments."""
        speed = self._speeds[self.names.index(name)] if self._speeds else 1.0
        command = ["cutset.cli", "stream", "worker", *self.listening(name)]
        command += ["--threads", str(self._threads), "--cache", str(self.cache), *self._extra]
        return command if speed == 1.0 else [*command, "--speed", str(speed)]

    def listening(self, name: str) -> list[str]:
        """The flags of a worker's command that say where it listens, and which evidence it shows."""
        if self._evidence is None:
            return ["--listen", f"ipc://{self.directory}/{name}"]
        return [*self._pairs[name].words, *self._evidence.words()]

    def process(self, name: str) -> subprocess.Popen[str]:
        """A worker's process."""
        return self._children[name].process

    def stock(self, model: Model) -> None:
        """Puts a model's weights where the workers find them."""
        model.save_weights(self.cache)

    def close(self) -> None:
        """Stops the workers and removes the directory, even if a signal interrupts it. A second call does nothing."""
        try:
            end_all(list(self._children.values()))
        finally:
            self._folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
