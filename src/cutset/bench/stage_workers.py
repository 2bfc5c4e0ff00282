"""Stages and engines that `cutset bench stages` measures: processes of their own, each on cores of its own.

A process is pinned and its thread budget set before it loads anything: both are there when its program begins.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.bench.turns import Process
from cutset.cluster.coordinator.reach import reach
from cutset.cluster.launch.local import LocalWorkers
from cutset.errors import EngineError
from cutset.link.keys import load_keys, load_public, new_keys, save_keys

__all__ = ["MOST_STEPS", "BenchStages", "cores", "engine_process", "on_cores", "resident"]

MOST_STEPS = 1 << 16  # of a timed stage
PIN = "import os,sys;os.sched_setaffinity(0,map(int,sys.argv[1].split(',')));os.execvp(sys.argv[2],sys.argv[2:])"


def cores(count: int) -> list[int]:
    """So many different cores that this process may use. Raises EngineError where there are fewer."""
    found = sorted(os.sched_getaffinity(0))
    if len(found) < count:
        raise EngineError(f"this benchmark pins processes to {count} cores, and this one may use {len(found)}")
    return found[:count]


def on_cores(chosen: Collection[int]) -> list[str]:
    """What a command is prefixed with, to run on these cores alone."""
    return [sys.executable, "-S", "-c", PIN, ",".join(map(str, chosen))]


def engine_process(
    model: Path, chosen: Collection[int], options: Mapping[str, Any], *, hop: float = 0.0, name: str = "the engine"
) -> Process:
    """A `cutset.bench.stage_engine` on these cores; it has a thread for each, unless it has stages."""
    threads = 1 if options.get("stages") else len(chosen)
    options = {"threads": threads, **options}
    command = [sys.executable, "-m", "cutset.bench.stage_engine", str(model), json.dumps(options), "--hop", str(hop)]
    return Process(command, name=name, threads=threads, quiet=True, prefix=on_cores(chosen))


class BenchStages(LocalWorkers):
    """Starts stages, one on each of `chosen`, which may name a core several times.

    `scheme`: how others reach them. tcp has keys, of which `settings` names the files. `model`: what they read their
    layers from; None: they are sent. `memory`: bytes that each may use, 0 for no limit. `timed`: they note when their
    kernels ran (`cutset.bench.timed_stage`), which `times` reads.
    """

    def __init__(
        self,
        chosen: Sequence[int],
        model: Path | None,
        *,
        scheme: str = "ipc",
        memory: Sequence[int] = (),
        timed: bool = False,
    ) -> None:
        self._chosen, self._model, self._scheme, self._memory, self._timed = chosen, model, scheme, memory, timed
        self._places: dict[str, str] = {}
        self._unique = secrets.token_hex(4)
        super().__init__(len(chosen), threads=1)
        try:
            self.wait()
        except BaseException:
            self.close()
            raise

    def start(self, name: str) -> None:
        if not self._places:
            self._prepare()
        super().start(name)

    def _prepare(self) -> None:
        if self._scheme == "tcp":
            for party in ("engine", *self.names):
                save_keys(new_keys(), party, self.directory)
        for name in self.names:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            where = {"ipc": f"{self.directory}/{name}", "shm": f"bench-{self._unique}-{name}"}
            self._places[name] = f"{self._scheme}://{where.get(self._scheme, f'127.0.0.1:{port}')}"

    def prefix(self, name: str) -> list[str]:
        return on_cores([self._chosen[self.names.index(name)]])

    def command(self, name: str) -> list[str]:
        command = ["cutset.bench.timed_stage", str(self._times(name))] if self._timed else ["cutset.cli", "stage"]
        command += ["--listen", self._places[name], "--threads", "1"]
        if self._model is not None:
            command += ["--model", str(self._model)] if self._timed else [str(self._model)]
        if self._memory:
            command += ["--memory", f"{self._memory[self.names.index(name)]}B"]
        if self._scheme == "tcp":
            key, allow = self.directory / f"{name}.key", self.directory / "engine.pub"
            command += ["--key", str(key), "--allow", str(allow)]
        return command

    @property
    def addresses(self) -> dict[str, tuple[str, bytes | None]]:
        public = self._public
        return {name: (place, public.get(name)) for name, place in self._places.items()}

    @property
    def _public(self) -> dict[str, bytes]:
        if self._scheme != "tcp":
            return {}
        return {name: load_public(self.directory / f"{name}.pub") for name in self.names}

    def settings(self, names: Sequence[str] = ()) -> dict[str, Any]:
        """What an engine needs to run on these, all by default."""
        chosen = names or self.names
        found: dict[str, Any] = {"stages": [self._places[name] for name in chosen]}
        if self._scheme == "tcp":
            found |= {"key": str(self.directory / "engine.key")}
            found |= {"stage_keys": [str(self.directory / f"{name}.pub") for name in chosen]}
        return found

    def wait(self) -> None:
        """Until all of them answer."""
        keys = load_keys(self.directory / "engine.key") if self._scheme == "tcp" else None
        reach(self.addresses, keys=keys, seconds=60.0)

    def kill(self, name: str) -> None:
        """As `kill -9` does; `start` starts it again."""
        self.process(name).kill()

    def freeze(self, name: str) -> None:
        """It is there, and does nothing."""
        os.kill(self.process(name).pid, signal.SIGSTOP)

    def cpu(self, name: str) -> float:
        """Seconds of a core that a stage has used."""
        return time.clock_gettime(~self.process(name).pid << 3 | 2)  # Linux's clock of another process

    def times(self, name: str) -> NDArray[np.float64]:
        """(steps, 2): when a timed stage's kernels began and ended, by `time.monotonic()`."""
        found = np.fromfile(self._times(name)).reshape(-1, 2)
        return found[: np.count_nonzero(found[:, 1])]

    def _times(self, name: str) -> Path:
        return self.directory / f"{name}.times"


def resident(pid: int) -> int:
    """Bytes of memory that a process has for itself: pages of files, which the system may drop, don't count."""
    found = 0
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(("RssAnon:", "RssShmem:")):
            found += int(line.split()[1]) << 10
    return found
