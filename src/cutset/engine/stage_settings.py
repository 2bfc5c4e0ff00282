"""Who an engine's stages are, by its settings, and what doesn't go together with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cutset.cluster.coordinator.joining import check_joining, is_joiner
from cutset.cluster.coordinator.reach import Addresses
from cutset.cluster.launch import Launcher
from cutset.cluster.launch.party_evidence import check_evidence, has_keys
from cutset.cluster.launch.ray_launcher import RayOptions, check_ray
from cutset.cluster.messages import HANDSHAKE
from cutset.config import Settings
from cutset.errors import ConfigError
from cutset.link.addresses import NAME
from cutset.link.keys import Keys, load_public
from cutset.link.peer import Binding, Handshake
from cutset.link.rendezvous import SCHEME, Rendezvous
from cutset.partition.hop import Hop

__all__ = [
    "Addresses",
    "StageWorkers",
    "check_stages",
    "has_stages",
    "ray_options",
    "spare_count",
    "stage_addresses",
    "stage_count",
]


@dataclass(frozen=True)
class StageWorkers:
    """Who runs the stages, in this order, and who stands in for one that is gone."""

    stages: Addresses
    spares: Addresses = field(default_factory=dict)
    keys: Keys | None = None  # this side's, with tcp
    patience: float = 20.0  # seconds without a plan, after which requests end
    silence: float = 2.4  # seconds without a heartbeat, after which a worker counts as gone: soon known, within 3 s
    starting: float = 10.0  # seconds in which all stages must be there at the start
    paces: Mapping[tuple[str, str], Hop] = field(default_factory=dict)  # hops that are emulated, by their ends' names
    rendezvous: Rendezvous | None = None  # where those dial in whose address is join://NAME
    joining: float = 60.0  # seconds in which these must be there at the start
    launcher: Launcher | None = None  # who started the stages, and starts them again, maybe elsewhere
    verify: Callable[[bytes, Binding], bool] | None = None  # with tcp: says whether a stage's evidence is enough

    def handshake(self, model: str = "") -> Handshake:
        """What is said and asked first on every link to any of them. `model`: the digest of its weights."""
        return replace(HANDSHAKE, model=model, verify=self.verify)

    def locate(self, name: str) -> tuple[str, bytes | None]:
        """Where a stage or spare is now. Raises LinkError while it is nowhere."""
        if self.launcher is not None and name in self.launcher.names:
            return self.launcher.locate(name)
        return self.all[name]

    @property
    def all(self) -> dict[str, tuple[str, bytes | None]]:
        """Stages and spares."""
        return {**self.stages, **self.spares}


def has_stages(settings: Settings) -> bool:
    """Whether the model runs in stages."""
    return bool(settings.stages or settings.stages_listen)


def stage_count(settings: Settings) -> int:
    """How many stages there are, where they aren't named one by one."""
    if isinstance(settings.stages, int):
        return settings.stages
    return len(settings.stages) or len(settings.stage_keys)


def spare_count(settings: Settings) -> int:
    """How many spares are started here, or by Ray; those that are named by address aren't."""
    return settings.spares if isinstance(settings.spares, int) else 0


def ray_options(settings: Settings) -> RayOptions | None:
    """How Ray places the stages, None where it doesn't. Raises ConfigError."""
    counted = isinstance(settings.stages, int) and not settings.stages_listen
    found = check_ray(settings.ray, settings.place, insecure=settings.insecure_ray, counted=counted, flag="--stages")
    for name in ("key", "spares", "prefix_cache") if found is not None else ():
        placed = name == "spares" and spare_count(settings)
        if getattr(settings, name) and settings.by_hand(name) and not placed:
            raise ConfigError(f"--{name.replace('_', '-')} and --ray don't go together: leave one of them out")
    return found


def check_stages(settings: Settings) -> None:
    """Raises ConfigError for settings that don't go together with stages."""
    ray_options(settings)
    if not has_stages(settings):
        for name in ("stage_keys", "spares", "spare_keys", "stage_policy", "stage_evidence"):
            if getattr(settings, name):
                raise ConfigError(f"--{name.replace('_', '-')} is for stages: name them with --stages")
        for name in ("objective", "scheduler"):
            if settings.by_hand(name):
                raise ConfigError(f"--{name} is for stages: name them with --stages")
        return
    if settings.scheduler == "even" and settings.by_hand("objective"):
        raise ConfigError("--scheduler even measures nothing, so it has no --objective: leave one of them out")
    other = next((name for name in ("offload", "mode", "pads_from") if getattr(settings, name)), None)
    if other is not None:
        raise ConfigError(f"--stages and --{other.replace('_', '-')} don't go together yet: leave one of them out")
    if settings.prefix_cache and not isinstance(settings.stages, int):
        raise ConfigError(
            "--prefix-cache and --stages at addresses don't go together: each stage keeps its own layers' part. Give "
            "--prefix-cache to each `cutset stage`, and leave it out here"
        )
    if settings.device != "cpu":
        raise ConfigError("each stage runs on a device of its own: give `cutset stage` --device, and leave it out here")
    if spare_count(settings) and (not isinstance(settings.stages, int) or settings.stages_listen):
        raise ConfigError(
            f"--spares {settings.spares} is of stages that are started here: name spares by their addresses, as those"
        )
    if (
        not spare_count(settings)
        and settings.spares
        and isinstance(settings.stages, int)
        and not settings.stages_listen
    ):
        raise ConfigError("--spares at addresses are for --stages at addresses: say how many there are, as --spares 1")
    if isinstance(settings.stages, int) and settings.stage_keys and not settings.stages_listen:
        raise ConfigError(
            "--stage-keys is for stages at addresses: name them with --stages tcp://…, or wait for them with "
            "--stages-listen"
        )
    named, spares = stage_addresses(settings)
    check_evidence("stage", settings.stage_policy, settings.stage_evidence, {**named, **spares})


def stage_addresses(settings: Settings) -> tuple[Addresses, Addresses]:
    """Stages and spares by address; none where they are processes to be started here. Raises ConfigError for one that
    is there twice, or keys that don't match."""
    stages: Sequence[str] = () if isinstance(settings.stages, int) else settings.stages
    if settings.stages_listen and not stages:
        stages = _joiners(settings)
    spares: Sequence[str] = () if isinstance(settings.spares, int) else settings.spares
    found = _keyed("stages", stages, settings.stage_keys), _keyed("spares", spares, settings.spare_keys)
    if both := set(found[0]) & set(found[1]):
        raise ConfigError(f"{sorted(both)[0]} is both in --stages and in --spares: name it once")
    each = {**found[0], **found[1]}
    check_joining(settings.stages_listen, each, "stages")
    keyed = [name for name in each if has_keys(name)]
    if keyed and settings.key is None:
        raise ConfigError(f"{keyed[0]} needs --key, this side's secret key; see `cutset keys`")
    return found


def _joiners(settings: Settings) -> list[str]:
    """Names for stages that all dial in, by the files of their keys."""
    count, keys = stage_count(settings), settings.stage_keys
    if len(keys) != count or not count:
        raise ConfigError(
            f"--stages-listen waits for {count or 'no'} stages, and --stage-keys names {len(keys)} public keys: each "
            "stage that dials in is known by its own"
        )
    names = [path.stem for path in keys]
    good = len(set(names)) == len(names) and all(NAME.fullmatch(name) for name in names)
    return [f"{SCHEME}{name if good else number}" for number, name in enumerate(names, 1)]


def _keyed(what: str, names: Sequence[str], keys: Sequence[Path]) -> Addresses:
    flag = f"--{what.removesuffix('s')}-keys"
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--{what} names {name} twice: each stage is a process of its own")
        if not name.startswith(("tcp://", "ipc://", "shm://")) and not is_joiner(name):
            raise ConfigError(
                f"--{what}: {name[:100]!r} is no address of a stage: tcp://HOST:PORT, ipc://PATH, shm://NAME or "
                "join://NAME"
            )
    public = [load_public(path) for path in keys]
    keyed = [name for name in names if has_keys(name)]
    if keyed and not public:
        raise ConfigError(f"{keyed[0]} needs its public key: give {flag}, in the order of --{what}")
    if public and len(public) != len(names):
        raise ConfigError(f"{flag} names {len(public)} keys for {len(names)} {what}")
    return {name: (name, public[i] if public else None) for i, name in enumerate(names)}
