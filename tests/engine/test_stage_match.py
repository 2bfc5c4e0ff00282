"""Whether stages fit together: version, build, number types, instruction set, model; and what is said otherwise."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from cutset.cluster.messages import MINOR, Card
from cutset.engine import SamplingParams
from cutset.engine.stage_graph import BUILD, DESCRIPTION, StageLimits, StageModel, decoder_graph, stage_model
from cutset.engine.stage_item import StageSetup
from cutset.engine.stage_match import check_card, common_isa, cost_of_isa
from cutset.engine.stage_runtime import StageRuntime, software_of, stage_abilities
from cutset.errors import CutsetError, DeviceError, LinkError
from cutset.kernels import native
from cutset.llm import LLM
from cutset.models.files.fingerprint import fingerprint
from cutset.models.files.source import ModelSource, open_source
from cutset.models.random import RandomModel
from cutset.version import compatible, software
from engine.stage_processes import running, until, workers_of

ISAS = native.available_isas()
SMALL: dict[str, Any] = {"threads": 1, "max_model_len": 256, "max_num_seqs": 4, "cache_mib": 4}
PARAMS = SamplingParams(max_tokens=40, temperature=0.9, seed=3, logprobs=1, ignore_eos=True)


@contextmanager
def running_at(isa: str) -> Iterator[None]:
    """This process computes with another instruction set meanwhile."""
    before = native.isa()
    assert native.select_isa(isa)
    try:
        yield
    finally:
        native.select_isa(before)


def card(*isas: str, **changes: Any) -> Card:
    name = software_of(isas[-1])
    made = Card("cpu", 1, 1, 0, name, "cpu", 0, BUILD, list(isas), [], ["float32", "int8"], ["auto"])
    return msgspec.structs.replace(made, **changes)


def test_releases_at_most_one_minor_version_apart_go_together() -> None:
    for ours, theirs, together in (
        ("cutset 1.4.0", "cutset 1.5.2", True),
        ("cutset 1.4.0", "cutset 1.3.9", True),
        ("cutset 1.4.0", "cutset 1.6.0", False),
        ("cutset 1.4.0", "cutset 2.4.0", False),
        ("cutset 0.1.0", "cutset 0.1.1", True),
        ("cutset 0.1.0", "cutset 0.2.0", False),
        ("cutset 0.1.0", "cutset 0.0.0", False),
        ("cutset 0.1.0", "cutset 1.1.0", False),
        ("cutset 1.0", "cutset 1.1.dev3+gabc", True),
        ("cutset (not installed)", "cutset (not installed)", True),
        ("cutset (not installed)", "cutset 0.1.0", False),
        ("cutset 1.4.0", "other 1.4.0", False),
    ):
        assert compatible(ours, theirs) is together is compatible(theirs, ours), (ours, theirs)
    assert compatible(software(), software())


def test_what_does_not_fit_is_refused_in_words_of_both_sides() -> None:
    ours = "cutset 1.4.0, stages, avx2"
    good = card("portable", "avx2", software="cutset 1.5.0, stages, avx2")
    check_card("b", good, ours, dtype="int8", kv_dtype="auto", isa="portable")
    for change, wanted, words in (
        ({"software": "cutset 1.6.0, stages, avx2"}, {}, r"b is cutset 1\.6\.0, .* this side cutset 1\.4\.0.*Install"),
        ({"software": "torch 2.0"}, {}, r"no stage of language models but torch 2\.0"),
        ({"software": "\x1b[2J"}, {}, "no stage of language models but \ufffd"),
        ({"build": "arithmetic 7"}, {}, rf"a build of arithmetic 7, this side \(cutset 1\.4\.0.*one of {BUILD}"),
        ({}, {"dtype": "int4"}, r"b \(cutset 1\.5\.0.*\) has dtype float32, int8, and this side wants int4"),
        ({}, {"kv_dtype": "int8"}, "has kv_dtype auto, and this side wants int8"),
        ({}, {"isa": "amx"}, "has instruction set portable, avx2, and this side wants amx"),
    ):
        with pytest.raises(LinkError, match=words):
            check_card("b", msgspec.structs.replace(good, **change), ours, **wanted)


def test_the_highest_instruction_set_that_all_have_is_chosen_and_its_cost_is_said() -> None:
    best = card("portable", "avx2", "avx512", speeds=[0.1, 0.6, 1.0])
    cards = {"a": best, "b": card("portable", "avx2"), "c": card("portable", "avx2", "avx512", "amx")}
    assert common_isa(cards, "native") == "avx2"
    assert common_isa({"a": best, "b": best}, "native") == "avx512"
    assert common_isa(cards, "reference") == "numpy"
    assert common_isa({"old": card("avx2", isas=[])}, "native") == "avx2", "an older release says one"
    with pytest.raises(LinkError, match=r"share no instruction set .* a: portable, avx2, avx512; b: neon"):
        common_isa({"a": best, "b": card("neon")}, "native")
    line = cost_of_isa(cards, "avx2")
    assert "run at avx2" in line
    assert "(b has no higher one)" in line
    assert "a computes at 60% of its speed with avx512; c has amx" in line
    assert cost_of_isa({"a": best, "b": best}, "avx512") == ""


def test_this_machine_says_what_it_has() -> None:
    found = stage_abilities(measure=True)
    assert found.isas[-1] == native.isa()
    assert list(found.isas) == ISAS[: len(found.isas)]
    assert len(found.speeds) == (len(found.isas) if len(found.isas) > 1 else 0)
    assert all(speed > 0 for speed in found.speeds)
    with running_at(ISAS[0]):
        assert stage_abilities().isas == ISAS[:1], "CUTSET_ISA is a bound"


def random_source() -> ModelSource:
    model = RandomModel(hidden=32, layers=3, heads=4, vocab=61, max_pos=64)
    tensors = {name: model.tensor(name) for name in model.spec().tensor_shapes()}
    return ModelSource(Path("x"), model.config, model.spec(), tensors, "float32")


def test_a_stage_runs_at_the_instruction_set_that_it_is_told() -> None:
    source, setup = random_source(), StageSetup(blocks=3, block_size=16)
    runtime = StageRuntime()

    def stage(isa: str, **change: Any) -> Any:
        described: StageModel = stage_model(source, software_of(isa), "native", "float32", setup)
        described = msgspec.structs.replace(described, **change)
        model = decoder_graph(source, described, StageLimits(rows=32, sequences=4, context=48))
        nodes = [0, 1]  # the embedding and the first layers
        weights = {name: model.weights[name] for name in model.graph.weights_of(nodes)}
        return runtime.stage(model.graph, nodes, weights)

    with pytest.raises(DeviceError, match=rf"this worker has {ISAS[0]}.*, the coordinator wants sse9"):
        stage("sse9")
    with pytest.raises(DeviceError, match=rf"build computes by {BUILD}, the coordinator's by arithmetic 9"):
        stage(native.isa(), build="arithmetic 9")
    with running_at(native.isa()):
        kept = stage(ISAS[0])
        assert native.isa() == ISAS[0]
        assert kept.outputs
        del kept
        made = stage(ISAS[-1])
        assert native.isa() == ISAS[-1], "the one before is gone"
        assert made.outputs
    assert DESCRIPTION not in source.tensors


def test_models_are_told_apart_by_a_few_bytes(story_dir: Path, tmp_path: Path) -> None:
    tensors = dict(open_source(story_dir).tensors)
    found = fingerprint(tensors)
    assert found == fingerprint(dict(reversed(list(open_source(story_dir).tensors.items()))))
    name = next(iter(sorted(tensors)))
    for at in (0, -1):
        changed = tensors[name].raw.copy()
        changed.reshape(-1).view(np.uint8)[at] ^= 1
        other = type(tensors[name])(name, Path("x"), tensors[name].dtype, changed)
        assert fingerprint(tensors | {name: other}) != found
    assert fingerprint({name: tensors[name]}) != found
    first, second = (fingerprint(random_source().tensors) for _ in range(2))
    assert first == second != found


def test_stages_of_different_machines_give_the_bits_of_the_lower_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    low = ISAS[0]
    with running_at(low), LLM("story", **SMALL) as llm:
        wanted = llm.generate("Once upon a time", PARAMS)[0].outputs[0]
    caplog.set_level(logging.INFO, "cutset.loaded_model")
    with running(tmp_path, "a", "b", "c", env={"b": {"CUTSET_ISA": low}}) as stages:
        for names, spares in ((("a", "b"), ()), (("a", "c"), ("b",))):
            with LLM("story", **stages.settings(*names, spares=spares), **SMALL) as llm:
                assert workers_of(llm) == [stages.places[name] for name in names]
                found = llm.generate("Once upon a time", PARAMS)[0].outputs[0]
            assert (found.text, found.logprobs) == (wanted.text, wanted.logprobs), "spares count, too"
        lines = [record.getMessage() for record in caplog.records if "stages run at" in record.getMessage()]
        if native.isa() != low:
            assert len(lines) == 2
            assert f"run at {low}, the highest instruction set that all of them have ({stages.places['b']}" in lines[0]
            assert f"of its speed with {native.isa()}" in lines[0]
        with LLM("story", **stages.settings("a", "c"), **SMALL) as llm:
            assert llm.stages is not None
            assert llm.stages.pipeline.planning._isa == native.isa(), "it goes back to the best one for the next engine"
        assert not [line for line in lines[2:] if "run at" in line]


@pytest.mark.slow
def test_a_spare_that_comes_later_and_lacks_the_instruction_set_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cutset.loaded_model")
    with LLM("story", **SMALL) as llm:
        wanted = llm.generate("Once upon a time", PARAMS)[0].outputs[0].logprobs
    with running(tmp_path, "a", "c", env={"b": {"CUTSET_ISA": ISAS[0]}}) as stages:
        places = stages.settings("a", "c", spares=["b"])
        with LLM("story", **places, **(SMALL | {"patience": 60.0})) as llm:
            assert llm.stages is not None
            stages.start("b")
            coordinator = llm.stages.pipeline._coordinator
            assert coordinator is not None
            until(lambda: coordinator.remotes[stages.places["b"]].up)
            stages.kill("a")
            assert llm.generate("Once upon a time", PARAMS)[0].outputs[0].logprobs == wanted
            if len(ISAS) > 1:
                assert workers_of(llm) == [stages.places["c"]], "what is left is enough"
                assert any(f"has instruction set {ISAS[0]}, and this side wants" in line for line in caplog.messages)


def test_workers_that_do_not_fit_are_refused_and_stay_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RandomModel(hidden=64, layers=3, heads=4, vocab=100, max_pos=64).write_checkpoint(tmp_path / "other")
    how = ("a", "b")
    monkeypatch.setattr("cutset.cluster.coordinator.reach.REFUSED", 0.3)
    with running(tmp_path, *how, model=str(tmp_path / "other")) as stages:
        with pytest.raises(LinkError, match=r"refused: it has loaded another model .*digest is .*, yours .*"):
            LLM("story", **stages.settings(*how), **SMALL)
        with LLM(str(tmp_path / "other"), **stages.settings(*how), **(SMALL | {"max_model_len": 32})) as llm:
            assert len(workers_of(llm)) == 2, "they serve their own"
        monkeypatch.setattr("cutset.cluster.messages.MINOR", MINOR + 2)
        monkeypatch.setattr("cutset.cluster.coordinator.remote.MINOR", MINOR + 2)
        with pytest.raises(CutsetError, match=rf"speaks version 4\.{MINOR + 2} .* this side 4\.{MINOR}"):
            LLM(str(tmp_path / "other"), **stages.settings(*how), **(SMALL | {"max_model_len": 32}))
        monkeypatch.setattr("cutset.cluster.coordinator.remote.MINOR", MINOR + 1)
        monkeypatch.setattr("cutset.cluster.messages.MINOR", MINOR + 1)
        with LLM(str(tmp_path / "other"), **stages.settings(*how), **(SMALL | {"max_model_len": 32})) as llm:
            assert len(workers_of(llm)) == 2, "one minor version apart"
