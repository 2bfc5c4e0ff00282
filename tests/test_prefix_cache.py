"""Prefixes that a later process finds on disk: the same tokens bit for bit, and nothing of another model or setting."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset import LLM, SamplingParams
from cutset.cli import main
from cutset.errors import ConfigError
from cutset.models.registry import BUNDLED

PARAMS = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True, logprobs=2)
IDS = np.random.default_rng(0).integers(5, 200, 200).astype(np.int32)
CHILD = """
import json, sys
import numpy as np
from cutset import LLM, SamplingParams
ids = np.random.default_rng(0).integers(5, 200, 200).astype(np.int32)
options = json.loads(sys.argv[1])
params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True, logprobs=2)
with LLM(options.pop("model", "story"), threads=1, **options) as llm:
    out = llm.generate(ids, params)[0]
    print(json.dumps([out.token_ids, [one.logprob.hex() for one in out.outputs[0].logprobs], out.usage.cached_tokens]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def fresh(folder: Path | None, environ: dict[str, str] | None = None, **options: Any) -> list[Any]:
    """Tokens, bits of their logprobs, cached tokens: in a process of its own."""
    options |= {} if folder is None else {"prefix_cache": str(folder)}
    command = [sys.executable, "-c", CHILD, json.dumps(options)]
    done = subprocess.run(command, env=os.environ | (environ or {}), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


def here(folder: Path, model: str | Path = "story", **options: Any) -> int:
    """Cached tokens of the same prompt."""
    with LLM(model, threads=1, prefix_cache=folder, **options) as llm:
        usage = llm.generate(IDS, PARAMS)[0].usage
        assert usage is not None
        return usage.cached_tokens


@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
def test_a_fresh_process_with_a_warm_directory_gives_the_same_bits(folder: Path, kv_dtype: str) -> None:
    plain = fresh(None, kv_dtype=kv_dtype)
    assert plain[2] == 0
    assert fresh(folder, kv_dtype=kv_dtype) == plain
    assert fresh(folder, kv_dtype=kv_dtype) == [*plain[:2], 192]
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o600}


def test_whatever_bits_depend_on_keeps_apart(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(BUNDLED["story"], model)
    options: list[dict[str, Any]] = [
        {},
        {"kv_dtype": "int8"},
        {"dtype": "int8"},
        {"mode": "local"},
        {"backend": "reference"},
        {"backend": "torch"},
        {"block_size": 32},
        {"max_model_len": 300},
    ]
    for wanted in (False, True):
        for one in options:
            assert (here(folder, model, **one) > 0) == wanted, one
    assert here(folder, model, max_batch_tokens=64, max_num_seqs=3, prefix_cache_size="1GB") == 192
    weights = model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    assert here(folder, model) == 0
    data[-5] ^= 1
    weights.write_bytes(data)
    assert here(folder, model) == 192
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"rope_theta": 12345.0}))
    assert here(folder, model) == 0


def test_instruction_sets_keep_apart(folder: Path) -> None:
    assert fresh(folder)[2] == 0
    assert fresh(folder, {"CUTSET_ISA": "portable"})[2] == 0
    assert fresh(folder, {"CUTSET_ISA": "portable"})[2] == 192


def test_backends_that_promise_no_bits_go_on_too(folder: Path) -> None:
    for backend in ("reference", "torch"):
        for cached in (0, 192):
            assert here(folder, backend=backend, kv_dtype="int8") == cached


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--no-prefix-caching"], "prefix_cache needs prefix_caching"),
        (["--prefix-cache-size", "1KB"], "holds no two blocks"),
        (["--prefix-cache-size", "many"], "--prefix-cache-size must be a size, as 512MiB or 4GiB, not 'many'"),
        (["--prefix-cache-size=-1GiB"], "must be a size"),
        (["--prefix-cache-size", "9999999999TiB"], "must be a size"),
        (["--kv-dtype", "int4"], "--kv-dtype must be one of auto, int8, not 'int4'"),
    ],
)
def test_bad_settings_are_refused(
    flags: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "story", "--prompt", "Once", "--prefix-cache", str(folder), *flags]
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_bad_directories_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "file").touch()
    for where, message in (("open", "others may write in"), ("file", "can't be used"), ("file/x", "can't be used")):
        assert main(["generate", "story", "--prompt", "Once", "--prefix-cache", str(tmp_path / where)]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert len(said.splitlines()) <= 2


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GiB", 4 << 30), ("512MiB", 512 << 20), ("1000", 1000), ("3GB", 3 * 10**9), ("2KiB", 2048), ("7B", 7)],
)
def test_sizes(text: str, size: int, tmp_path: Path) -> None:
    from cutset.config import Settings

    if text == "7B":
        with pytest.raises(ConfigError, match="must be a size"):
            Settings(prefix_cache_size=text)
    else:
        assert Settings(prefix_cache_size=text).prefix_cache_bytes == size
