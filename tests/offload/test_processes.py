"""Bad luck with real processes: killed, restarted, slow, strangers. A clear error or the right text, never another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset import LLM, SamplingParams
from cutset.errors import LinkError, OffloadError
from cutset.link.keys import new_keys, save_keys
from cutset.models.random import RandomModel
from cutset.models.run.executor import Batch

LONG = SamplingParams(max_tokens=60, temperature=0, ignore_eos=True)
PROMPT = "Once upon a time"
Start = Callable[..., Any]


@pytest.fixture(scope="module")
def expected() -> list[int]:
    with LLM("story", threads=1, mode="local") as llm:
        return llm.generate(PROMPT, LONG)[0].token_ids


@pytest.fixture(params=["ipc", "shm"])
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("CUTSET_SHM_DIR", str(tmp_path))  # what is killed leaves a file behind
    return f"ipc://{tmp_path}/a" if request.param == "ipc" else f"shm://cutset-test-{os.getpid()}-{time.time_ns()}"


def follow(llm: LLM, tokens: list[int], after_8: Callable[[], None]) -> None:
    """Collects the tokens of an answer; does something once 8 are there; raises what the answer ends with."""
    done = False
    for delta in llm.stream(PROMPT, LONG):
        if delta.error is not None:
            raise delta.error
        tokens += delta.token_ids
        if len(tokens) >= 8 and not done:
            done = True
            after_8()


def test_an_answer_through_another_process(address: str, start: Start, expected: list[int]) -> None:
    accelerator = start(address)
    with LLM("story", threads=1, offload=address) as llm:
        assert llm.generate(PROMPT, LONG)[0].token_ids == expected
        assert llm.offload is not None
        assert llm.offload.linears.session.counters()["calls"] > 0
    code, said = accelerator.stop()
    assert code == 0
    assert "stopped: 1 clients" in said


@pytest.mark.parametrize("kind", ["shm", "ipc", "tcp"])
def test_every_mode_gives_the_same_bits_over_every_link(
    kind: str, start: Start, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUTSET_SHM_DIR", str(tmp_path))
    for name in ("server", "client"):
        save_keys(new_keys(), name, tmp_path)
    keys = {"key": tmp_path / "client.key", "accelerator_key": tmp_path / "server.pub"} if kind == "tcp" else {}
    more = ("--key", str(tmp_path / "server.key"), "--allow", str(tmp_path / "client.pub")) if kind == "tcp" else ()
    wanted = {"shm": f"shm://links-{os.getpid()}", "ipc": f"ipc://{tmp_path}/a", "tcp": "tcp://127.0.0.1:0"}[kind]
    address = start(wanted, "story", *more).lines[-1].split()[2].rstrip(":")
    with LLM("story", threads=1, mode="local") as llm:
        logits = whole_pass(llm)
    for mode in ("plain", "verified", "masked", "masked+verified"):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="mode plain")
            llm = LLM("story", threads=1, offload=address, mode=mode, **keys)
        with llm:
            assert llm.generate(PROMPT, LONG)[0].token_ids == expected
            np.testing.assert_array_equal(whole_pass(llm), logits)


def whole_pass(llm: LLM) -> Any:
    """The logits of all rows of two sequences at once."""
    ids = llm.encode("One day, a girl named Mia found a red ball. She wanted to")
    batch = Batch.whole(np.stack([ids[:11], ids[1:12]]), 16)
    return llm.executor.forward(batch, llm.executor.new_cache(batch.block_tables.size, 16))


def test_an_accelerator_that_is_killed_and_restarted_costs_no_token(
    address: str, start: Start, expected: list[int]
) -> None:
    first = start(address)
    again = threading.Thread(target=start, args=(address,))
    tokens: list[int] = []

    def restart() -> None:
        first.kill()
        again.start()

    with LLM("story", threads=1, offload=address) as llm:
        follow(llm, tokens, restart)
        again.join()
        assert llm.offload is not None
        assert llm.offload.linears.session.redialled > 0
    assert tokens == expected


def test_an_accelerator_that_is_killed_for_good_is_an_error_in_time(
    address: str, start: Start, expected: list[int]
) -> None:
    accelerator = start(address)
    tokens: list[int] = []
    started = [0.0]

    def kill() -> None:
        accelerator.kill()
        started[0] = time.monotonic()

    with LLM("story", threads=1, offload=address, offload_timeout=2) as llm:
        with pytest.raises(LinkError, match="gave no answer within 2 s"):
            follow(llm, tokens, kill)
        assert time.monotonic() - started[0] < 15
    assert tokens == expected[: len(tokens)]


@pytest.mark.parametrize("ever", [True, False])
def test_an_accelerator_that_stands_still(ever: bool, address: str, start: Start, expected: list[int]) -> None:
    """For a while: the answer goes on. For good: an error in time."""
    accelerator = start(address)
    tokens: list[int] = []
    again = threading.Timer(1.2, lambda: accelerator.process.send_signal(signal.SIGCONT))

    def stop() -> None:
        accelerator.process.send_signal(signal.SIGSTOP)
        if ever:
            again.start()

    with LLM("story", threads=1, offload=address, offload_timeout=20 if ever else 2) as llm:
        if ever:
            follow(llm, tokens, stop)
        else:
            with pytest.raises(LinkError, match="gave no answer within 2 s"):
                follow(llm, tokens, stop)
    assert tokens == (expected if ever else expected[: len(tokens)])
    assert len(tokens) >= 8


def test_an_accelerator_that_comes_back_with_another_model_is_refused(
    address: str, start: Start, expected: list[int], tmp_path: Path
) -> None:
    RandomModel(hidden=64, heads=4, kv_heads=2, vocab=128).write_checkpoint(tmp_path / "other")
    accelerator = start(address)
    tokens: list[int] = []

    def replace() -> None:
        accelerator.kill()
        start(address, str(tmp_path / "other"))

    with LLM("story", threads=1, offload=address) as llm, pytest.raises(OffloadError, match="another model"):
        follow(llm, tokens, replace)
    assert tokens == expected[: len(tokens)]


CLIENT = """
import sys
from cutset import LLM, SamplingParams
llm = LLM("story", threads=1, offload=sys.argv[1])
for delta in llm.stream("Once upon a time", SamplingParams(max_tokens=400, temperature=0, ignore_eos=True)):
    print("token", flush=True)
"""


def test_a_client_that_is_killed_is_forgotten(address: str, start: Start) -> None:
    running = start(address, "story", "--report", "0.1")
    said = running.process.stderr
    assert said is not None
    client = subprocess.Popen([sys.executable, "-c", CLIENT, address], stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    assert client.stdout.readline() == "token\n"
    assert any("(1 now)" in line for line in said)
    client.send_signal(signal.SIGKILL)
    client.communicate()
    end = time.monotonic() + 15
    for line in said:
        assert time.monotonic() < end, "a dead client is still there"
        if "(0 now)" in line:
            break


def test_over_tcp_with_keys_and_not_without(start: Start, expected: list[int], tmp_path: Path) -> None:
    for name in ("server", "client", "stranger"):
        save_keys(new_keys(), name, tmp_path)
    (tmp_path / "allowed").mkdir()
    (tmp_path / "client.pub").rename(tmp_path / "allowed" / "client.pub")
    keys = ("--key", str(tmp_path / "server.key"), "--allow", str(tmp_path / "allowed"))
    accelerator = start("tcp://127.0.0.1:0", "story", *keys)
    address = accelerator.lines[-1].split()[2].rstrip(":")
    assert address.startswith("tcp://127.0.0.1:")
    known = {"key": tmp_path / "client.key", "accelerator_key": tmp_path / "server.pub"}
    with LLM("story", threads=1, offload=address, **known) as llm:
        assert llm.generate(PROMPT, LONG)[0].token_ids == expected
    for wrong in ({"key": tmp_path / "stranger.key"}, {"accelerator_key": tmp_path / "stranger.pub"}):
        with pytest.raises(LinkError):
            LLM("story", threads=1, offload=address, offload_timeout=2, **(known | wrong))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_accelerator_is_stopped_by_a_signal(number: int, start: Start, ipc: str) -> None:
    accelerator = start(ipc)
    accelerator.process.send_signal(number)
    code, said = accelerator.stop()
    assert code == 0
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["story", "--listen", "tcp://127.0.0.1:0"], "tcp needs --key"),
        (["story", "--listen", "nonsense"], "is not an address"),
        (["nothing-here", "--listen", "inproc://x"], "nothing-here"),
        (["story", "--listen", "ipc:///nowhere/at/all"], "nowhere"),
        (["story", "--listen", "inproc://x", "--max-rows", "0"], "--max-rows"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cutset", "accelerator", *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
