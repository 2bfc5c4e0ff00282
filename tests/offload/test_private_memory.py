"""Secrets stay out of swap and core dumps, and others out of the client's memory, where the system allows it."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

from cutset.config import load_settings
from cutset.llm import LLM
from cutset.offload.client import ledger, pad_sources, private_memory
from cutset.offload.client.checks import Check


def flags_of(address: int) -> set[str]:
    """What the system says of the pages at an address."""
    inside = False
    with open("/proc/self/smaps", encoding="utf-8") as file:
        for line in file:
            if span := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
                inside = int(span[1], 16) <= address < int(span[2], 16)
            elif inside and line.startswith("VmFlags:"):
                return set(line.split()[1:])
    raise AssertionError("no such pages")


def guarded(array: np.ndarray) -> bool:
    return {"dd", "lo"} <= flags_of(array.ctypes.data)


def test_arrays_are_locked_and_not_dumped() -> None:
    array = private_memory.private_array((300, 700), np.uint32)
    assert (array.shape, array.dtype, int(array.sum())) == ((300, 700), np.uint32, 0)
    array[:] = 7
    assert guarded(array)
    assert not {"dd", "lo"} & flags_of(np.ones(1 << 20).ctypes.data)
    assert private_memory.private_array((0, 5), np.uint32).shape == (0, 5)


def test_a_limit_of_the_system_is_no_error() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))\n"
        "import os; os.geteuid() or os.setuid(65534)\n"
        "import numpy as np; from cutset.offload.client.private_memory import *\n"
        "keep_out(); array = private_array((1000, 1000), np.uint32); array[:] = 1; print(array.sum())\n"
    )
    code = "import numpy, cutset.offload.client.private_memory, ctypes, mmap\n" + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "1000000\n", done.stderr


def test_keys_pads_and_the_secrets_of_checks_lie_there() -> None:
    book = ledger.Ledger()
    assert bytes(book._master) != bytes(32)
    assert guarded(np.frombuffer(book._master, np.uint8))
    with pytest.raises(TypeError):
        book._master[0] = 1
    check = Check(np.ones((8, 16), np.int8))
    assert guarded(check.secrets)

    class Matrix:
        depth, outputs = 64, 32

        def residues(self, x: np.ndarray, pool: object = None, out: np.ndarray | None = None) -> np.ndarray:
            assert out is not None
            out[:] = 1
            return out

    [made] = pad_sources.LocalPads(book, [Matrix()], lambda: True).make([(0, 16)])
    assert guarded(made.r)
    assert guarded(made.product)
    [served] = pad_sources.PadServer(
        book, [Matrix()], lambda wanted: [np.ones((n, 32), np.uint32) for _, _, n in wanted]
    ).make([(0, 16)])
    assert guarded(served.r)
    assert guarded(served.product)


def test_a_client_in_a_masked_mode_can_t_be_looked_into(inproc: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("cutset.offload.client.offload.keep_out", lambda: asked.append("out"))
    for mode, times in (("masked+verified", 1), ("masked", 1), ("verified", 0)):
        asked.clear()
        LLM("story", settings=load_settings({"threads": 1, "offload": inproc, "mode": mode})).close()
        assert len(asked) == times


def test_keep_out() -> None:
    code = (
        "import ctypes; from cutset.offload.client.private_memory import keep_out\n"
        "libc = ctypes.CDLL(None); print(libc.prctl(3)); keep_out(); print(libc.prctl(3))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "1\n0\n"
