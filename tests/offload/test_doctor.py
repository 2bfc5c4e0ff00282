"""The doctor: what it says of machines that have what it looks for, and of those that haven't."""

import errno
import json
import os
import subprocess
import sys
import time

import pytest

import cutset.kernels.native
from cutset.cli import main
from cutset.errors import DeviceError
from cutset.offload import doctor
from cutset.offload.doctor import CHECKS, Finding, examine


def found(name, root):
    return list(CHECKS[name](root))


def put(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "cuda", None)
    monkeypatch.setitem(CHECKS, "CUDA", lambda root: iter([Finding("CUDA", "none")]))
    code = main(["doctor", "--json", "out.json"])
    out = capsys.readouterr().out
    findings = json.loads((tmp_path / "out.json").read_text())["findings"]
    assert code == any(finding["verdict"] == "bad" for finding in findings)
    assert {finding["topic"] for finding in findings} == set(CHECKS)
    for finding in findings:
        assert finding["found"] in out
        assert finding["verdict"] in ("good", "warn", "bad")
        assert bool(finding["advice"]) == (finding["verdict"] != "good")
    monkeypatch.setitem(CHECKS, "CUDA", lambda root: iter([Finding("CUDA", "broken", "bad", "mend it")]))
    assert main(["doctor"]) == 1
    assert "→ mend it" in capsys.readouterr().out


def test_nothing_is_there(tmp_path):
    """An empty machine: findings, never a traceback."""
    assert {finding.topic for finding in examine(tmp_path)} == set(CHECKS)


def test_a_check_that_fails_is_a_finding(tmp_path, monkeypatch):
    def broken(root):
        raise PermissionError(errno.EACCES, "Permission denied")
        yield

    monkeypatch.setitem(CHECKS, "CUDA", broken)
    assert Finding("CUDA", "can't be looked at: Permission denied", "warn", "run it as another user") in examine(
        tmp_path
    )


def test_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [f.verdict for f in found("threads", tmp_path)] == ["good"]
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert "set it to 4 or less" in found("threads", tmp_path)[1].advice
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    assert found("threads", tmp_path)[0].verdict == "warn"
    put(tmp_path, "sys/fs/cgroup/cpu.stat", "usage_usec 1\nnr_periods 100\nnr_throttled 50\n")
    assert "stopped by the quota in 50 of 100 periods" in found("threads", tmp_path)[-1].found


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("always [madvise] never\n", "good"),
        ("[always] madvise never", "good"),
        ("always [never]", "warn"),
        ("", "warn"),
    ],
)
def test_huge_pages(text, verdict, tmp_path):
    put(tmp_path, "sys/kernel/mm/transparent_hugepage/enabled", text)
    assert [f.verdict for f in found("huge pages", tmp_path)] == [verdict]


def test_shared_memory(tmp_path, monkeypatch):
    monkeypatch.delenv("CUTSET_SHM_DIR", raising=False)
    assert found("shared memory", tmp_path)[0].verdict == "bad"
    (tmp_path / "dev/shm").mkdir(parents=True)
    [finding] = found("shared memory", tmp_path)
    assert "a ring can be made" in finding.found
    assert list((tmp_path / "dev/shm").iterdir()) == []

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    [finding] = found("shared memory", tmp_path)
    assert finding.verdict == "bad"
    assert "No space left" in finding.found


def test_enclave(tmp_path):
    assert "none" in found("enclave", tmp_path)[0].found
    put(tmp_path, "dev/sgx_enclave", "")
    assert "this machine has SGX" in found("enclave", tmp_path)[0].found
    put(tmp_path, "dev/attestation/attestation_type", "dcap")
    put(tmp_path, "proc/meminfo", "MemTotal:        1048576 kB\n")
    assert found("enclave", tmp_path) == [Finding("enclave", "in Gramine, 1024 MiB, attestation dcap")]
    put(tmp_path, "dev/attestation/attestation_type", "none")
    assert found("enclave", tmp_path)[0].verdict == "warn"


@pytest.mark.parametrize(
    ("answer", "driver", "verdict", "says"),
    [
        ({"built": "13.0", "names": ["H200"], "right": True}, True, "good", "H200"),
        ({"built": "13.0", "names": ["H200"], "right": False}, True, "bad", "multiplies wrongly"),
        ({"built": None, "names": [], "right": None}, True, "warn", "finds no device"),
        ({"built": None, "names": [], "right": None}, False, "good", "on the CPU"),
        (None, True, "bad", "torch fails: Boom"),
    ],
)
def test_cuda(answer, driver, verdict, says, tmp_path, monkeypatch):
    def run(command, **options):
        if answer is None:
            raise subprocess.CalledProcessError(1, command, stderr="Traceback\nBoom\n")
        return subprocess.CompletedProcess(command, 0, json.dumps(answer), "")

    if driver:
        put(tmp_path, "proc/driver/nvidia/version", "")
    monkeypatch.setattr(doctor, "find_spec", lambda name: object())
    monkeypatch.setattr(subprocess, "run", run)
    [finding] = found("CUDA", tmp_path)
    assert finding.verdict == verdict
    assert says in finding.found


def test_cuda_without_torch(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: pytest.fail("nothing to ask"))
    assert found("CUDA", tmp_path)[0].verdict == "good"
    put(tmp_path, "proc/driver/nvidia/version", "")
    assert found("CUDA", tmp_path)[0].verdict == "warn"


@pytest.mark.slow
def test_cuda_for_real(tmp_path):
    pytest.importorskip("torch")
    [finding] = found("CUDA", tmp_path)
    assert finding.verdict != "bad", finding.found


def test_the_clock(tmp_path, monkeypatch):
    findings = found("clock", tmp_path)
    assert len(findings) == 2
    assert "goes backwards" not in findings[0].found
    ticks = iter([5, 4] * 1000)
    monkeypatch.setattr(time, "monotonic_ns", lambda: next(ticks))
    assert found("clock", tmp_path)[0].verdict == "bad"


def test_clocks_that_disagree(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1000 + 2 * time.monotonic())
    assert "the clocks disagree" in found("clock", tmp_path)[1].advice


def test_instructions(tmp_path, monkeypatch):
    [finding] = found("instructions", tmp_path)
    assert "in use" in finding.found

    def gone():
        raise DeviceError("the native extension can't be loaded")

    monkeypatch.setattr(cutset.kernels.native, "extension", gone)
    assert found("instructions", tmp_path)[0].verdict == "bad"


def test_libraries(tmp_path, monkeypatch):
    [finding] = found("libraries", tmp_path)
    assert f"python {sys.version.split()[0]}" in finding.found
    assert "numpy " in finding.found
    monkeypatch.setattr(doctor, "LIBRARIES", ("numpy", "nosuchthing"))
    assert found("libraries", tmp_path)[1] == Finding(
        "libraries", "without nosuchthing", "bad", "pip install nosuchthing"
    )
