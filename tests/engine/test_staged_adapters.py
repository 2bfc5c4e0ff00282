"""LoRA adapters over stages: each gets its layers' part, and writes what one machine would, whatever happens to it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset.cli import main
from cutset.engine import SamplingParams
from cutset.engine.stage_adapters import SentAdapters, joined_adapter, pack_parts, unpack_parts
from cutset.engine.stage_graph import decoder_graph, segments_of, stage_model
from cutset.engine.stage_runtime import StageRuntime
from cutset.errors import CheckpointError, CutsetError
from cutset.llm import LLM
from cutset.models.files.adapter import LoraAdapter, LowRank
from cutset.models.files.writer import write_safetensors
from cutset.models.registry import BUNDLED
from cutset.partition.description import read_description

from .stage_processes import Stages, running, workers_of
from .test_stage_graph import LIMITS, SETUP, random_source
from .test_stages import FOUR, adapter

SMALL: dict[str, Any] = {"threads": 1, "max_model_len": 256, "max_num_seqs": 6, "cache_mib": 4}
PROMPT = "Once upon a time"
LONG = SamplingParams(max_tokens=100, temperature=0, ignore_eos=True)
MODULES = {"q_proj": (128, 128), "v_proj": (64, 128), "o_proj": (128, 128), "down_proj": (128, 384)}


def write_story_adapter(folder: Path, seed: int, rank: int = 4) -> Path:
    """An adapter of the bundled model that changes what it says."""
    random, tensors = np.random.default_rng(seed), dict[str, np.ndarray]()
    for layer in range(6):
        for module, (rows, columns) in MODULES.items():
            block = "mlp" if module == "down_proj" else "self_attn"
            name = f"base_model.model.model.layers.{layer}.{block}.{module}"
            tensors[f"{name}.lora_A.weight"] = random.standard_normal((rank, columns)).astype(np.float32) / 9
            tensors[f"{name}.lora_B.weight"] = random.standard_normal((rows, rank)).astype(np.float32) / 9
    folder.mkdir()
    layout = {name: ("F32", array.shape) for name, array in tensors.items()}
    write_safetensors(folder / "adapter_model.safetensors", layout, tensors.items())
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": list(MODULES)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    found = {name: write_story_adapter(folder / name, seed) for seed, name in enumerate(("pirate", "poet"))}
    return found | {"corsair": found["pirate"]}  # one under two names


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    with running(tmp_path_factory.mktemp("stages"), "a", "b", "c") as found:
        yield found


def together(llm: LLM) -> list[Any]:
    """Answers of several adapters in one batch, and of none."""
    names = [None, "pirate", "poet", "corsair", "pirate", None]
    params = [replace(LONG, max_tokens=30), *[SamplingParams(max_tokens=30, seed=i, logprobs=2) for i in range(5)]]
    answers = llm.generate([PROMPT] * 6, params, adapter=names)
    return [(one.outputs[0].text, one.outputs[0].logprobs) for one in answers]


def text(llm: LLM, then: Any = None) -> str:
    found = ""
    for number, piece in enumerate(llm.stream(PROMPT, LONG, adapter="poet")):
        found += piece.text
        if number == 30 and then is not None:
            then()
    return found


@pytest.mark.parametrize("dtype", ["float32", pytest.param("int8", marks=pytest.mark.slow)])
def test_adapters_over_stages_write_the_same(dtype: str, adapters: dict[str, Path], stages: Stages) -> None:
    with LLM("story", adapters=adapters, dtype=dtype, **SMALL) as one:
        right, long, plain = together(one), text(one), one.generate(PROMPT, LONG)[0].outputs[0].text
        assert len({said for said, _ in right[:3]} | {long, plain}) == 5
        assert one.stats().prefix_hits == 0
    how = stages.settings("a", "b", spares=["c"]) | SMALL | {"dtype": dtype}
    with LLM("story", adapters=adapters, **how) as llm:
        assert llm.adapters == ("pirate", "poet", "corsair")
        assert together(llm) == right
        assert text(llm, lambda: stages.kill("b")) == long, "a spare gets the adapters' parts of its layers"
        assert workers_of(llm) == [stages.places["a"], stages.places["c"]]
        assert together(llm) == right
    stages.start("b")


def test_the_command_line_sends_an_adapter(
    adapters: dict[str, Path], stages: Stages, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "story", "--prompt", PROMPT, "--max-tokens", "12", "--threads", "1", "--cache-mib", "4"]
    words += ["--adapter", str(adapters["pirate"])]
    assert main(words) == 0
    alone = capsys.readouterr().out
    assert main([*words, "--stages", ",".join(stages.settings("a", "b")["stages"])]) == 0
    assert capsys.readouterr().out == alone


def test_an_adapter_of_another_model_is_refused(stages: Stages, tmp_path: Path) -> None:
    wrong = write_story_adapter(tmp_path / "wrong", 1)
    config = json.loads((BUNDLED["story"] / "config.json").read_text())
    assert config["hidden_size"] == 128
    (wrong / "adapter_config.json").write_text("{}")
    with pytest.raises(CutsetError, match="peft_type"):
        LLM("story", adapters={"x": wrong}, **stages.settings("a"), **SMALL)
    with LLM("story", **stages.settings("a"), **SMALL) as llm:
        assert workers_of(llm) == [stages.places["a"]], "it is free"


SEGMENTS = segments_of(FOUR)


def equal(ours: LowRank, theirs: LowRank) -> bool:
    names = ("site", "layer", "expert", "first", "scale")
    return (
        all(getattr(ours, name) == getattr(theirs, name) for name in names)
        and np.array_equal(ours.down, theirs.down)
        and np.array_equal(ours.up, theirs.up)
    )


def test_each_range_of_layers_gets_its_own_part() -> None:
    sent, one = SentAdapters(FOUR, SEGMENTS), adapter(1)
    for known in (one, adapter(2), replace(one, name="again")):
        sent.add(known, in_bytes=True)
    assert [known.name for known in sent.known] == ["a1", "a2"]
    found = []
    for layers in SEGMENTS:
        part = joined_adapter(sent.known[0], [layers], {name: sent.weights[name] for name in sent.names(layers)})
        assert all(each.layer in layers or (each.site == "lm_head" and layers.stop == 4) for each in part.parts)
        assert len(sent.names(layers)) == 2
        found += part.parts
    assert len(found) == len(one.parts)
    for part in one.parts:
        assert any(equal(part, other) for other in found)


def test_what_is_no_part_of_an_adapter_is_refused() -> None:
    data = pack_parts(adapter(1).parts)
    assert all(equal(a, b) for a, b in zip(adapter(1).parts, unpack_parts(data), strict=True))
    random = np.random.default_rng(0)
    for cut in (0, 3, 4, 100, data.size - 1, data.size - 4):
        with pytest.raises(CheckpointError):
            unpack_parts(data[:cut])
    head = 4 + int.from_bytes(data[:4].tobytes(), "little")
    for _ in range(500):
        damaged = data.copy()
        damaged[random.integers(0, head, 2)] = random.integers(0, 256, 2)
        try:
            parts = unpack_parts(damaged)
        except CheckpointError:
            continue
        assert len(parts) == len(adapter(1).parts)


def stage_of(changed: Mapping[str, Any], parts: tuple[LowRank, ...]) -> None:
    """The first stage of a model with an adapter of these parts, as a worker makes it."""
    source, runtime = random_source(**changed), StageRuntime()
    sent = SentAdapters(source.spec, segments_of(source.spec))
    sent.add(LoraAdapter("x", b"d" * 16, parts), in_bytes=False)
    described = stage_model(source, runtime.software, "native", "float32", SETUP, sent.known)
    model = decoder_graph(source, described, LIMITS, sent)
    graph = read_description(json.loads(model.description))
    assert graph == model.graph
    nodes = [0, 1]  # the embedding and the first layers
    runtime.stage(graph, nodes, {name: model.weights[name] for name in graph.weights_of(nodes)})


def test_what_does_not_fit_its_layers_is_refused() -> None:
    def part(rows: int, columns: int) -> LowRank:
        return LowRank("o", 0, -1, 0, np.ones((2, columns), np.float32), np.ones((rows, 2), np.float32), 1.0)

    stage_of({}, (part(32, 32),))
    for wrong in (part(33, 32), part(32, 31)):
        with pytest.raises(CheckpointError, match="adapter 'x' doesn't fit"):
            stage_of({}, (wrong,))


@pytest.mark.slow
def test_an_adapter_of_a_calibrated_model_fits_its_moved_channels(
    adapters: dict[str, Path], stages: Stages, tmp_path: Path
) -> None:
    """Stages haven't the scales that such a checkpoint moved between channels."""
    words = "Once upon a time there was a little girl who lived in a house by the sea. She liked cake and dogs. " * 30
    (tmp_path / "text.txt").write_text(words)
    where = str(tmp_path / "calibrated")
    assert main(["quantize", "story", "-o", where, "--calibrate", str(tmp_path / "text.txt"), "--threads", "1"]) == 0
    found = []
    for how in ({}, stages.settings("a", "b")):
        with LLM(where, adapters=adapters, **how, **SMALL) as llm:
            found.append((together(llm), text(llm)))
    assert found[0] == found[1]
