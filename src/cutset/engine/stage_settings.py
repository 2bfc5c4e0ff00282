"""Who an engine's stages are, by its settings, and what doesn't go together with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cutset.config import Settings
from cutset.errors import ConfigError
from cutset.link.keys import load_public

__all__ = ["Addresses", "check_stages", "stage_addresses"]

Addresses = Mapping[str, tuple[str, bytes | None]]  # name to address and public key


def check_stages(settings: Settings) -> None:
    """Raises ConfigError for settings that don't go together with stages."""
    if not settings.stages:
        for name in ("stage_keys", "spares", "spare_keys"):
            if getattr(settings, name):
                raise ConfigError(f"--{name.replace('_', '-')} is for stages: name them with --stages")
        return
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
    if isinstance(settings.stages, int) and settings.stage_keys:
        raise ConfigError("--stage-keys is for stages at addresses: name them with --stages tcp://…")
    stage_addresses(settings)


def stage_addresses(settings: Settings) -> tuple[Addresses, Addresses]:
    """Stages and spares by address. Raises ConfigError for one that is there twice, or keys that don't match."""
    stages = () if isinstance(settings.stages, int) else settings.stages
    found = _keyed("stages", stages, settings.stage_keys), _keyed("spares", settings.spares, settings.spare_keys)
    if both := set(found[0]) & set(found[1]):
        raise ConfigError(f"{sorted(both)[0]} is both in --stages and in --spares: name it once")
    tcp = [name for each in found for name in each if name.startswith("tcp://")]
    if tcp and settings.key is None:
        raise ConfigError(f"{tcp[0]} needs --key, this side's secret key; see `cutset keys`")
    return found


def _keyed(what: str, names: Sequence[str], keys: Sequence[Path]) -> Addresses:
    flag = f"--{what.removesuffix('s')}-keys"
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--{what} names {name} twice: each stage is a process of its own")
        if not name.startswith(("tcp://", "ipc://")):
            raise ConfigError(f"--{what}: {name[:100]!r} is no address of a stage: tcp://HOST:PORT or ipc://PATH")
    public = [load_public(path) for path in keys]
    tcp = [name for name in names if name.startswith("tcp://")]
    if tcp and not public:
        raise ConfigError(f"{tcp[0]} needs its public key: give {flag}, in the order of --{what}")
    if public and len(public) != len(names):
        raise ConfigError(f"{flag} names {len(public)} keys for {len(names)} {what}")
    return {name: (name, public[i] if public else None) for i, name in enumerate(names)}
