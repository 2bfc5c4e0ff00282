"""Workers on this machine: processes that end with the one that started them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from cutset.cluster.model import Model
from cutset.errors import ConfigError

__all__ = ["MOST_WORKERS", "LocalWorkers"]

MOST_WORKERS = 64


class LocalWorkers:
    """Starts `count` workers on ipc in a directory that only this user can open, and stops them when closed.

    They share a cache of weights there; `stock` fills it, so that nothing has to be sent. Each worker watches its
    standard input, a pipe from here: when this process dies, however it does, the pipe closes and the worker ends and
    removes the directory.
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
        self.directory = Path(tempfile.mkdtemp(prefix="cutset-"))  # mode 0700
        self.cache = self.directory / "weights"
        self.names = [f"worker{i + 1}" for i in range(count)]
        self._threads, self._speeds, self._extra, self._quiet = threads, list(speeds), list(extra), quiet
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
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

    def start(self, name: str) -> None:
        """Starts a worker, or starts it again."""
        if name in self._processes:
            _end(self._processes[name])
        speed = self._speeds[self.names.index(name)] if self._speeds else 1.0
        command = [sys.executable, "-m", "cutset.cli", "stream", "worker"]
        command += ["--listen", f"ipc://{self.directory}/{name}", "--threads", str(self._threads)]
        command += ["--cache", str(self.cache), "--with-parent", str(self.directory)]
        command += self._extra
        if speed != 1.0:
            command += ["--speed", str(speed)]
        self._processes[name] = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if self._quiet else None,
            env=_environment(self._threads),
            start_new_session=True,  # Ctrl-C is for the coordinator, which stops them
        )

    def process(self, name: str) -> subprocess.Popen[bytes]:
        return self._processes[name]

    def stock(self, model: Model) -> None:
        """Puts a model's weights where the workers find them."""
        model.save_weights(self.cache)

    def close(self) -> None:
        """Stops the workers and removes the directory, even if a signal interrupts it. A second call does nothing."""
        try:
            for process in self._processes.values():
                process.terminate()  # all at once
            for process in self._processes.values():
                _end(process)
        except BaseException:  # they were told not to remove the directory, or can't any more
            for process in self._processes.values():
                process.kill()
                process.wait()
            raise
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> LocalWorkers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stops a process if it runs, and takes it away."""
    if process.stdin is not None and not process.stdin.closed:
        with contextlib.suppress(OSError):
            process.stdin.write(b".")  # on purpose: others may still use the directory
            process.stdin.close()
    process.terminate()
    try:
        process.wait(1.0)  # it holds nothing that would be lost
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _environment(threads: int) -> Mapping[str, str]:
    return os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
