"""Profiles that were measured before: of the same graph, machine, threads and versions.

They lie in `cutset/profiles` below $XDG_CACHE_HOME (~/.cache), a file each, and can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
from pathlib import Path

import msgspec

from cutset.config import usable_cores
from cutset.errors import ConfigError
from cutset.files import write_atomically
from cutset.partition.profile.profile import Profile, read_profile, write_profile

__all__ = ["cpu_name", "keep", "kept", "versions"]


def cpu_name() -> str:
    """The processor's model."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()[:200]
    return (platform.processor() or platform.machine() or "unknown")[:200]


def versions() -> dict[str, str]:
    """Of what computes."""
    return {name: importlib.metadata.version(name) for name in ("cutset", "torch")}


def kept(digest: str, threads: int) -> Profile | None:
    """The profile of that graph on this machine with so many threads, without sizes; None if there is none."""
    try:
        profile = read_profile(_place(digest, threads))
    except ConfigError:
        return None
    return profile if (profile.graph, profile.threads) == (digest, threads) else None


def keep(profile: Profile) -> None:
    """Remembers a profile, where that is possible."""
    place = _place(profile.graph, profile.threads)
    with contextlib.suppress(OSError, ConfigError):
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(place, write_profile(msgspec.structs.replace(profile, sizes=None)))


def _place(digest: str, threads: int) -> Path:
    key = json.dumps([digest, cpu_name(), usable_cores(), threads, versions()], sort_keys=True)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "cutset" / "profiles" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
