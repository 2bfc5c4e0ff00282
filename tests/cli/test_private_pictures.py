"""Private pictures as a user types them: quantize, an accelerator of its own process, a run in every mode."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from cutset.cli import main
from cutset.errors import ConfigError, OffloadError
from cutset.link.keys import new_keys, save_keys
from cutset.private_pictures import PrivateNetwork, open_integers
from cutset.trust.evidence.providers import SimulatorProvider
from cutset.trust.evidence.served_files import manifest_digest, served_files
from offload.conftest import AcceleratorProcess
from tests.trust.wire import policy_text

SOURCE = "generated:64x72,pictures=2"
MODULE = """
from torch import nn

def net():
    return nn.Sequential(Bytes(), nn.Conv2d(3, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 24, 3, 1, 1), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 40), nn.ReLU(), nn.Linear(40, 10)).eval()

class Bytes(nn.Module):
    def forward(self, x):
        return x.float() / 255
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network, quantised by the command."""
    import torch

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("private")
    (folder / "net.py").write_text(MODULE)
    out = folder / "net-int8"
    asked = ["stream", "quantize", "--module", f"{folder}/net.py:net", "--calibrate", SOURCE, "-o", str(out)]
    assert main([*asked, "--least", "4"]) == 0
    assert len(open_integers(out).layers) == 4
    return out


@pytest.fixture(scope="module")
def address(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An accelerator in a process of its own."""
    address = f"ipc://{tmp_path_factory.mktemp('link')}/a"
    process = AcceleratorProcess(address, str(directory))
    yield address
    _, said = process.stop()
    assert "stopped" in said


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["stream", "run", *args])
    out, said = capsys.readouterr()
    return code, out, said


def answers(text: str) -> list[str]:
    """The lines of pictures without their times."""
    return [re.sub(r"\s+[0-9.]+ ms$", "", line) for line in text.splitlines()]


def test_every_mode_gives_the_bits_of_local(
    directory: Path, address: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, local, said = run(capsys, str(directory), "--source", SOURCE)
    assert code == 0, said
    assert "all multiplied here" in said
    for mode in ("verified", "masked", "masked+verified", "plain"):
        more = ["--private", address, "--mode", mode, "--check", "--json", str(tmp_path / "r.json")]
        code, out, said = run(capsys, str(directory), "--source", SOURCE, *more)
        assert code == 0, said
        assert answers(out) == answers(local)
        assert "all 2 pictures have the bits of the network in one piece" in said
        assert f"mode {mode}: 8 products by {address}" in said
        assert ("sees every picture" in said) == (mode == "plain")
        figures = json.loads((tmp_path / "r.json").read_text())
        assert len(figures["pictures"]) == 2
        assert figures["rows"][0]["workload"].endswith(f", {mode}")


def test_the_default_is_masked_and_verified(directory: Path, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, said = run(capsys, str(directory), "--source", SOURCE, "--private", address, "--quiet")
    assert code == 0
    assert "mode masked+verified" in said
    assert "8 checked" in said
    assert "runs as this user" in said  # who may read this process's memory learns all


def test_over_tcp_with_keys_and_a_pad_server(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("server", "client"):
        save_keys(new_keys(), name, tmp_path)
    keys = ("--key", str(tmp_path / "server.key"), "--allow", str(tmp_path / "client.pub"))
    servers = [AcceleratorProcess("tcp://127.0.0.1:0", str(directory), *keys) for _ in range(2)]
    try:
        first, second = (server.lines[-1].split()[2].rstrip(":") for server in servers)
        more = ["--key", str(tmp_path / "client.key"), "--accelerator-key", str(tmp_path / "server.pub")]
        pads = ["--pads-from", second, "--pads-key", str(tmp_path / "server.pub"), "--pads-same-host"]
        asked = [str(directory), "--source", SOURCE, "--private", first, *more, *pads, "--check"]
        code, _, said = run(capsys, *asked)
        assert code == 0, said
        assert "0 inline" in said
        assert "all 2 pictures have the bits" in said
        code, _, said = run(capsys, str(directory), "--source", SOURCE, "--private", first)
        assert code == 2
        assert "key" in said
    finally:
        for server in servers:
            server.stop()


def test_ping_knows_the_network(directory: Path, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ping", address, "--model", str(directory)]) == 0
    out = capsys.readouterr().out
    assert "4 matrices" in out
    assert re.search(r"the same as MODEL +yes", out)
    assert re.search(r"exact arithmetic +yes", out)


def test_from_python(directory: Path, address: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (3, 64, 72), np.uint8)
    with PrivateNetwork(directory, threads=1) as local:
        wanted = local.run(picture)
        assert local.size == (64, 72)
    with PrivateNetwork(directory, offload=address, threads=1) as network:
        for name, value in network.run(picture).items():
            np.testing.assert_array_equal(value, wanted[name])
        assert network.mode.name == "masked+verified"
    with pytest.raises(ConfigError, match="not both"):
        PrivateNetwork(directory, settings=None or network_settings(), threads=1)


def network_settings() -> Any:
    from cutset.config import load_settings

    return load_settings({"mode": "local"})


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--mode", "delta"], "what changed between two pictures is a secret"),
        (["--delta-compute"], "--delta-compute has no place with --private"),
        (["--mode", "full"], "--mode full has no place with --private"),
        (["--workers", "2", "--threshold", "0.5"], "--workers and --threshold"),
        (["--float16"], "--float16"),
        (["--sparsity", "file"], "--sparsity"),
        (["--scheduler", "even"], "--scheduler"),
        (["--max-error", "0.1"], "--max-error"),
        (["--dashboard"], "--dashboard"),
        (["--size", "32x32"], "64x72"),
        (["--mode", "masked", "--pads-from", "ipc:///nobody"], "one host"),
        (["--mode", "verified", "--pads-from", "ipc:///nobody"], "only masked modes have pads"),
        (["--mode", "nothing"], "mode"),
    ],
)
def test_what_shows_more_or_would_be_ignored_is_refused_by_name(
    more: list[str], words: str, directory: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, said = run(capsys, str(directory), "--source", SOURCE, "--private", address, *more)
    assert code == 2
    assert words in said
    assert not out
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["alexnet", "--private", "ipc:///nobody"], "cutset stream quantize"),
        (["alexnet", "--mode", "masked"], "needs --private ADDRESS"),
        (["alexnet", "--private", "nobody"], "--private must be one of shm://NAME"),
        (["alexnet", "--pads-mib", "4"], "--pads-mib belongs to --private"),
    ],
)
def test_a_network_that_is_none_in_integers(args: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, said = run(capsys, *args, "--source", SOURCE)
    assert code == 2
    assert words in said


def test_a_mode_that_sends_something_needs_an_accelerator(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, said = run(capsys, str(directory), "--source", SOURCE, "--mode", "masked")
    assert code == 2
    assert "needs" in said


def test_a_delta_from_a_file_crosses_nothing(
    directory: Path, address: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what isn't said by hand: delta compute in a variable is refused, and a mode in one has no effect."""
    monkeypatch.setenv("CUTSET_STREAM_MODE", "delta")
    asked = [str(directory), "--source", SOURCE, "--private", address, "--quiet"]
    code, _, said = run(capsys, *asked)
    assert code == 0, said
    monkeypatch.setenv("CUTSET_STREAM_DELTA_COMPUTE", "yes")
    code, _, said = run(capsys, *asked)
    assert code == 2
    assert "--delta-compute" in said


def test_another_network_is_refused(address: str, directory: Path, tmp_path: Path) -> None:
    script = directory.parent / "net.py"
    out = tmp_path / "other"
    asked = ["stream", "quantize", "--module", f"{script}:net", "--calibrate", SOURCE, "-o", str(out), "--least", "4"]
    assert main(asked) == 0  # other random weights
    with pytest.raises(OffloadError, match="model"):
        PrivateNetwork(out, offload=address, threads=1)


def test_an_accelerator_of_pictures_loads_no_torch(directory: Path) -> None:
    """It multiplies; what a network is otherwise is no business of it."""
    code = (
        "import sys\nfrom cutset.private_pictures import open_network_accelerator\n"
        "from cutset.config import load_settings\n"
        f"open_network_accelerator({str(directory)!r}, 'inproc://a', load_settings({{'threads': 1}})).close()\n"
        "assert 'torch' not in sys.modules and not [n for n in sys.modules if n.startswith('cutset.offload.client')]"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr


def test_pictures_go_to_an_accelerator_whose_evidence_fits(directory: Path, tmp_path: Path) -> None:
    for name in ("a", "me"):
        save_keys(new_keys(), name, tmp_path)
    flags = ["--key", str(tmp_path / "a.key"), "--allow", str(tmp_path / "me.pub"), "--evidence", "simulator"]
    process = AcceleratorProcess("tcp://127.0.0.1:0", str(directory), *flags)
    try:
        said = "".join(process.lines)
        manifest = re.search("for the manifest ([0-9a-f]{64})", said)
        where = re.search(r"listening on (tcp://[0-9.]+:[0-9]+)", said)
        assert manifest is not None
        assert where is not None
        assert manifest[1] == manifest_digest(served_files({directory.name: directory})).hex()
        text = policy_text(SimulatorProvider().measurement.hex(), manifest[1]).replace('"none"', '"accelerator"')
        (tmp_path / "good.toml").write_text(text.replace('["cutset 1"]', '"any"'))
        (tmp_path / "other.toml").write_text(text)
        how = {"offload": where[1], "key": tmp_path / "me.key", "accelerator_key": tmp_path / "a.pub", "threads": 1}
        with PrivateNetwork(directory, **how, offload_policy=tmp_path / "good.toml") as network:
            picture = np.zeros((3, *network.size), np.uint8)
            assert network.run(picture)
        with pytest.raises(OffloadError, match=r"its version .* isn't one that the policy allows"):
            PrivateNetwork(directory, **how, offload_policy=tmp_path / "other.toml")
        words = [
            "stream",
            "run",
            str(directory),
            "--source",
            SOURCE,
            "--private",
            "ipc:///tmp/x",
            "--offload-policy",
            "p",
        ]
        assert main(words) == 2
    finally:
        process.stop()
