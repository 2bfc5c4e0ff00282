"""`python -m benchmarks adapters`: a batch with adapters beside one without, each sequence as it is alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main as benchmarks
from benchmarks.adapters import SHARE, check_tokens, write_adapter
from cutset.bench.own import Own
from cutset.compare.results import load
from cutset.errors import EngineError
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
