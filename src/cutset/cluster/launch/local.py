"""Workers on this machine: processes that end with the one that started them."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from cutset.cluster.launch.run_folder import RunFolder
from cutset.cluster.model import Model
from cutset.errors import ConfigError
from cutset.link.launch import Child, end_all, environment

__all__ = ["MOST_WORKERS", "LocalWorkers"]

MOST_WORKERS = 64


class LocalWorkers:
    """Starts `count` workers on ipc in a directory that only this user can open, and stops them when closed.

    They share a cache of weights there; `stock` fills it, so that nothing has to be sent. When this process dies,
    however it does, the workers end and remove the directory.
    """

    def __init__(
        self,
        count: int,
        *,
        threads: int = 1,
        speeds: Sequence[float] = (),
        extra: Sequence[str] = (),
        quiet: bool = True,
    ) -> None:
        if not 1 <= count <= MOST_WORKERS:
            raise ConfigError(f"the number of workers must be from 1 to {MOST_WORKERS}, not {count}")
        self._folder = RunFolder()
        self.directory = self._folder.path
        self.cache = self.directory / "weights"
        self.names = [f"worker{i + 1}" for i in range(count)]
        self._threads, self._speeds, self._extra, self._quiet = threads, list(speeds), list(extra), quiet
        self._children: dict[str, Child] = {}
        try:
            self.cache.mkdir(mode=0o700)
            for name in self.names:
                self.start(name)
        except BaseException:
            self.close()
            raise

    @property
    def addresses(self) -> dict[str, tuple[str, bytes | None]]:
        """Name to address and key, as a coordinator takes them."""
        return {name: (f"ipc://{self.directory}/{name}", None) for name in self.names}

    def locate(self, name: str) -> tuple[str, bytes | None]:
        """See Launcher: always at the same socket."""
        return self.addresses[name]

    def ended(self) -> dict[str, str]:
        """See Launcher."""
        codes = {name: child.process.poll() for name, child in list(self._children.items())}
        return {name: f"its process ended with {code}" for name, code in codes.items() if code is not None}

    def start(self, name: str) -> None:
        """Starts a worker, or starts it again."""
        if name in self._children:
            self._children[name].end()
        stderr = subprocess.DEVNULL if self._quiet else None
        self._children[name] = Child(
            name,
            self.command(name),
            prefix=self.prefix(name),
            directory=self.directory,
            env=environment(self._threads),
            stderr=stderr,
        )

    def prefix(self, name: str) -> list[str]:
        """What a worker is started by, as `nice -n 10`: a program that becomes the worker (see `Child`); or nothing.

        Launchers on this machine override it, or `command`. Both are called while workers start, in `__init__`.
        """
        return []

    def command(self, name: str) -> list[str]:
        """What runs as a worker: a module of Cutset's and its arguments."""
        speed = self._speeds[self.names.index(name)] if self._speeds else 1.0
        command = ["cutset.cli", "stream", "worker", "--listen", f"ipc://{self.directory}/{name}"]
        command += ["--threads", str(self._threads), "--cache", str(self.cache), *self._extra]
        return command if speed == 1.0 else [*command, "--speed", str(speed)]

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
