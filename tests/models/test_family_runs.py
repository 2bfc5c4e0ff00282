"""Every family through the native engine: against transformers, and against itself run in other ways, to the bit."""

from __future__ import annotations

import contextlib
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import cutset.loaded_model
from cutset import LLM, SamplingParams
from cutset.config import load_settings
from cutset.errors import ArchitectureError
from cutset.kernels import native
from cutset.models.families import families, load_spec, spec_from_config
from cutset.models.families.common import HARMLESS
from cutset.models.files.adapter import read_adapter
from cutset.models.files.fields import Fields
from cutset.models.files.source import open_source
from cutset.models.run.executor import Batch
from cutset.models.run.native import NativeDecoder
from cutset.models.stages import cuts, split, stage_tensors
from cutset.offload.accelerator.clients import Quota
from cutset.offload.accelerator.loading import open_accelerator
from models.family_cases import CASES
from models.family_checkpoints import relative_error, write_checkpoint
from models.test_adapter import merged_logits, write_adapter
from offload.conftest import serve_in_thread

torch.set_num_threads(1)  # of models so small that more only wait for each other
# Their rotation changes in transformers while a sequence grows; here its limit decides from the start.
GROWING = {"llama-dynamic", "glm-dynamic"}
LENGTH = 160  # positions of a model here, where its case doesn't say how many
NUMBERS = itertools.count()
RNG = np.random.default_rng(3)
COMMON = RNG.integers(0, 131, 33).tolist()
PROMPTS = [RNG.integers(0, 131, n).tolist() for n in (1, 9, 20)] + [[*COMMON, 5, 7], [*COMMON, 11]]
PARAMS = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True, logprobs=2)
FEW = replace(PARAMS, max_tokens=5)


# One case of each class in transformers.
FIRSTS = {family: case for case, (family, _) in reversed(CASES.items())}


class Written:
    """A random model of a case: its directory, and transformers' own."""

    def __init__(self, case: str, directory: Path) -> None:
        family, fields = CASES[case]
        self.case, self.directory = case, directory
        own = {} if "text_config" in fields else {"max_position_embeddings": LENGTH}
        self.model = write_checkpoint(directory, family, tokenizer=True, **{**own, **fields})
        self.limit = min(LENGTH, load_spec(directory).longest)

    def open(self, **settings: Any) -> LLM:
        return LLM(self.directory, **{"threads": 1, "backend": "native", "max_model_len": self.limit} | settings)

    def prompts(self) -> list[list[int]]:
        return [ids for ids in PROMPTS if len(ids) + 20 <= self.limit]


@pytest.fixture(scope="module", params=CASES)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return Written(request.param, tmp_path_factory.mktemp("family"))


def generated(llm: LLM, prompts: list[list[int]], params: SamplingParams = PARAMS) -> list[Any]:
    """Tokens, and log-probabilities to the bit."""
    outputs = [output.outputs[0] for output in llm.generate(prompts, params)]
    return [(one.token_ids, [(t.logprob, t.top) for t in one.logprobs or ()]) for one in outputs]


def logits(llm: LLM, ids: np.ndarray, *, limit: int = 0, adapters: tuple[Any, ...] = ()) -> np.ndarray:
    batch = replace(Batch.whole(ids, 16), adapters=adapters)
    if limit:
        batch = replace(batch, limits=np.full_like(batch.limits, limit))
    found = llm.executor.forward(batch, llm.executor.new_cache(batch.block_tables.size, 16))
    return found.reshape(*ids.shape, -1)


def test_logits_and_greedy_tokens_are_those_of_transformers(written: Written) -> None:
    ids = np.random.default_rng(1).integers(0, 131, (2, 29)).astype(np.int32)
    with torch.no_grad(), written.open() as llm:
        theirs = written.model(torch.from_numpy(ids).long()).logits.numpy()
        assert relative_error(logits(llm, ids), theirs) <= 1e-4
        if written.case in GROWING:
            return
        length = min(64, written.limit - 9)
        written.model.generation_config.eos_token_id = None
        prompt = torch.tensor([PROMPTS[1]])
        expected = written.model.generate(prompt, max_new_tokens=length, do_sample=False)[0, 9:].tolist()
        params = SamplingParams(temperature=0, max_tokens=length, ignore_eos=True)
        [output] = llm.generate([PROMPTS[1]], params)
        assert output.outputs[0].token_ids == expected
        assert len(set(expected)) > 1


@pytest.mark.parametrize("where", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("case", FIRSTS.values())
def test_its_end_tokens_end_an_answer(case: str, where: str, tmp_path: Path) -> None:
    written = Written(case, tmp_path)
    greedy = SamplingParams(temperature=0, max_tokens=20)
    with written.open() as llm:
        [whole] = llm.generate([PROMPTS[1]], replace(greedy, ignore_eos=True))
    tokens = whole.outputs[0].token_ids
    end = next(token for token in tokens if token not in tokens[:1])  # not the first: something must come before
    for name in ("config.json", "generation_config.json"):
        path = tmp_path / name
        config = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps({**config, "eos_token_id": [end, 130] if name == where else 129}))
    with written.open() as llm:
        [output] = llm.generate([PROMPTS[1]], greedy)
    assert output.outputs[0].finish_reason == "stop"
    assert output.outputs[0].token_ids in (tokens[: tokens.index(end)], tokens[: tokens.index(end) + 1])


def test_however_a_request_is_run_it_gets_the_same_bits(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = written.prompts()
    with written.open(prefix_caching=False) as llm:
        alone = [generated(llm, [ids])[0] for ids in prompts]
        assert generated(llm, prompts) == alone  # batched
    assert len({tuple(tokens) for tokens, _ in alone}) == len(prompts)
    with written.open(max_batch_tokens=5, max_num_seqs=3, threads=2, prefix_caching=False) as llm:
        assert generated(llm, prompts) == alone  # in chunks
    with written.open() as llm:
        assert [generated(llm, prompts) for _ in range(2)] == [alone] * 2
        if max(map(len, prompts)) > 32:
            assert llm.stats().prefix_hits > 0  # prefixes from the cache
    blocks = -(-(max(map(len, prompts)) + 20) // 16) + 1
    monkeypatch.setattr(cutset.loaded_model, "cache_blocks", lambda *_: blocks)
    with written.open(prefix_caching=False) as llm:
        assert generated(llm, prompts * 2) == alone * 2  # preempted
        assert llm.stats().preemptions > 0


def test_stages_give_the_bits_of_the_whole(written: Written) -> None:
    source = open_source(written.directory)
    spec, tensors, pool = source.spec, source.tensors, native.Pool(1)
    ids = np.random.default_rng(4).integers(0, 131, (2, min(29, written.limit))).astype(np.int32)
    batch = Batch.whole(ids, 16)
    whole = NativeDecoder(spec, tensors, pool)
    expected = whole.forward(batch, whole.new_cache(batch.block_tables.size, 16))
    assert len(np.unique(expected, axis=0)) == len(expected)
    for stages in {2, 3} & set(range(len(cuts(spec)) + 2)):
        found: Any = None
        for layers in split(spec, stages):
            own = {tensor.name: tensors[tensor.name] for tensor in stage_tensors(spec, layers)}
            stage = NativeDecoder(spec, own, pool, layers=layers)
            found = stage.forward(batch, stage.new_cache(batch.block_tables.size, 16), hidden=found)
        np.testing.assert_array_equal(found, expected)


def test_integers_run_and_an_offload_gives_their_bits(written: Written) -> None:
    ids = np.random.default_rng(2).integers(0, 131, (2, 13)).astype(np.int32)
    prompts = written.prompts()
    with written.open() as llm:
        floats = logits(llm, ids)
    with written.open(dtype="int8") as llm:
        assert 0 < relative_error(logits(llm, ids), floats) < 0.5
        assert generated(llm, prompts, FEW) == [generated(llm, [one], FEW)[0] for one in prompts]
    with written.open(dtype="exact") as llm:
        exact, tokens = logits(llm, ids), generated(llm, prompts, FEW)
        assert 0 < relative_error(exact, floats) < 0.3
    mode = "masked+verified" if llm.spec.moe is None else "verified"  # masks don't hide which expert a row goes to
    address = f"inproc://family-{next(NUMBERS)}"
    settings = load_settings({"threads": 1})
    ended = serve_in_thread(open_accelerator(str(written.directory), address, settings, quota=Quota()))
    try:
        with written.open(offload=address, mode=mode) as llm:
            np.testing.assert_array_equal(logits(llm, ids), exact)
            assert generated(llm, prompts, FEW) == tokens
    finally:
        ended()


def test_an_adapter_gives_what_merged_weights_give(written: Written, tmp_path: Path) -> None:
    spec = load_spec(written.directory)
    products = {tensor.role for tensor in spec.tensors() if tensor.product}
    stored = {tensor.name.removesuffix(".weight") for tensor in spec.tensors() if tensor.product}
    linear = {name for name, module in written.model.named_modules() if isinstance(module, torch.nn.Linear)}
    targets = tuple(sorted(stored & linear))
    assert {"qkv", "o"} <= products
    assert len(targets) >= 2 * spec.layers
    added = write_adapter(tmp_path, written.model, targets)
    ids = np.random.default_rng(4).integers(0, 131, (2, 29)).astype(np.int32)
    with written.open() as llm:
        loaded = llm.executor.load_adapter(read_adapter("a", tmp_path, llm.spec))
        plain, mixed = logits(llm, ids), logits(llm, ids, adapters=(loaded, None))
    expected = merged_logits(written.model, added, ids)
    assert relative_error(mixed[0], expected[0]) <= 1e-4
    assert relative_error(expected[0], plain[0]) > 0.05  # it does something
    np.testing.assert_array_equal(mixed[1], plain[1])


def config_of(case: str, directory: Path) -> dict[str, Any]:
    """The config.json that transformers writes, with every key of its class."""
    written = Written(case, directory)
    return json.loads(json.dumps({**written.model.config.to_dict(), "dtype": "float32"}))


@pytest.mark.parametrize("case", FIRSTS.values())
def test_every_key_is_read_or_harmless_or_refused_by_name(case: str, tmp_path: Path) -> None:
    config = config_of(case, tmp_path)
    family = families()[config["model_type"]]
    spec_from_config(config)
    asked: set[str] = set()
    for other, (name, fields) in CASES.items():
        if name == CASES[case][0]:
            turned = [{}, *({key: not value} for key, value in config.items() if isinstance(value, bool))]
            for flag in turned:  # some keys count only where a flag is set
                seen = Fields({**config, **fields, **flag}, other)
                with contextlib.suppress(ArchitectureError):
                    family.read(seen)
                asked |= seen.asked
    for key in config:
        if key in HARMLESS | family.harmless | {"architectures", "model_type"}:
            continue
        try:
            spec_from_config({**config, key: {"strange": ["value"]}})
        except ArchitectureError as error:
            assert key in str(error)  # noqa: PT017
        else:
            assert key in asked
