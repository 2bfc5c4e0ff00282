"""Contexts beyond max_position_embeddings, where the rotary embedding is stretched.

One position is rotated one way, whoever computes it when: a sequence that is preempted, found again or computed in
pieces on both sides of the boundary gives the same bits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset import LLM, SamplingParams
from cutset.errors import ConfigError, ContextLengthError
from cutset.models.families import spec_from_config
from cutset.models.random import RandomModel

POSITIONS = 64
DYNAMIC = {"type": "dynamic", "factor": 2.0}
SCALINGS: dict[str, dict[str, Any]] = {
    "dynamic": DYNAMIC,
    "linear": {"type": "linear", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
}
LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.5, 2.5, 3.5, 4.5],
    "original_max_position_embeddings": 32,
}
IDS = np.random.default_rng(4).integers(3, 128, 400).tolist()
TOKENS = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=4)


def model(folder: Path, scaling: dict[str, Any], **more: Any) -> Path:
    RandomModel(max_pos=POSITIONS, qk_norm=True, seed=9).write_checkpoint(folder)
    config = json.loads((folder / "config.json").read_text()) | {"rope_scaling": scaling} | more
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(params=SCALINGS)
def stretched(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return model(tmp_path, SCALINGS[request.param])


def generated(llm: LLM, prompts: list[list[int]], params: SamplingParams = TOKENS) -> list[Any]:
    """Of each prompt: the tokens drawn, and the log-probabilities that were seen, to the bit."""
    found = [output.outputs[0].logprobs for output in llm.generate(prompts, params)]
    assert all(found)
    assert len({str(each) for each in found}) == len({str(each) for each in prompts})  # zeros would be all alike
    return found


def opened(folder: Path, **settings: Any) -> LLM:
    return LLM(folder, **{"threads": 2, "max_batch_tokens": 512, "max_num_seqs": 64} | settings)


CONTEXTS: list[tuple[dict[str, Any], int, int]] = [
    ({}, 64, 64),
    ({"rope_scaling": DYNAMIC}, 128, 1 << 27),
    ({"rope_scaling": {"type": "linear", "factor": 2.5}}, 160, 160),
    ({"rope_scaling": SCALINGS["yarn"]}, 128, 128),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 256, 256),
    ({"rope_scaling": SCALINGS["yarn"], "original_max_position_embeddings": 64}, 256, 256),
    # Files whose own number is the stretched one keep it.
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}}, 64, 64),
    ({"rope_scaling": {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 8}}, 64, 64),
    ({"rope_scaling": {"type": "linear", "factor": 0.5}}, 64, 64),
    (
        {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
        64,
        64,
    ),
    ({"rope_scaling": {"type": "longrope", "short_factor": [1] * 4, "long_factor": [2] * 4, "factor": 4.0}}, 64, 64),
    ({"rope_scaling": {"rope_type": "proportional", "factor": 2.0}}, 128, 128),
    ({"rope_scaling": {"type": "dynamic", "factor": 1e30}}, 1 << 27, 1 << 27),  # absurd, but bounded
    ({"model_type": "minimind", "head_dim": None, "inference_rope_scaling": True}, 64, 64),
]


@pytest.mark.parametrize(("changes", "context", "longest"), CONTEXTS)
def test_what_a_rotary_embedding_is_made_for(changes: dict[str, Any], context: int, longest: int) -> None:
    spec = spec_from_config(RandomModel(max_pos=POSITIONS).config() | changes)
    assert (spec.context, spec.longest) == (context, longest)


def test_limits_that_can_be_given(tmp_path: Path) -> None:
    yarn, dynamic = model(tmp_path / "yarn", SCALINGS["yarn"]), model(tmp_path / "dynamic", DYNAMIC)
    plain = model(tmp_path / "plain", {})
    with pytest.raises(ConfigError, match="max_model_len=129 can't be used: give 2 to 128"):
        opened(yarn, max_model_len=129)
    with pytest.raises(ConfigError, match="max_model_len=65 can't be used: give 2 to 64"):
        opened(plain, max_model_len=65)
    with opened(dynamic, max_model_len=300) as llm:
        assert llm.max_model_len == 300
        assert len(generated(llm, [IDS[:280]])[0]) == 12
        with pytest.raises(ContextLengthError, match="the context holds 300"):
            llm.generate([IDS[:300]], TOKENS)
    with opened(yarn) as llm:
        assert llm.max_model_len == 128


@pytest.mark.parametrize("backend", ["native", "reference", "torch"])
def test_runs_beyond_the_plain_positions(stretched: Path, backend: str) -> None:
    if backend == "torch":
        pytest.importorskip("torch")
    with opened(stretched, backend=backend) as llm, opened(stretched, backend="reference") as twin:
        assert llm.max_model_len == 128
        ours, theirs = generated(llm, [IDS[:100]]), generated(twin, [IDS[:100]])
        with pytest.raises(ContextLengthError, match="the context holds 128"):
            llm.generate([IDS[:128]], TOKENS)
    assert [one.token_id for one in ours[0]] == [one.token_id for one in theirs[0]]
    np.testing.assert_allclose(*([one.logprob for one in each[0]] for each in (ours, theirs)), rtol=1e-3, atol=1e-3)


def test_chunks_give_the_same_bits(stretched: Path) -> None:
    prompts = [IDS[:100], IDS[30:93], IDS[7:60]]  # beyond the boundary, up to it, before it
    with opened(stretched) as llm:
        whole = generated(llm, prompts)
    for rows in (3, 17, 64):
        with opened(stretched, max_batch_tokens=rows, max_num_seqs=3, prefix_caching=False) as llm:
            assert generated(llm, prompts) == whole


def test_preempted_across_the_boundary_gives_the_same_bits(stretched: Path) -> None:
    prompts = [IDS[i : i + 40 + i] for i in range(18)]  # 40 to 57 tokens, which grow to 80 to 97
    params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True, logprobs=2)
    with opened(stretched, prefix_caching=False) as llm:
        alone = [generated(llm, [prompt], params)[0] for prompt in prompts]
    with opened(stretched, cache_mib=1, prefix_caching=False) as llm:
        outputs = generated(llm, prompts * 4, params)
        assert llm.stats().preemptions > 4
    assert outputs == alone * 4


def test_reused_beginnings_give_the_same_bits(stretched: Path) -> None:
    with opened(stretched, prefix_caching=False) as llm:
        fresh = {length: generated(llm, [IDS[:length]])[0] for length in (40, 60, 80, 100)}
    for lengths in ((40, 60, 80, 100), (100, 80, 60, 40), (60, 100, 40, 80)):
        with opened(stretched) as llm:
            for length in lengths:
                assert generated(llm, [IDS[:length]])[0] == fresh[length]
            assert llm.stats().prefix_hits > 0


def test_equals_transformers_for_the_whole_sequence_at_once(stretched: Path) -> None:
    """It stretches a dynamic embedding to the tokens that it is given, we to `max_model_len`: so where these agree."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    oracle = transformers.AutoModelForCausalLM.from_pretrained(stretched, dtype=torch.float32).eval()
    dynamic = json.loads((stretched / "config.json").read_text())["rope_scaling"] == DYNAMIC

    def theirs(tokens: int) -> np.ndarray:
        with torch.no_grad():
            oracle(torch.tensor([IDS[:1]]))  # it goes on with the longest stretch so far until it sees a short input
            return torch.log_softmax(oracle(torch.tensor([IDS[:tokens]])).logits[0].double(), -1).numpy()

    def ours(prompt: int, limit: int) -> np.ndarray:
        everything = SamplingParams(temperature=0, max_tokens=1, logprobs=20)
        with opened(stretched, max_model_len=limit) as llm:
            (found,) = generated(llm, [IDS[:prompt]], everything)[0]
        return np.array(found.top)

    for prompt, limit in ((99, 100), (99, 128), (20, 100), (50, 60), (63, 64)):
        top = ours(prompt, limit)
        np.testing.assert_allclose(top[:, 1], theirs(limit)[prompt - 1][top[:, 0].astype(int)], rtol=0, atol=2e-4)
    # And so it differs where they don't: a sequence that is shorter than the limit is rotated as one of that length.
    top = ours(50, 128)
    apart = np.abs(top[:, 1] - theirs(50)[49][top[:, 0].astype(int)]).max()
    assert apart > 0.01 if dynamic else apart < 2e-4


def test_the_limit_decides_how_longrope_rotates(tmp_path: Path) -> None:
    """Not the length at the moment: with a limit beyond the trained length a short sequence has the second factors."""
    folder = model(tmp_path / "long", LONGROPE)
    second = LONGROPE | {"short_factor": LONGROPE["long_factor"]}
    twin = model(tmp_path / "second", second)
    first = model(tmp_path / "first", LONGROPE | {"long_factor": LONGROPE["short_factor"]})
    prompts = [IDS[:7], IDS[3:40]]  # which stay below the trained length, and pass it
    with opened(folder) as llm, opened(twin) as other, opened(first) as plain:
        assert llm.max_model_len == 64
        found = generated(llm, prompts)
        assert found == generated(other, prompts)
        assert found[0] != generated(plain, prompts)[0]
        for rows in (3, 17):
            with opened(folder, max_batch_tokens=rows, max_num_seqs=3) as chunked:
                assert generated(chunked, prompts) == found
    with opened(folder, max_model_len=32) as llm, opened(first, max_model_len=32) as plain:
        assert generated(llm, prompts[:1]) == generated(plain, prompts[:1]) != found[:1]
