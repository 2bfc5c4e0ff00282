"""The benchmark of quality: what it makes of a model, what others answer, and a model that is rotated."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import quality
from benchmarks.__main__ import main
from benchmarks.rotated import write_rotated
from cutset.bench.quality import common_texts
from cutset.compare.results import load
from cutset.config import Settings
from cutset.errors import ModelError
from cutset.models.files.source import open_source
from cutset.models.random import RandomModel
from cutset.models.run.backend import build_executor
from cutset.models.run.executor import Batch

OPPONENT = """#!{python}
import json, sys
import numpy
if sys.argv[2] == "openvino int4":
    sys.exit(1)
print(json.dumps({{"versions": {{"fake": "1"}}}}), flush=True)
for line in sys.stdin:
    command = json.loads(line)
    numpy.save(command["file"], numpy.zeros((len(command["ids"]), 2048), numpy.float32))
    print("{{}}", flush=True)
"""


def test_ours_beside_another_programs(story_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake, text = tmp_path / "fake", tmp_path / "prose"
    fake.write_text(OPPONENT.format(python=sys.executable))
    fake.chmod(0o755)
    text.write_text("One day, Tom went to the park. He saw a big dog. The dog was sad. " * 80)
    words = ["quality", str(story_dir), "--text", text, "--window", 64, "--positions", 60, "--dtype", "exact"]
    words += ["--system", "exact, calibrated", "--system", "4 bits, groups of 64", "--system", "openvino int8"]
    words += ["--system", "openvino int4"]
    words += ["--calibrate", text, "--python", f"openvino={fake}", "--threads", 1, "--json", tmp_path / "q.json"]
    assert main([str(word) for word in words]) == 0
    results = load(tmp_path / "q.json")
    found = {row.system: row.value for row in results.rows if row.metric == quality.MEAN}
    bits = {row.system: row.value for row in results.rows if row.unit == "bits"}
    assert list(found) == [
        "cutset native float32", "cutset native exact", "cutset exact, calibrated", "cutset 4 bits, groups of 64",
        "openvino int8",
    ]  # fmt: skip
    assert 0 < found["cutset exact, calibrated"] < found["cutset native exact"] < found["cutset 4 bits, groups of 64"]
    assert found["openvino int8"] > 1
    assert 4 < bits["cutset 4 bits, groups of 64"] < 4.5
    assert 8 <= bits["cutset exact, calibrated"] < 9
    assert results.machine.versions["fake"] == "1"
    assert str(fake) not in results.command
    captured = capsys.readouterr()
    assert "exact, calibrated" in captured.out
    assert "openvino int4: its process" in captured.err


def test_what_can_not_be_made_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model"
    RandomModel(hidden=64, heads=4, kv_heads=2, vocab=61, layers=1, intermediate=128).write_checkpoint(model)
    args = argparse.Namespace(model=str(model), python=None, calibrate=None)
    workshop = quality.Workshop(args, Settings(threads=1), tmp_path)
    made = list(workshop.ours(str(model), ("4 bits, groups of 128", "4 bits, groups of 64")))
    assert [each.label for each in made] == ["4 bits, groups of 64"]
    assert "4 bits, groups of 128: left out" in capsys.readouterr().err


def test_what_is_refused(story_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quality", str(story_dir), "--system", "llama.cpp q9"]) == 2
    assert "--system 'llama.cpp q9' isn't one of" in capsys.readouterr().err
    assert main(["quality", str(story_dir), "--window", "1"]) == 2


def test_texts_for_calibration_are_others_than_those_that_are_judged() -> None:
    judged = "\n".join(common_texts().values())
    for text in quality.calibration_texts().values():
        assert len(text) > 20_000
        pieces = [text[at : at + 200] for at in range(0, len(text) - 200, 1000)]
        assert not any(piece in judged for piece in pieces)


def logits(folder: Path) -> np.ndarray:
    executor, _ = build_executor(open_source(folder), Settings(backend="native", dtype="float32", threads=1))
    ids = np.arange(3, 35, dtype=np.int32).reshape(1, 32)
    return np.array(executor.forward(Batch.whole(ids, 16), executor.new_cache(2, 16)))


@pytest.mark.parametrize("tied", [False, True])
def test_a_rotated_model_is_the_same_off_its_grid(tied: bool, tmp_path: Path) -> None:
    model = RandomModel(hidden=48, heads=4, kv_heads=2, vocab=61, layers=2, tied=tied)
    model.write_checkpoint(tmp_path / "model")
    source = open_source(tmp_path / "model")
    write_rotated(source, tmp_path / "rotated")
    turned = open_source(tmp_path / "rotated")
    expected = logits(tmp_path / "model")
    assert np.abs(logits(tmp_path / "rotated") - expected).max() < 1e-4 * np.abs(expected).max()
    assert not turned.spec.tied
    name = "model.layers.1.mlp.down_proj.weight"
    assert np.abs(turned.tensors[name].float32() - source.tensors[name].float32()).max() > 0.01
    np.testing.assert_array_equal(turned.tensors["model.layers.1.input_layernorm.weight"].float32(), 1)


def test_a_mixture_is_not_rotated(tmp_path: Path) -> None:
    RandomModel(hidden=48, heads=4, kv_heads=2, vocab=61, layers=2, experts=3).write_checkpoint(tmp_path / "model")
    with pytest.raises(ModelError, match="a network with moe isn't rotated here"):
        write_rotated(open_source(tmp_path / "model"), tmp_path / "rotated")
