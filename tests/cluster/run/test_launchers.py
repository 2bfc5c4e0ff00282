"""What every launcher on this machine does: the same results, and nobody stays behind, however its process ends."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from cluster.run.pictures import expected, moving, same, small_model
from cutset.cluster.coordinator.switching import Options
from cutset.cluster.launch.local import LocalWorkers
from cutset.stream import Stream

LAUNCHERS: list[type[LocalWorkers]] = [LocalWorkers]

PARENT = """
import sys
from {module} import {name}
workers = {name}(2)
print(workers.directory, *(workers.process(one).pid for one in workers.names), flush=True)
sys.stdin.read()
"""


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launchers_workers_give_the_same_results_and_end_with_it(launcher: type[LocalWorkers]) -> None:
    model, pictures = small_model(), moving(5)
    with launcher(2) as workers:
        workers.stock(model)
        assert type(workers) is launcher
        pids = [workers.process(name).pid for name in workers.names]
        # On a busy machine, too.
        patient = Options(gather=60.0, silence=30.0)
        with Stream(model, pictures, workers=workers.addresses, options=patient) as stream:
            results = list(stream)
            _, plan, _ = stream.coordinator.plans[0]
        assert [stage.worker for stage in plan.stages] == workers.names
        assert all(map(lives, pids))
    same(results, expected(pictures))
    assert not any(map(lives, pids))
    assert not workers.directory.exists()
    workers.close()


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_that_is_killed_leaves_nobody(launcher: type[LocalWorkers]) -> None:
    code = PARENT.format(module=launcher.__module__, name=launcher.__name__)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as parent:
        assert parent.stdout is not None
        directory, *pids = parent.stdout.readline().split()
        assert len(pids) == 2
        assert all(lives(int(pid)) for pid in pids)
        parent.kill()
    deadline = time.monotonic() + 60
    while Path(directory).exists() or any(lives(int(pid)) for pid in pids):
        assert time.monotonic() < deadline, "a worker or its directory outlived its launcher"
        time.sleep(0.02)
