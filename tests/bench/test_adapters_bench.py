"""`python -m benchmarks adapters`: a batch with adapters beside one without, each sequence as it is alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main as benchmarks
from benchmarks.adapters import RANK, SEQUENCES, SHARE, TARGETS, bytes_share, check_tokens, write_adapter
from benchmarks.targets import judge
from cutset.bench.own import Own
from cutset.compare.results import Row, load
from cutset.errors import EngineError
from cutset.models.files.checkpoint import SafetensorsFile
from cutset.models.random import RandomModel

MODEL = RandomModel(vocab=512, max_pos=512)


def test_a_batch_with_adapters_beside_one_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "adapters.json"
    flags = ["--quick", "--rounds", "1", "--threads", "1", "--dtype", "float32", "--json", str(file)]
    assert benchmarks(["adapters", *flags]) == 0
    rows = load(file).rows
    workloads = [f"8 sequences, {what}" for what in ("none", "one for all", "8 adapters, BF16", "8 adapters, F32")]
    assert [row.workload for row in rows if row.metric == "decode"] == workloads
    assert [row.workload for row in rows if row.metric == f"decode, {SHARE}"] == workloads[1:]
    assert all(row.value > 0 for row in rows)
    assert "tokens/s of a batch with 8 adapters" in capsys.readouterr().out


def test_the_bound_of_memory_is_that_of_the_bytes(tmp_path: Path) -> None:
    spec = MODEL.spec()
    write_adapter(tmp_path, spec, RANK, 0, "F32")
    numbers = sum(tensor.float32().size for tensor in SafetensorsFile(tmp_path / "adapter_model.safetensors").values())
    weights = spec.parameter_count()  # of a tied model: the embedding is read as head
    for dtype, kind, wanted in (("float32", "F32", 4 / 4), ("float32", "BF16", 2 / 4), ("exact", "F32", 1)):
        assert bytes_share(spec, dtype, kind) == pytest.approx(SEQUENCES * numbers / weights * wanted)


def test_both_models_are_judged() -> None:
    rows = [
        Row(f"{model}: 8 sequences, 8 adapters, {kind}", "cutset native exact", f"{metric}, {SHARE}", value, "x")
        for model, value in (("w246", 0.8), ("w1b", 0.95))
        for kind in ("BF16", "F32")
        for metric in ("prefill", "decode")
    ]
    lines = judge(rows, TARGETS)
    assert [(line[0][:4], line[3]) for line in lines] == [("w246", "NO")] * 3 + [("w1b:", "yes")] * 3
    assert {line[1] for line in lines} == {"at least 0.900"}


@pytest.fixture
def own(tmp_path: Path) -> Any:
    MODEL.write_checkpoint(tmp_path / "model")
    for seed, name in enumerate("ab"):
        write_adapter(tmp_path / name, MODEL.spec(), 4, seed)
    own = Own("native float32", tmp_path / "model", 1, {name: tmp_path / name for name in "ab"})
    yield own
    own.close()


def test_other_tokens_in_a_batch_end_it(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    check_tokens(own, ["a", "b"])
    generate = own.llm.generate

    def swapped(prompts: Any, params: Any, *, adapter: Any) -> Any:
        return generate(prompts, params, adapter=adapter[::-1] if adapter else adapter)

    monkeypatch.setattr(own.llm, "generate", swapped)
    with pytest.raises(EngineError, match="a gives other tokens in a batch than alone"):
        check_tokens(own, ["a", "b"])
    monkeypatch.setattr(own.llm, "generate", lambda prompts, params, *, adapter: generate(prompts, params))
    with pytest.raises(EngineError, match="a changes no token"):
        check_tokens(own, ["a", "b"])
