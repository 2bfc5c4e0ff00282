"""A worker from addresses and files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from cutset.cluster.emulation import Speed
from cutset.cluster.wire import LIMITS
from cutset.cluster.worker.server import Worker
from cutset.cluster.worker.setting import Setting
from cutset.errors import ConfigError, DeviceError
from cutset.link import listen
from cutset.link.keys import load_allowed, load_keys

__all__ = ["open_worker"]


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
    if address.startswith("tcp://") and not (key and allow):
        raise ConfigError(
            "tcp needs --key (this side's secret key) and --allow (the coordinators' public keys); see `cutset keys`"
        )
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"--device {device}: {str(error).splitlines()[0][:200]}") from None
    keys = None if key is None else load_keys(key)
    allowed = None if allow is None else load_allowed(allow)
    listener = listen(address, keys=keys, allow=allowed, limits=LIMITS)
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
