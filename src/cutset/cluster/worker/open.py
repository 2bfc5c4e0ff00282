"""A worker from addresses and files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from cutset.cluster.emulation import Speed
from cutset.cluster.wire import LIMITS
from cutset.cluster.worker.server import Worker
from cutset.cluster.worker.setting import Setting
from cutset.errors import DeviceError
from cutset.link import Timeouts, listen
from cutset.link.keys import listening_keys

__all__ = ["open_worker"]

GREETING = 60.0  # seconds until whoever connects must have said hello; on a slow link that takes a while


def open_worker(
    address: str,
    *,
    threads: int,
    key: str | None = None,
    allow: str | None = None,
    cache: Path | None = None,
    weights: Path | None = None,
    memory: int = 0,
    device: str = "cpu",
    speed: float = 1.0,
    tell: Callable[[str], None] = lambda line: None,
) -> Worker:
    """Listens. Raises ConfigError, DeviceError or LinkError."""
    keys, allowed = listening_keys(address, key, allow, "coordinators")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"--device {device}: {str(error).splitlines()[0][:200]}") from None
    listener = listen(address, keys=keys, allow=allowed, timeouts=Timeouts(first=GREETING), limits=LIMITS)
    setting = Setting(
        threads=threads,
        device=device,
        memory=memory,
        cache=cache,
        weights=weights,
        keys=keys,
        coordinators=allowed,
        speed=Speed(speed).factor,
    )
    return Worker(listener, setting, tell=tell)
