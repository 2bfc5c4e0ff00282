"""A worker in a thread of this process."""

from __future__ import annotations

import threading
from typing import Any

from cutset.cluster.wire import LIMITS
from cutset.cluster.worker.server import Worker
from cutset.cluster.worker.setting import Setting
from cutset.link import listen


class Running:
    """Serves until `close`; `said` is what it told."""

    def __init__(self, address: str, setting: Setting | None = None, **how: Any) -> None:
        self.said: list[str] = []
        keys, allow = how.pop("keys", None), how.pop("allow", None)
        listener = listen(address, keys=keys, allow=allow, limits=LIMITS)
        self.worker = Worker(listener, setting or Setting(), tell=self.said.append, **how)
        self.address = listener.address
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.worker.serve, args=(self._stop.is_set,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)
        assert not self._thread.is_alive(), "the worker doesn't stop"
        self.worker.close()
