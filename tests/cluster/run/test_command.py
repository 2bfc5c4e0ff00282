"""`cutset stream run` and `cutset stream worker` as a user types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("torch")

from cutset.cli.serving_worker import size_in_bytes
from cutset.errors import ConfigError

RUN = [sys.executable, "-m", "cutset.cli", "stream", "run", "alexnet", "--scheduler", "even"]


@pytest.fixture(autouse=True)
def _even_splits() -> None:
    """Here the command line's own default is in force."""


@pytest.mark.slow
def test_a_run_prints_a_line_a_picture_checks_and_writes_figures(tmp_path: Path) -> None:
    files = ["--json", str(tmp_path / "r.json"), "--trace", str(tmp_path / "t.json")]
    more = ["--source", "generated:80x80,pictures=4", "--workers", "2", "--check"]
    done = subprocess.run([*RUN, *more, *files], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["0", "1", "2", "3"]
    assert "all 4 pictures have the bits" in done.stderr
    figures = json.loads((tmp_path / "r.json").read_text())
    assert {row["metric"] for row in figures["rows"]} >= {"latency", "throughput", "largest error"}
    assert len(figures["pictures"]) == 4
    assert (tmp_path / "t.json").stat().st_size > 1000


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_no_worker() -> None:
    command = [*RUN, "--source", "generated:80x80", "--workers", "1", "--quiet"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "plan 1:" in line:
                break
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert children, "no worker was started"
        arguments = Path(f"/proc/{children[0]}/cmdline").read_text().split("\0")
        directory = Path(arguments[arguments.index("--listen") + 1].removeprefix("ipc://")).parent
        assert directory.is_dir()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
    for child in children:
        for _ in range(100):
            if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split(")")[1][:3]:
                break
            os.sched_yield()
            subprocess.run(["sleep", "0.1"], check=True)
        else:
            pytest.fail("a worker outlived the run")
    assert not directory.exists()


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a profile and a trained sparsity model of small pictures."""
    folder = tmp_path_factory.mktemp("measured")
    source = ["alexnet", "--source", "generated:96x96,pictures=60", "--threads", "1"]
    for command in (
        ["profile", *source, "-o", str(folder / "profile.json")],
        ["train", "alexnet", "--source", "generated:96x96,pictures=60", "-o", str(folder / "trained.npz")],
    ):
        done = subprocess.run([*RUN[:4], *command], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_a_run_with_profiles_a_trained_model_and_pictures_that_stay(measured: Path, tmp_path: Path) -> None:
    profile = str(measured / "profile.json")
    more = ["--workers", "2", "--profile", f"{profile},{profile}", "--sparsity", str(measured / "trained.npz")]
    more += ["--pictures-stay", "--speed", "0.25,1", "--link", "8MB/s,1ms", "--json", str(tmp_path / "r.json")]
    command = [*RUN[:6], "--source", "generated:96x96,pictures=12", "--check", "--quiet", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "all 12 pictures have the bits" in done.stderr
    assert "changes are predicted by the" in done.stderr, "which of the two is used"
    plans = json.loads((tmp_path / "r.json").read_text())["plans"]
    assert all(plan["stages"][0]["worker"] == "worker1" and plan["stages"][0]["nodes"] for plan in plans)


@pytest.mark.slow
def test_a_run_that_may_be_wrong_by_a_share() -> None:
    more = ["--workers", "2", "--levels", "8", "--threshold", "0.5", "--max-error", "0.05", "--check", "--quiet"]
    done = subprocess.run(
        [*RUN, "--source", "generated:96x96,pictures=40", *more], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "accuracy: 7 pictures were computed here too" in done.stderr
    for wrong, says in (
        ("--levels=300", "levels"),
        ("--max-error=-1", "error"),
        ("--threshold=-1", "threshold"),
        ("--workers=1000", "from 1 to 64"),
    ):
        done = subprocess.run(
            [*RUN, "--source", "generated:96x96,pictures=2", wrong], capture_output=True, text=True, timeout=120
        )
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
        assert says in done.stderr.splitlines()[-1]


def throttled(pid: int, over: threading.Event) -> None:
    """Lets a process run a quarter of the time, as on a machine that got something else to do."""
    while not over.wait(0.03):
        os.kill(pid, signal.SIGSTOP)
        over.wait(0.09)
        os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
def test_a_worker_that_becomes_slow_gets_less_to_do(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cutset.cli", "stream", "run", "alexnet", "--source", "generated:160x160"]
    command += ["--workers", "2", "--rate", "10", "--limit", "250", "--look", "0.5", "--check", "--quiet"]
    told: list[str] = []
    over = threading.Event()
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            told.append(line)
            if "plan 1:" in line:
                (name,) = {part.split()[0] for part in line.split("plan 1: ")[1].split(", ")}  # the other has no use
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                (pid,) = [c for c in children if f"/{name}\0" in Path(f"/proc/{c}/cmdline").read_text()]
                threading.Thread(target=throttled, args=(int(pid), over), daemon=True).start()
            if "plan 2:" in line:
                over.set()
        assert process.wait(60) == 0, "".join(told)
    finally:
        over.set()
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
    second = next((line for line in told if "plan 2:" in line), "")
    assert second, "".join(told)
    assert f"{name} " not in second
    assert "all 250 pictures have the bits" in told[-1], told[-1]


def test_sizes_as_people_write_them() -> None:
    assert size_in_bytes("500MB") == 500_000_000
    assert size_in_bytes("2GiB") == 2 << 30
    assert size_in_bytes("1.5k") == 1500
    for wrong in ("", "x", "-1", "0", "3TB", "1e9"):
        with pytest.raises(ConfigError):
            size_in_bytes(wrong)
