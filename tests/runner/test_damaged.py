"""Damaged exchange files: the runner and the Python reader agree, also under sanitizers."""

from __future__ import annotations

import contextlib
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cutset.errors import CutsetError
from cutset.models.files.source import open_source
from cutset.models.random import RandomModel
from runner.files import (
    CONFIGS,
    RUNNER,
    SANITIZED,
    SPECS,
    call,
    config_of,
    inputs_of,
    logits_of,
    reference,
    write_file,
    write_spec,
)

pytestmark = pytest.mark.skipif(not RUNNER.is_file(), reason="the runner is not built: make runner")


def damaged(raw: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, dropped, doubled or swapped for what JSON readers stumble over; sometimes cut off."""
    pieces = [
        b'"',
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
        b"\\",
        b"-1",
        b"1e999",
        b"null",
        b"=",
        b"\xff",
        b'"shape":',
        b"0",
        b"9" * 30,
    ]
    raw = bytearray(raw)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(raw))
        kind = rng.randrange(5)
        if kind == 0:
            raw[at] = rng.randrange(256)
        elif kind == 1:
            del raw[at : at + rng.choice([1, 1, 4, 100])]
        elif kind == 2:
            raw[at:at] = rng.choice(pieces)
        elif kind == 3:
            numbers = list(re.finditer(rb"\d+", raw))
            number = rng.choice(numbers)
            raw[number.start() : number.end()] = rng.choice(
                [b"0", b"1", b"3", b"4096", b"65536", b"99999999999", b"-2"]
            )
        else:
            raw[at:at] = raw[at : at + rng.choice([1, 10, 200])]
    return bytes(raw if rng.random() < 0.8 else raw[: rng.randrange(len(raw))])


def small_files(path: Path) -> list[bytes]:
    """Exchange files of mostly structure, of which a change has something to say."""
    sizes = {"hidden": 8, "heads": 2, "layers": 1, "vocab": 16, "max_pos": 8, "intermediate": 8, "experts": 2}
    model = RandomModel(**sizes, qk_norm=True, tied=False)
    model.write_exchange(path, preview=1)
    found = [path.read_bytes()]
    for case in ("everything", "after"):
        spec, sizes = SPECS[case], {"vocab_size": 16, "hidden": 8, "heads": 2, "kv_heads": 1, "intermediate": 8}
        per_layer = {"rope_tables": spec.rope_tables[1:], "windows": spec.windows[1:]}
        spec = replace(spec, layers=2, sparse_layers=spec.sparse_layers & {0}, **sizes, **per_layer)
        write_spec(path, spec, inputs=inputs_of(padded=False, tokens=5, vocab=16), preview=1)
        found.append(path.read_bytes())
    return found


def fuzz(folder: Path, rounds: int, seed: int, runner: Path) -> None:
    """The runner reads or refuses each file, never crashes, and says what the Python reader says."""
    file, target = folder / "x.json", folder / "out.npy"
    raws, rng = small_files(file), random.Random(seed)
    for number in range(rounds):
        target.unlink(missing_ok=True)
        file.write_bytes(damaged(raws[number % len(raws)], rng))
        done = call(file, target, "--threads", 1, runner=runner)
        assert done.returncode in (0, 2), (number, done)
        assert target.exists() == (done.returncode == 0)
        theirs = None
        with contextlib.suppress(CutsetError), np.errstate(all="ignore"):
            source = open_source(file)
            theirs = None if source.inputs is None else reference(source)
        assert (theirs is None) == (done.returncode == 2), (number, done.stderr or "Python refuses it")
        if theirs is not None and np.isfinite(theirs).all():
            np.testing.assert_allclose(np.load(target), theirs, rtol=1e-3, atol=1e-3 * np.abs(theirs).max())


def test_damaged_files_are_refused_or_read(tmp_path: Path) -> None:
    fuzz(tmp_path, 300, 1, RUNNER)


@pytest.mark.slow
@pytest.mark.skipif(not SANITIZED.is_file(), reason="not built: make runner-asan")
def test_damaged_files_under_sanitizers(tmp_path: Path) -> None:
    fuzz(tmp_path, 1500, 2, SANITIZED)


@pytest.mark.slow
@pytest.mark.skipif(not SANITIZED.is_file(), reason="not built: make runner-asan")
@pytest.mark.parametrize("case", CONFIGS)
def test_runs_clean_under_sanitizers(case: str, tmp_path: Path) -> None:
    file = write_file(tmp_path / "model.json", config_of(case))
    done = call(file, tmp_path / "x.npy", runner=SANITIZED)
    assert (done.returncode, done.stderr) == (0, "")
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), logits_of(file), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not SANITIZED.is_file(), reason="not built: make runner-asan")
@pytest.mark.parametrize("case", SPECS)
def test_runs_every_decoder_clean_under_sanitizers(case: str, tmp_path: Path) -> None:
    write_spec(tmp_path / "model.json", SPECS[case])
    done = call(tmp_path / "model.json", tmp_path / "x.npy", runner=SANITIZED)
    assert (done.returncode, done.stderr) == (0, "")
