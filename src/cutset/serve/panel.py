"""The dashboard alone, beside something that runs: `cutset stream run --dashboard`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import uvicorn

from cutset.serve.app import build_dashboard
from cutset.serve.auth import Auth
from cutset.serve.hub import Hub
from cutset.serve.request_limits import RequestLimits
from cutset.serve.server import bind, configuration, serve_in_thread

__all__ = ["open_panel"]


@contextlib.contextmanager
def open_panel(
    host: str = "127.0.0.1", port: int = 0, keys: Sequence[str] = (), metrics: Callable[[], bytes] | None = None
) -> Iterator[tuple[Hub, str]]:
    """Serves the dashboard from a thread of its own; gives where to publish, and its address. `metrics` gives what
    Prometheus reads at /metrics.

    Raises ConfigError for a port that is taken, and for a host that others reach without keys.
    """
    auth = Auth(keys, host)
    hub = Hub()
    with bind(host, port) as listening:
        server = uvicorn.Server(configuration(build_dashboard(hub, auth, metrics), RequestLimits(grace_s=1)))
        with serve_in_thread(server, listening) as url:
            try:
                yield hub, url
            finally:
                hub.close()
