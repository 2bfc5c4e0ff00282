"""Workers that serve one test after another: a process with torch takes seconds to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")

from cutset.cluster.launch.local import LocalWorkers


@pytest.fixture(scope="session")
def workers() -> Iterator[LocalWorkers]:
    """Three; who kills one starts it again."""
    with LocalWorkers(3) as local:
        yield local


@pytest.fixture(autouse=True)
def _even_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """On one machine the best plan is one worker: what these tests are about needs several. Who names another
    scheduler gets it.
    """
    monkeypatch.setenv("CUTSET_STREAM_SCHEDULER", "even")
