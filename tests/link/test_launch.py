"""Child processes: how they are told what to do, and that they end with their parent, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cutset.errors import DeviceError, EngineError
from cutset.link.launch import PIPE, Child, end_all, environment, probe

# What children run: says that it is there and what it was told, then answers lines, and ends when told to.
TALKER = """
import json, os, signal, sys, time
print(json.dumps({"argv": sys.argv[1:], "pid": os.getpid(), "session": os.getsid(0), "name": __name__}), flush=True)
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(json.dumps({"deaf": True}), flush=True)
while "deaf" in sys.argv or "wait" in sys.argv:
    time.sleep(0.1)
for line in sys.stdin:
    command = json.loads(line)
    if command.get("end"):
        break
    print(json.dumps(command | {"heard": True}), flush=True)
"""


@pytest.fixture(autouse=True)
def _talker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "talker.py").write_text(TALKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never was"
        time.sleep(0.01)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def talker(*arguments: str, **how: Any) -> Child:
    return Child("the talker", ["talker", *arguments], stdin=PIPE, stdout=PIPE, **how)


def test_a_child_runs_a_module_in_a_session_of_its_own() -> None:
    child = talker("a", "--b")
    found = child.answer()
    assert found == {"argv": ["a", "--b"], "pid": child.process.pid, "session": child.process.pid, "name": "__main__"}
    child.ask({"x": 1})
    assert child.answer() == {"x": 1, "heard": True}
    child.end(20)
    assert child.process.returncode == 0, "its stdin closed, and it ended by itself"
    child.end()


def test_a_child_started_by_another_program_is_the_same_process() -> None:
    child = talker("a", prefix=["nice", "-n", "3"])
    found = child.answer()
    assert (found["pid"], found["argv"]) == (child.process.pid, ["a"])
    assert os.getpriority(os.PRIO_PROCESS, found["pid"]) == min(os.getpriority(os.PRIO_PROCESS, 0) + 3, 19)
    child.end(20)
    assert child.process.returncode == 0


def test_a_child_that_has_ended_is_an_error_that_names_it() -> None:
    child = talker()
    child.answer()
    child.ask({"end": True})
    with pytest.raises(EngineError, match="the talker ended with 0"):
        child.answer()
    with pytest.raises(EngineError, match="the talker ended with 0"):
        child.ask({"x": 1})
    child.end()


def test_what_a_child_said_before_it_failed_to_start() -> None:
    child = Child("the server", ["cutset.cli", "accelerator", "no-such-model", "--listen", "inproc://x"], stderr=PIPE)
    with pytest.raises(EngineError, match=r"the server ended with 2 and didn't start: .*no-such-model"):
        child.until("listening")
    child.end()


@pytest.mark.parametrize(
    "end",
    [lambda child: child.end(0.1), Child.kill, lambda child: end_all([child], 0.1)],
    ids=["end", "kill", "all"],
)
def test_a_child_that_heeds_nothing_is_killed(end: Callable[[Child], None]) -> None:
    child = talker("deaf")
    child.answer()
    assert child.answer() == {"deaf": True}
    end(child)
    assert child.process.returncode == -signal.SIGKILL
    child.end()


PARENT = """
import sys, time
from pathlib import Path
from cutset.link.launch import Child, PIPE
shared = Path(sys.argv[1])
shared.mkdir()
child = Child("the talker", ["talker", *sys.argv[2:]], directory=shared, stdin=PIPE, stdout=PIPE)
print(child.answer()["pid"], flush=True)
if sys.argv[2:] == ["deaf"]:
    child.answer()
if "end" in sys.argv:
    child.end()
    print(shared.exists(), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["wait", "deaf"])
def test_a_child_ends_with_a_parent_that_is_killed_and_removes_their_directory(tmp_path: Path, how: str) -> None:
    """Also one that doesn't read its stdin, and one that heeds no signal."""
    shared = tmp_path / "shared"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, shared, how], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
        assert lives(pid)
        assert shared.is_dir()
        if how == "deaf":
            time.sleep(0.3)
        parent.kill()
        parent.wait()
    until(lambda: not shared.exists())
    until(lambda: not lives(pid))


def test_a_child_that_is_stopped_leaves_the_directory_to_its_parent(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, shared, "wait", "end"], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
        assert parent.stdout.readline() == "True\n"
        assert not lives(pid)
        parent.kill()
        parent.wait()
    assert shared.is_dir()


def test_a_child_doesnt_live_on_another_childs_lifeline(tmp_path: Path) -> None:
    """The writing ends of pipes aren't handed to children that are started later."""
    first, second = talker("wait"), talker("wait")
    pids = [child.answer()["pid"] for child in (first, second)]
    os.close(first._lifeline)  # as if this process were gone, for the first one
    first._lifeline = -1
    until(lambda: not lives(pids[0]))
    assert lives(pids[1])
    for child in (first, second):
        child.end(0.1)


def test_a_signal_while_children_are_stopped_kills_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    children = [talker("deaf") for _ in range(2)]
    for child in children:
        child.answer()
        child.answer()

    def interrupted(self: Child, patience: float = 1.0) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Child, "end", interrupted)
        with pytest.raises(KeyboardInterrupt):
            end_all(children)
    assert [child.process.returncode for child in children] == [-signal.SIGKILL] * 2
    for child in children:
        child.end()


def test_variables_of_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTSET_ISA", "avx2")
    monkeypatch.setenv("CUTSET_THREADS", "3")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert environment() == dict(os.environ)
    found = environment(2, drop=("CUTSET_", "OMP_"), keep=("CUTSET_ISA",))
    assert (found["CUTSET_ISA"], found["OMP_NUM_THREADS"], found["MKL_NUM_THREADS"]) == ("avx2", "2", "2")
    assert "CUTSET_THREADS" not in found
    assert "OMP_WAIT_POLICY" not in found
    assert environment(drop=("",), keep=("PATH",)) == {"PATH": os.environ["PATH"]}


def test_a_probe_answers_or_says_what_its_process_said() -> None:
    assert probe("import json, sys; print(json.dumps(sys.argv[1:]))", "x", timeout=30) == ["x"]
    with pytest.raises(DeviceError, match="ZeroDivisionError: division by zero"):
        probe("1 / 0", timeout=30)
    with pytest.raises(DeviceError, match="Expecting value"):
        probe("print('no JSON')", timeout=30)
    with pytest.raises(DeviceError, match=r"timed out after 0\.2 seconds"):
        probe("import time; time.sleep(60)", timeout=0.2)
