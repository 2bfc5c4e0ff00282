"""Who starts replicas: processes on this machine, or somebody else at given addresses; see `ray_replicas`, too."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import IO, Any, Protocol

from cutset.cluster.launch.party_evidence import PartyEvidence
from cutset.cluster.launch.party_keys import LISTENING, PartyKeys
from cutset.cluster.launch.run_folder import RunFolder
from cutset.config import OPTIONS, Settings
from cutset.link.keys import Keys, new_keys
from cutset.link.launch import PIPE, Child, environment

__all__ = ["GivenReplicas", "LaunchedReplica", "LocalReplicas", "ReplicaLauncher", "setting_flags"]

STOPPING = 5.0  # seconds that a replica may take to end in order
MOST_LINES = 5  # of what it said last


class LaunchedReplica(Protocol):
    """A replica that was started. `key`: its public key, where its address needs one."""

    @property
    def address(self) -> str:
        """Where it listens, or soon will; "" while nobody knows."""

    @property
    def key(self) -> bytes | None:
        """Its public key, where its address needs one."""

    def ended(self) -> str | None:
        """Why it will never listen, or has stopped; None while it may."""

    def stop(self) -> None:
        """Ends it and takes it away. A second call does nothing."""


class ReplicaLauncher(Protocol):
    """Starts replicas by name; a name may come again once its replica was stopped. Threads may call it at once."""

    def start(self, name: str) -> LaunchedReplica:
        """Begins to start one; doesn't wait for it. Raises CutsetError or OSError."""

    def close(self) -> None:
        """Takes away what all of them shared."""


class _LocalReplica:
    """A child that is a replica, whose lines on stderr are handed on. With `keys` it listens on tcp: where, it says."""

    def __init__(self, child: Child, address: str, report: Callable[[str], None], keys: PartyKeys | None) -> None:
        self.address, self.key = address, None if keys is None else keys.public
        self._child, self._report, self._keys = child, report, keys
        self._said: deque[str] = deque(maxlen=MOST_LINES)
        # The thread that reads closes it too: to close a file waits for whoever reads it.
        stderr, child.process.stderr = child.process.stderr, None
        self._reading = threading.Thread(target=self._read, args=(stderr,), name="cutset-replica-lines", daemon=True)
        self._reading.start()

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._child.process.pid

    def ended(self) -> str | None:
        """See LaunchedReplica."""
        code = self._child.process.poll()
        if code is None:
            return None
        self._reading.join(1.0)
        said = " ".join(self._said).removeprefix("cutset: error: ")[-300:]
        return said if code == 2 and said else f"it ended with {code}" + (f": {said}" if said else "")

    def stop(self) -> None:
        """See LaunchedReplica."""
        self._child.end(STOPPING)
        self._reading.join(1.0)

    def _read(self, stderr: IO[str]) -> None:
        with stderr:
            for line in stderr:
                self._said.append(line.strip())
                if self._keys is not None and not self.address and (found := re.search(LISTENING, line)):
                    self._keys.forget()
                    self.address = found[1]
                self._report(f"{self._child.what}: {line.rstrip()}")
        if self._keys is not None:
            self._keys.remove()


class LocalReplicas:
    """Processes on this machine, at sockets in a directory that only this user can open. They end with this process,
    however it does.

    `threads`: of each. `module`: what runs as one, with the arguments of a command line. `adapters`: LoRA adapters by
    name. `report` gets what they say, a line at a time. With `evidence`, which is bound to keys, they listen on tcp,
    each with a pair that is made for each start, and admit `keys`, the front's.
    """

    module = "cutset.cli"

    def __init__(
        self,
        model: str,
        settings: Settings,
        *,
        threads: int,
        cache_mib: int = 0,  # of each; 0: as the settings say
        adapters: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,  # variables that they have besides
        report: Callable[[str], None] = lambda line: None,
        evidence: PartyEvidence | None = None,
    ) -> None:
        self.keys: Keys | None = None if evidence is None else new_keys()
        self._folder = RunFolder()
        self.directory = self._folder.path
        self._threads, self._report, self._env = threads, report, dict(env or {})
        self._starts = count(1)
        flags = setting_flags(settings, threads=threads, cache_mib=cache_mib or settings.cache_mib)
        self._command = [self.module, "replica", model, *flags]
        if adapters:
            self._command += ["--lora-modules", *(f"{name}={where}" for name, where in adapters.items())]
        self._command += [] if evidence is None else evidence.words()

    def start(self, name: str) -> _LocalReplica:
        """See ReplicaLauncher."""
        path = self.directory / f"{name}-{next(self._starts)}"  # one that still stops removes its own file
        keys = None if self.keys is None else PartyKeys(path, [self.keys.public])
        address = "" if keys is not None else f"ipc://{path}"
        child = Child(
            name,
            [*self._command, *(["--listen", address] if keys is None else keys.words)],
            directory=self.directory,
            env=environment(self._threads, drop=("CUTSET_API_KEY",)) | self._env,
            stderr=PIPE,
        )
        return _LocalReplica(child, address, self._report, keys)

    def close(self) -> None:
        """See ReplicaLauncher."""
        self._folder.close()


@dataclass(frozen=True, slots=True)
class _GivenReplica:
    address: str
    key: bytes | None

    def ended(self) -> str | None:
        """Nobody knows."""
        return None

    def stop(self) -> None:
        """It is somebody else's."""


class GivenReplicas:
    """Replicas that somebody else starts and stops, at these addresses with their public keys."""

    def __init__(self, addresses: Sequence[tuple[str, bytes | None]]) -> None:
        self._addresses = {f"replica{number}": one for number, one in enumerate(addresses, 1)}

    def start(self, name: str) -> LaunchedReplica:
        """See ReplicaLauncher."""
        return _GivenReplica(*self._addresses[name])

    def close(self) -> None:
        """There is nothing to take away."""


def setting_flags(settings: Settings, **changed: Any) -> list[str]:
    """Flags of the command line that give the same settings, with those that are `changed`."""
    found: list[str] = []
    for name, option in OPTIONS.items():
        value = changed.get(name, getattr(settings, name))
        if (settings.sources[name] == "default" and name not in changed) or value in (None, (), ""):
            continue
        if isinstance(value, bool):
            found.append(option.flag if value else f"--no-{option.flag[2:]}")
        else:
            several = isinstance(value, tuple)
            found += [option.flag, option.separator.join(map(str, value)) if several else str(value)]
    return found
