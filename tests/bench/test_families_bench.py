"""`python -m benchmarks families`: every family's random model, who may take part, and what is divided by what."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import family_gguf
from benchmarks.__main__ import main as benchmarks
from benchmarks.families import ALL, TARGETS, Agreement, ratios
from benchmarks.family_models import BASE, FAMILIES
from benchmarks.targets import judge
from cutset.bench.decode import FLOAT, INTEGER, System
from cutset.bench.turns import Process
from cutset.compare.results import Row, load
from cutset.errors import EngineError
from cutset.models.families import families, spec_from_config

SPEAKER = """
import json, sys
print(json.dumps({"versions": {}, "rss": 1, "rss_before": 1}), flush=True)
for line in sys.stdin:
    print(json.dumps({"logits": LOGITS}), flush=True)
"""


def speaker(label: str, weights: str, logits: list[float]) -> System:
    code = SPEAKER.replace("LOGITS", str(logits))
    return System(label, weights, lambda folder: Process([sys.executable, "-c", code], name=label))


def test_every_family_but_wrappers_has_a_model() -> None:
    wrappers = {"gemma3", "mistral3", "qwen3_5", "qwen3_5_moe"}  # of text parts that stand here
    missing = {*families()} - {*FAMILIES} - wrappers - {"minimind"}  # which transformers doesn't have
    assert missing <= {name for name in missing if name.startswith("gemma4")}
    assert {*family_gguf.ARCHITECTURES} <= {*FAMILIES}


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_is_read_and_has_its_size(name: str, quick: bool) -> None:
    transformers = pytest.importorskip("transformers")
    family = FAMILIES[name]
    classes = [getattr(transformers, f"{family.cls}{kind}", None) for kind in ("TextConfig", "Config")]
    config = next(found for found in classes if found)(**family.values(quick)).to_dict()
    spec = spec_from_config(json.loads(json.dumps(config, default=str)))
    assert spec.family == name
    if not quick:
        assert 180e6 < spec.parameter_count() < 250e6


@pytest.mark.slow
def test_one_family_beside_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    flags = ["--family", "llama", "--quick", "--rounds", "1", "--threads", "1", "--cache", str(tmp_path / "cache")]
    systems = [flag for name in ("native float32", "native exact", "transformers") for flag in ("--system", name)]
    assert benchmarks(["families", *flags, *systems, "--json", str(tmp_path / "x.json")]) == 0
    found = load(tmp_path / "x.json")
    assert "--cache DIR" in found.command
    distances = {row.system: row.value for row in found.rows if row.metric.startswith("distance")}
    assert distances["transformers"] < 1e-2
    assert 1e-2 < distances["cutset native exact"] < 20
    divided = [row for row in found.rows if "over the best" in row.metric]
    assert {row.metric.rpartition(", ")[2] for row in divided} == {FLOAT, ALL}
    assert "ours over the best" in capsys.readouterr().out


def test_who_has_another_model_does_not_start(tmp_path: Path) -> None:
    told: list[str] = []
    agreement = Agreement(told.append)
    with agreement.checked(speaker("cutset native float32", FLOAT, [1.0, 2.0])).start(tmp_path):
        pass
    with agreement.checked(speaker("rival", FLOAT, [1.0, 2.001])).start(tmp_path):
        pass
    assert 1e-4 < agreement.distances["rival"] < 1e-3
    with agreement.checked(speaker("rival 8", INTEGER, [1.1, 2.0])).start(tmp_path):
        pass
    for weights, logits in ((FLOAT, [1.0, 2.1]), (INTEGER, [2.0, -1.0]), (FLOAT, [0.0, 0.0])):
        with pytest.raises(EngineError, match="that is another model"):
            agreement.checked(speaker("other", weights, logits)).start(tmp_path)
    with pytest.raises(EngineError, match="it has 3 words, and ours 2"):
        agreement.checked(speaker("wider", FLOAT, [1.0, 2.0, 3.0])).start(tmp_path)
    assert len([line for line in told if "from ours in float32" in line]) == 5


def rows_of(**values: tuple[str, float]) -> list[Row]:
    names = {"ours": "cutset native float32", "exact": "cutset native exact", "theirs": "llama.cpp f32"}
    names |= {"eager": "transformers", "bytes": "llama.cpp q8_0"}
    return [Row("glm", names[name], f"decode, {weights}", value, "tok/s") for name, (weights, value) in values.items()]


def test_like_is_divided_by_like() -> None:
    rows = rows_of(
        ours=(FLOAT, 30.0), exact=(INTEGER, 90.0), theirs=(FLOAT, 20.0), eager=(FLOAT, 15.0), bytes=(INTEGER, 50.0)
    )
    rows.append(Row("glm", "cutset native int8", f"decode, {INTEGER}", 500.0, "tok/s"))  # of another quality
    found = {row.metric: (row.system, row.value) for row in ratios(rows)}
    assert found == {
        "decode, ours over the best, float32": ("cutset native float32", 1.5),
        "decode, ours over the best, 8-bit weights": ("cutset native exact", 1.8),
        f"decode, ours over the best, {ALL}": ("cutset native exact", 1.8),
    }
    verdicts = {line[0]: line[3] for line in judge([*ratios(rows)], TARGETS)}
    assert [*verdicts.values()] == ["yes", "yes", "yes"]
    alone = rows_of(ours=(FLOAT, 30.0), exact=(INTEGER, 90.0), eager=(FLOAT, 75.0))
    assert [row.value for row in ratios(alone)] == [0.4, 1.2]
    assert [line[3] for line in judge([*ratios(alone)], TARGETS)] == ["NO", "NO"]


def test_rows_of_q_and_k_go_from_halves_to_neighbours() -> None:
    config: dict[str, Any] = {**BASE, "num_attention_heads": 2, "num_key_value_heads": 1}
    llama, qwen = family_gguf.ARCHITECTURES["llama"], family_gguf.ARCHITECTURES["qwen3"]
    rows = np.arange(8.0)[:, None] * np.ones((1, 3))
    name = "model.layers.0.self_attn.q_proj.weight"
    assert family_gguf.changed(name, rows, llama, config)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert family_gguf.changed(name, rows, qwen, config) is rows
    assert family_gguf.changed(name.replace("q_proj", "v_proj"), rows, llama, config) is rows
    gemma = family_gguf.ARCHITECTURES["gemma"]
    assert family_gguf.changed("model.norm.weight", np.zeros(2), gemma, config).tolist() == [1, 1]
    assert family_gguf.changed("model.norm.weight", np.zeros(2), llama, config).tolist() == [0, 0]


def test_families_and_systems_that_nobody_knows(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmarks(["families", "--family", "abacus"]) == 2
    assert "--family abacus: known are llama" in capsys.readouterr().err
    assert benchmarks(["families", "--system", "abacus"]) == 2
    assert "--system 'abacus' isn't one of: native float32" in capsys.readouterr().err
