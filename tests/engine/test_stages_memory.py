"""When a coordinator dies, its stages give back what they had and serve the next one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cutset.llm import LLM
from cutset.models.random import RandomModel
from engine.stage_processes import running, until

HOLDS = """
import sys, time
from cutset import SamplingParams
from cutset.llm import LLM
llm = LLM(sys.argv[1], stages=sys.argv[2:], threads=1, cache_mib=48)
llm.generate("t3 t4 t5 " * 60, SamplingParams(max_tokens=4, temperature=0, ignore_eos=True))
print("up", flush=True)
time.sleep(60)
"""
MIB = 1 << 20


def resident(pid: int) -> int:
    """Bytes of memory that a process has, without what lies in files."""
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) << 10


def test_stages_of_a_coordinator_that_died_hold_nothing(tmp_path: Path) -> None:
    model = tmp_path / "model"
    RandomModel(hidden=512, layers=4, heads=8, vocab=4096, max_pos=256, intermediate=1536).write_checkpoint(model)
    with running(tmp_path, "a", "b", model="") as stages:
        names = list(stages.children)
        before = {name: resident(stages.children[name].process.pid) for name in names}
        for _ in range(2):
            words = [sys.executable, "-c", HOLDS, str(model), *stages.settings(*names)["stages"]]
            with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as first:
                try:
                    assert first.stdout is not None
                    assert first.stdout.readline() == "up\n"
                    held = {name: resident(stages.children[name].process.pid) - before[name] for name in names}
                finally:
                    first.kill()
            assert min(held.values()) > 40 * MIB, "weights, as they were sent and as they are laid out"
            for name in names:
                pid, most = stages.children[name].process.pid, before[name] + held[name] // 5
                until(lambda pid=pid, most=most: resident(pid) < most)
        with LLM(str(model), **stages.settings(*names), threads=1, cache_mib=4) as llm:
            assert llm.stages is not None
            assert llm.stages.pipeline.plan is not None
