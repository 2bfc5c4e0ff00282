"""`--data-oblivious`: the same answers, with everything read for each token; what can't keep it is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset import LLM, SamplingParams
from cutset.cli import main
from cutset.config import Settings
from cutset.errors import ConfigError, CutsetError, DeviceError
from cutset.kernels import native
from cutset.models.random import RandomModel
from cutset.models.run.native import NativeDecoder
from cutset.serve.replicas.replicated_llm import check_replicated
from models.test_grouped_models import codes_of
from models.test_native import SPECS, tensors_of
from models.test_stage_ranges import GROUPED, STEPS, equal, through

PROMPT = np.arange(3, 40, dtype=np.int32)
PARAMS = (SamplingParams(temperature=0, max_tokens=6), SamplingParams(seed=5, top_p=0.9, top_k=40, max_tokens=6))


def answers(model: Path | str, **settings: Any) -> list[list[int]]:
    with LLM(model, **settings) as llm:
        wanted = settings.get("data_oblivious", False)
        assert isinstance(llm.executor, NativeDecoder)
        assert llm.executor.data_oblivious == llm.executor.core.data_oblivious == wanted
        return [llm.generate(PROMPT, params)[0].token_ids for params in PARAMS]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_the_tokens_are_the_same(kind: str, threads: int, tmp_path: Path) -> None:
    RandomModel(bfloat16=kind == "bfloat16", hidden=96, vocab=300).write_checkpoint(tmp_path / "model")
    settings: dict[str, Any] = {"threads": threads, "dtype": "int8" if kind == "int8" else "float32"}
    plain = answers(tmp_path / "model", **settings)
    assert answers(tmp_path / "model", data_oblivious=True, **settings) == plain


@pytest.mark.parametrize("name", [one for one, spec in SPECS.items() if spec.moe is None])
def test_every_decoder_has_the_same_bits(name: str) -> None:
    """Whatever its layers are told of tokens."""
    spec, tensors = SPECS[name], tensors_of(SPECS[name])
    decoders = [NativeDecoder(spec, tensors, native.Pool(2)) for _ in range(2)]
    decoders[1].be_data_oblivious()
    expected, found = (through([one], STEPS) for one in decoders)
    equal(found, expected)


def test_a_table_of_codes() -> None:
    spec = replace(GROUPED, layers=2)
    decoders = [NativeDecoder(spec, codes_of(spec), native.Pool(1), dtype="stored") for _ in range(2)]
    assert decoders[1].embedding_codes is not None
    decoders[1].be_data_oblivious()
    expected, found = (through([one], STEPS) for one in decoders)
    equal(found, expected)


REFUSED: list[tuple[dict[str, Any], type[CutsetError], str]] = [
    ({"backend": "reference"}, DeviceError, "native backend"),
    ({"speculate": "ngram"}, ConfigError, "speculate"),
    ({"stages": 2}, ConfigError, "--stages"),
]


@pytest.mark.parametrize(("settings", "kind", "match"), REFUSED)
def test_what_looks_texts_up_is_refused(settings: dict[str, Any], kind: type[CutsetError], match: str) -> None:
    with pytest.raises(kind, match=match):
        LLM("story", threads=1, data_oblivious=True, **settings)


def test_replicas_are_refused() -> None:
    """Routes to them are looked up by beginnings of texts."""
    with pytest.raises(ConfigError, match="--data-oblivious"):
        check_replicated(Settings(data_oblivious=True))


def test_a_mixture_of_experts_is_refused(tmp_path: Path) -> None:
    RandomModel(experts=4).write_checkpoint(tmp_path / "model")
    with pytest.raises(DeviceError, match="experts"):
        LLM(tmp_path / "model", threads=1, data_oblivious=True)


def test_a_cache_on_disk_is_refused_and_beginnings_are_used_again_only_where_asked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="prefix_cache"):
        LLM("story", threads=1, data_oblivious=True, prefix_cache=tmp_path / "cache")
    for asked, hits in (({}, 0), ({"prefix_caching": True}, 1)):
        with LLM("story", threads=1, data_oblivious=True, **asked) as llm:
            for _ in range(2):
                [found] = llm.generate(PROMPT, PARAMS[0])
            assert (found.usage.cached_tokens > 0) == bool(hits)


def test_the_client_of_an_offload(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the command line, in the mode that computes here."""
    arguments = ["generate", "story", "--mode", "local", "--max-tokens", "5", "--prompt", "The dog", "--threads", "1"]
    assert main(arguments) == 0
    plain = capsys.readouterr().out
    assert main([*arguments, "--data-oblivious"]) == 0
    assert capsys.readouterr().out == plain
