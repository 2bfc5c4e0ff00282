"""Replicas that Ray places on the nodes of a cluster, each a whole engine; the front that asks them is outside."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cutset.cluster.launch.party_evidence import PartyEvidence
from cutset.cluster.launch.party_needs import Needs, parse_places
from cutset.cluster.launch.ray_launcher import PartyOrder, RayLauncher, RayOptions
from cutset.config import Settings
from cutset.engine.ray_stages import CACHE_MIB, PROCESS, held_bytes
from cutset.errors import ConfigError, LinkError
from cutset.link.keys import Keys
from cutset.models.files.integer import Progress
from cutset.models.files.source import ModelSource, open_source
from cutset.models.registry import resolve, settings_for
from cutset.models.run.backend import BackendChoice, block_bytes, choose, stored_dtype
from cutset.serve.replicas.replica_launchers import setting_flags
from cutset.serve.replicas.replica_scale import ReplicaScale

__all__ = ["RayReplicas"]

STARTING = 600.0  # seconds that the first replicas get to load their model
LEAST_CACHE = 1 << 20  # bytes
# Settings that say how Ray places parties, and who this side is: no business of those that are placed.
OWN = dict.fromkeys(("ray", "place", "insecure_ray", "key"))


class _RayReplica:
    """A party of the launcher's, from one of its starts on."""

    def __init__(self, launcher: RayLauncher, name: str, stop: Callable[[_RayReplica], None]) -> None:
        self.name = name
        self.place: tuple[str, bytes | None] | None = None  # where it was found
        self._launcher, self._stop = launcher, stop

    @property
    def address(self) -> str:
        """See LaunchedReplica."""
        if self.place is None:
            try:
                self.place = self._launcher.locate(self.name)
            except LinkError:  # it is on its way
                return ""
        return self.place[0]

    @property
    def key(self) -> bytes | None:
        """See LaunchedReplica: made on its node."""
        return None if self.place is None else self.place[1]

    @property
    def pid(self) -> int:
        """Of its process, on its node."""
        return self._launcher.process_id(self.name)

    def ended(self) -> str | None:
        """See LaunchedReplica."""
        return self._launcher.ended().get(self.name)

    def stop(self) -> None:
        """See LaunchedReplica."""
        self._stop(self)


class RayReplicas:
    """A ReplicaLauncher. The least number are placed together when this is made, spread over the nodes; others get
    their places when they are wanted, and give them back when they are stopped.

    Each reserves processors for its threads, and memory for the weights and a cache, of which it is told the size. A
    node has the model by the same name; on a local cluster it is the file of this side. Raises CutsetError where there
    is no cluster, no room for the first ones, or they can't be started; nothing is left then.
    """

    def __init__(
        self,
        model: str,
        settings: Settings,
        options: RayOptions,
        scale: ReplicaScale,
        *,
        adapters: Mapping[str, str] | None = None,
        progress: Progress | None = None,
        report: Callable[[str], None] = lambda line: None,
        evidence: PartyEvidence | None = None,  # what each shows
    ) -> None:
        names = [f"replica{number}" for number in range(1, scale.most + 1)]
        local = options.where == "local"
        found = resolve(model, settings, progress)
        settings = settings_for(found, settings)
        source = open_source(found.directory, settings.verify)
        choice = choose(settings, stored_dtype(source))
        threads = max(1, settings.thread_count // scale.most) if local else settings.threads or 1
        weights = held_bytes(source, choice)
        cache = _cache_bytes(source, settings, choice)
        needs = parse_places(options.places, names, Needs(float(threads), PROCESS + weights + cache))
        # A node knows the model by its name, or has it at the same place.
        there = local or Path(model).exists()
        words = ["cutset.cli", "replica", str(source.path.absolute()) if there else model]
        extra = [f"{name}={Path(where).absolute()}" for name, where in (adapters or {}).items()]
        extra = ["--lora-modules", *extra] if extra else []
        extra += [] if evidence is None else evidence.words(elsewhere=True)
        self._orders: dict[str, PartyOrder] = {}
        for name, one in needs.items():
            own = max(1, int(one.cpus))
            changed: dict[str, Any] = OWN | {"threads": own}
            if one.gpus:
                changed["device"] = "cuda"
            else:
                room = one.memory - PROCESS - weights
                if room < max(LEAST_CACHE, settings.cache_mib << 20):
                    raise ConfigError(
                        f"--place: {name} needs {(PROCESS + weights + max(LEAST_CACHE, cache)) / 2**20:,.0f} MiB for "
                        f"the model and its cache, not {one.memory / 2**20:,.0f} MiB"
                    )
                changed["cache_mib"] = settings.cache_mib or room >> 20
            self._orders[name] = PartyOrder([*words, *setting_flags(settings, **changed), *extra], own, one)
        self._lock = threading.Lock()
        self._current: dict[str, _RayReplica] = {}
        first = {name: self._orders[name] for name in names[: scale.least]}
        every = list(needs.values())
        self.placed = RayLauncher(first, options, room=every, beginning=STARTING, log=report)

    @property
    def keys(self) -> Keys:
        """The front's pair, which its replicas admit."""
        return self.placed.keys

    def start(self, name: str) -> _RayReplica:
        """See ReplicaLauncher. One that is there and that nobody has used yet is taken as it is: one of the first, or
        one that was placed anew because Ray had been away."""
        with self._lock:
            before, found = self._current.get(name), _RayReplica(self.placed, name, self._stop)
            self._current[name] = found
            used = None if before is None else before.place
            if not found.address or found.place == used:
                found.place = None
                self.placed.add(name, self._orders[name])
            return found

    def _stop(self, one: _RayReplica) -> None:
        with self._lock:
            if self._current.get(one.name) is one:  # else another start of it has taken its place
                del self._current[one.name]
                self.placed.remove(one.name)

    def close(self) -> None:
        """See ReplicaLauncher: ends what is left of them."""
        self.placed.close()


def _cache_bytes(source: ModelSource, settings: Settings, choice: BackendChoice) -> int:
    """Of each, where no memory is given by hand: for one sequence of the longest context, and at least for some."""
    if settings.cache_mib:
        return settings.cache_mib << 20
    context = settings.max_model_len or source.spec.context
    longest = -(-context // settings.block_size) * block_bytes(source.spec, choice, settings)
    states = 4 * source.spec.state_floats * settings.max_num_seqs
    return max(CACHE_MIB << 20, longest) + states
