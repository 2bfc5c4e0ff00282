"""A worker in a thread of this process."""

from __future__ import annotations

import threading
from typing import Any

from cutset.cluster.wire import LIMITS
from cutset.cluster.worker.worker import Worker
from cutset.cluster.worker.worker_settings import WorkerSettings
from cutset.link import listen


def torch_settings(**fields: Any) -> WorkerSettings:
    """Of a worker that computes with torch, in one thread."""
    from cutset.video.worker_runtime import VideoRuntime

    return WorkerSettings(VideoRuntime(), **fields)


class Running:
    """Serves until `close`; `said` is what it told."""

    def __init__(self, address: str, settings: WorkerSettings | None = None, **how: Any) -> None:
        self.said: list[str] = []
        keys, allow = how.pop("keys", None), how.pop("allow", None)
        listener = listen(address, keys=keys, allow=allow, limits=LIMITS)
        self.worker = Worker(listener, settings or torch_settings(), log=self.said.append, **how)
        self.address = listener.address
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.worker.serve, args=(self._stop.is_set,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)
        assert not self._thread.is_alive(), "the worker doesn't stop"
        self.worker.close()
