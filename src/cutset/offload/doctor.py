"""What this machine has for a private offload, and what to change: the checks behind `cutset doctor`.

Each check yields findings: what it looked at, what it found, whether that is good, and what to do where it isn't.
"bad" means that something can't work; "warn", that it will be slow or could be safer. `root` replaces `/` in tests.
"""

from __future__ import annotations

import importlib.metadata
import mmap
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

from cutset.config import usable_cores
from cutset.errors import DeviceError
from cutset.link.launch import probe

__all__ = ["CHECKS", "Finding", "examine"]

MIB = 1 << 20
RING_BYTES = 16 * MIB  # two rings of the default size, which is what a client makes
LIBRARIES = ("numpy", "tokenizers", "msgspec", "pyzmq", "cryptography", "jinja2", "threadpoolctl")
OPTIONAL = ("torch",)
CUDA_SECONDS = 120
CUDA_PROBE = """
import json, torch
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
one = None
if names:
    a = torch.ones(32, 32, dtype=torch.float64, device="cuda")
    one = float((a @ a).sum()) == 32.0**3
print(json.dumps({"built": torch.version.cuda, "names": names, "right": one}))
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `verdict` is good, warn or bad; `advice` is empty where it is good."""

    topic: str
    found: str
    verdict: str = "good"
    advice: str = ""


def examine(root: Path = Path("/")) -> list[Finding]:
    """Every check's findings, in order. A check that breaks is a finding of its own."""
    findings: list[Finding] = []
    for topic, check in CHECKS.items():
        try:
            findings += check(root)
        except OSError as error:
            findings.append(Finding(topic, f"can't be looked at: {error.strerror}", "warn", "run it as another user"))
    return findings


def threads(root: Path) -> Iterator[Finding]:
    """Cores that may be used, and whether a quota stops them."""
    usable, present = usable_cores(root), os.cpu_count() or 1
    found = f"{usable} of {present} cores usable"
    if usable < 2:
        yield Finding("threads", found, "warn", "client and accelerator on one core wait for each other; give two")
    else:
        yield Finding("threads", found)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > usable:
        yield Finding("threads", f"OMP_NUM_THREADS={asked}", "warn", f"set it to {usable} or less: the rest only waits")
    counters = dict(line.split()[:2] for line in _lines(root / "sys/fs/cgroup/cpu.stat") if len(line.split()) == 2)
    periods, throttled = (int(counters.get(name, 0)) for name in ("nr_periods", "nr_throttled"))
    if throttled > periods // 20:
        advice = "raise the container's cpu quota, or use fewer --threads"
        yield Finding("threads", f"stopped by the quota in {throttled} of {periods} periods", "warn", advice)


def huge_pages(root: Path) -> Iterator[Finding]:
    """Whether the kernel gives huge pages to who asks."""
    text = "".join(_lines(root / "sys/kernel/mm/transparent_hugepage/enabled"))
    chosen = text.partition("[")[2].partition("]")[0]
    if chosen in ("always", "madvise"):
        yield Finding("huge pages", f"transparent, {chosen}")
    else:
        advice = "as root: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"
        yield Finding("huge pages", chosen or "not supported by this kernel", "warn", advice)


def shared_memory(root: Path) -> Iterator[Finding]:
    """Whether a client's ring can be made."""
    place = root / (os.environ.get("CUTSET_SHM_DIR") or "dev/shm")  # an absolute path stays what it is
    if not place.is_dir():
        yield Finding("shared memory", f"there is no {place}", "bad", "mount a tmpfs there, or use ipc:// and tcp://")
        return
    status = os.statvfs(place)
    free, size = (blocks * status.f_frsize for blocks in (status.f_bavail, status.f_blocks))
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            os.posix_fallocate(file.fileno(), 0, RING_BYTES)
            with mmap.mmap(file.fileno(), RING_BYTES) as ring:
                ring[-1] = 1
    except OSError as error:
        advice = f"a client's ring takes {RING_BYTES // MIB} MiB: enlarge it (docker: --shm-size=1g) or use ipc://"
        yield Finding("shared memory", f"no ring can be made in {place}: {error.strerror}", "bad", advice)
        return
    found = f"{place}: {free // MIB} of {size // MIB} MiB free, a ring can be made"
    if free < 4 * RING_BYTES:
        yield Finding("shared memory", found, "warn", "room for few clients; enlarge it (docker: --shm-size=1g)")
    else:
        yield Finding("shared memory", found)


def enclave(root: Path) -> Iterator[Finding]:
    """Whether this is one, and whether it can be attested."""
    attestation = root / "dev/attestation"
    if attestation.is_dir():
        kind = "".join(_lines(attestation / "attestation_type")).strip() or "unknown"
        total = next((line.split()[1] for line in _lines(root / "proc/meminfo") if line.startswith("MemTotal")), "0")
        found = f"in Gramine, {int(total) // 1024} MiB, attestation {kind}"
        if kind in ("none", "unknown"):
            advice = 'nobody can check what runs here; set sgx.remote_attestation = "dcap"'
            yield Finding("enclave", found, "warn", advice)
        else:
            yield Finding("enclave", found)
    elif (root / "dev/sgx_enclave").exists():
        yield Finding("enclave", "not in one; this machine has SGX (see deploy/gramine)")
    else:
        yield Finding("enclave", "none: the client trusts this machine and its system")


def cuda(root: Path) -> Iterator[Finding]:
    """Which GPUs torch can use."""
    driver = (root / "proc/driver/nvidia/version").is_file()
    if find_spec("torch") is None:
        if driver:
            yield Finding("CUDA", "a driver, but no torch", "warn", "pip install 'cutset[torch]' to use the device")
        else:
            yield Finding("CUDA", "no driver, no torch: the accelerator runs on the CPU")
        return
    # In a process of its own: a broken driver kills, and what it loads stays loaded.
    try:
        answer = probe(CUDA_PROBE, timeout=CUDA_SECONDS)
    except DeviceError as error:
        yield Finding("CUDA", f"torch fails: {error}", "bad", "reinstall torch for this driver")
        return
    if answer["names"]:
        if answer["right"]:
            yield Finding("CUDA", ", ".join(answer["names"]))
        else:
            advice = "test the device: its products are wrong"
            yield Finding("CUDA", f"{answer['names'][0]} multiplies wrongly", "bad", advice)
    elif driver:
        advice = "install a torch built for CUDA" if answer["built"] is None else "update the driver"
        yield Finding("CUDA", "a driver, but torch finds no device", "warn", advice)
    else:
        yield Finding("CUDA", "no device: the accelerator runs on the CPU")


def clock(root: Path) -> Iterator[Finding]:
    """Whether the system's clocks agree."""
    reads = [time.monotonic_ns() for _ in range(2000)]
    steps = [after - before for before, after in pairwise(reads)]
    cost = (reads[-1] - reads[0]) / len(steps)
    source = "".join(_lines(root / "sys/devices/system/clocksource/clocksource0/current_clocksource")).strip()
    resolution = time.get_clock_info("monotonic").resolution
    found = f"{source or 'unknown source'}, resolution {resolution * 1e9:.0f} ns, a read takes {cost:.0f} ns"
    if min(steps) < 0:
        yield Finding("clock", "goes backwards", "bad", "timeouts can't be kept here: fix the machine's clock source")
    elif cost > 5000 or resolution > 1e-3:
        yield Finding("clock", found, "warn", "waiting is measured badly; choose the clock source tsc")
    else:
        yield Finding("clock", found)
    start = time.monotonic(), time.time(), time.perf_counter()
    time.sleep(0.05)
    gone = [now - then for now, then in zip((time.monotonic(), time.time(), time.perf_counter()), start, strict=True)]
    drift = max(gone) - min(gone)
    if drift > 0.005:
        advice = "the clocks disagree: the time of day is being set, or the machine was paused; run it again"
        yield Finding("clock", f"clocks {drift * 1000:.1f} ms apart after {gone[0] * 1000:.0f} ms", "warn", advice)
    else:
        yield Finding("clock", f"clocks {drift * 1e6:.0f} µs apart after {gone[0] * 1000:.0f} ms")


def instructions(root: Path) -> Iterator[Finding]:
    """Which kernels are in use."""
    from cutset.kernels.native import extension

    try:
        native = extension()
    except DeviceError as error:
        yield Finding("instructions", str(error), "bad", "pip install cutset, with a C++ compiler at hand")
        return
    known, used = list(native.available_isas()), native.isa()
    found = f"{used} in use, of {', '.join(known)}"
    if len(known) < 2:
        yield Finding(
            "instructions", found, "warn", "portable code only: slow; a machine with AVX2 is several times faster"
        )
    elif os.environ.get("CUTSET_ISA"):
        yield Finding("instructions", found, "warn", "CUTSET_ISA chose it; without the variable the best one is taken")
    else:
        yield Finding("instructions", found)


def libraries(root: Path) -> Iterator[Finding]:
    """Which packages are there, and which are missing."""
    found, missing = [f"python {sys.version.split()[0]}"], []
    for name in ("cutset", *LIBRARIES, *OPTIONAL):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            if name in LIBRARIES and find_spec(name) is None:
                missing.append(name)
    yield Finding("libraries", ", ".join(found))
    if missing:
        yield Finding("libraries", f"without {', '.join(missing)}", "bad", f"pip install {' '.join(missing)}")


def ray(root: Path) -> Iterator[Finding]:
    """Whether parties can be placed by Ray, and what of its security is off."""
    from cutset.cluster.launch.ray_security import ray_findings

    for found, verdict, advice in ray_findings():
        yield Finding("Ray", found, verdict, advice)


CHECKS: dict[str, Callable[[Path], Iterator[Finding]]] = {
    "threads": threads,
    "huge pages": huge_pages,
    "shared memory": shared_memory,
    "enclave": enclave,
    "CUDA": cuda,
    "clock": clock,
    "instructions": instructions,
    "libraries": libraries,
    "Ray": ray,
}


def _lines(path: Path) -> list[str]:
    """The lines of a small file of the system; none where it isn't there or can't be read."""
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
