"""Every mode gives the bits of a local run in exact, shows the accelerator what it promises, and never gives way."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset import LLM, SamplingParams
from cutset.errors import ConfigError, LinkError, OffloadError
from cutset.models.files.writer import write_safetensors
from cutset.models.run.executor import Batch

MODES = ["plain", "verified", "masked", "masked+verified"]
GREEDY = SamplingParams(max_tokens=24, temperature=0, ignore_eos=True)
PROMPTS = ["Once upon a time", "The little dog", "One day, a girl named Mia found a red ball. She wanted to"]


@functools.cache
def exact() -> tuple[list[list[int]], Any]:
    """Tokens of the prompts, and logits of a whole pass, run here."""
    with LLM("story", threads=1, mode="local") as llm:
        assert llm.choice.dtype == "exact"
        outputs = llm.generate(PROMPTS, GREEDY)
        return [output.token_ids for output in outputs], logits(llm)


def logits(llm: LLM) -> Any:
    ids = np.stack([llm.encode(PROMPTS[2])[:11], llm.encode(PROMPTS[2])[1:12]])
    batch = Batch.whole(ids, 16)
    return llm.executor.forward(batch, llm.executor.new_cache(batch.block_tables.size, 16))


@pytest.fixture
def quiet() -> Iterator[None]:
    """Without the warning that plain is plain."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="mode plain")
        yield


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.usefixtures("quiet")
def test_a_mode_gives_the_bits_of_a_local_run(mode: str, inproc: str) -> None:
    tokens, expected = exact()
    with LLM("story", threads=1, offload=inproc, mode=mode) as llm:
        assert llm.mode == mode
        assert [output.token_ids for output in llm.generate(PROMPTS, GREEDY)] == tokens
        np.testing.assert_array_equal(logits(llm), expected)


@pytest.mark.parametrize("mode", ["verified", "masked+verified"])
def test_an_adapter_stays_here(mode: str, inproc: str, tmp_path: Path) -> None:
    """The accelerator multiplies by the model's own weights; what an adapter adds is added by the client."""
    rng = np.random.default_rng(5)
    with LLM("story", threads=1, mode="local") as llm:
        shapes = llm.spec.tensor_shapes()
    tensors = {}
    for name, (outputs, inputs) in ((n, shape) for n, shape in shapes.items() if n.endswith("_proj.weight")):
        module = "base_model.model." + name.removesuffix(".weight")
        tensors[f"{module}.lora_A.weight"] = rng.standard_normal((2, inputs), dtype=np.float32) / 8
        tensors[f"{module}.lora_B.weight"] = rng.standard_normal((outputs, 2), dtype=np.float32) / 8
    layout = {name: ("F32", array.shape) for name, array in tensors.items()}
    write_safetensors(tmp_path / "adapter_model.safetensors", layout, tensors.items())
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 4}')
    found = []
    for settings in ({"mode": "local"}, {"mode": mode, "offload": inproc}):
        with LLM("story", threads=1, adapters={"a": tmp_path}, **settings) as llm:
            found.append([one.token_ids for one in llm.generate(PROMPTS, GREEDY, adapter=["a", None, "a"])])
    assert found[0] == found[1]
    plain = exact()[0]
    assert found[0][1] == plain[1]
    assert found[0][0] != plain[0]


def test_two_threads_and_hidden_row_counts_change_nothing(inproc: str) -> None:
    tokens, expected = exact()
    with LLM("story", threads=2, offload=inproc, pad_rows=True) as llm:
        assert llm.mode == "masked+verified"
        assert [output.token_ids for output in llm.generate(PROMPTS, GREEDY)] == tokens
        np.testing.assert_array_equal(logits(llm), expected)


def test_four_calls_a_layer_and_one_for_the_head(inproc: str) -> None:
    with LLM("story", threads=1, offload=inproc) as llm:
        assert llm.offload is not None
        before = llm.offload.linears.times.calls
        llm.generate("Once", SamplingParams(max_tokens=1, temperature=0))
        assert llm.offload.linears.times.calls - before == 4 * llm.spec.layers + 1


def test_plain_is_said_loudly(inproc: str) -> None:
    with pytest.warns(UserWarning, match="reads every prompt and answer"):
        LLM("story", threads=1, offload=inproc, mode="plain").close()


@pytest.mark.parametrize("place", ["environment", "file"])
def test_a_mode_comes_from_the_flag_or_the_api_alone(
    place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    if place == "environment":
        monkeypatch.setenv("CUTSET_MODE", "plain")
    else:
        (tmp_path / "cutset.toml").write_text('mode = "plain"\n')
        monkeypatch.setenv("CUTSET_CONFIG", str(tmp_path / "cutset.toml"))
    with pytest.raises(ConfigError, match="not accepted: give --mode"):
        LLM("story", offload="inproc://nobody")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "masked"}, "needs an accelerator"),
        ({"mode": "secret"}, "must be one of"),
        ({"offload": "inproc://x", "dtype": "float32"}, "computes in exact"),
        ({"offload": "inproc://x", "backend": "reference"}, "native backend"),
        ({"offload": "http://x"}, "must be one of"),
        ({"offload": "inproc://x", "mode": "verified", "pads_from": "inproc://y"}, "only masked modes have pads"),
        ({"pad_rows": True}, "belong to an offload"),
        ({"offload": "tcp://localhost:1"}, "cutset keys"),
    ],
)
def test_what_can_not_be_kept_is_an_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LLM("story", threads=1, **settings)


def test_nobody_there_is_an_error() -> None:
    with pytest.raises(LinkError):
        LLM("story", threads=1, offload="inproc://nobody-is-here", offload_timeout=1)


def test_masked_modes_refuse_mixtures_of_experts(inproc: str, tmp_path: Any) -> None:
    from cutset.models.random import RandomModel

    RandomModel(hidden=64, heads=4, kv_heads=2, vocab=128, experts=4, top_k=2).write_checkpoint(tmp_path / "moe")
    for mode in ("masked", "masked+verified"):
        with pytest.raises(OffloadError, match="mixtures of experts"):
            LLM(tmp_path / "moe", threads=1, offload=inproc, mode=mode)


def test_another_model_is_refused(inproc: str, tmp_path: Any) -> None:
    from cutset.models.random import RandomModel

    RandomModel(hidden=64, heads=4, kv_heads=2, vocab=128).write_checkpoint(tmp_path / "other")
    with pytest.raises(OffloadError, match="loaded another model"):
        LLM(tmp_path / "other", threads=1, offload=inproc)


def test_masked_modes_reuse_no_prefix_unless_asked(inproc: str) -> None:
    prompt = "Once upon a time, there was a little girl who lived near the sea with her dog and her cat."
    one = SamplingParams(max_tokens=1, temperature=0)
    for settings, reused in (({}, False), ({"prefix_caching": True}, False), ({"mode": "verified"}, True)):
        with LLM("story", threads=1, offload=inproc, **settings) as llm:
            llm.generate(prompt, one)
            [again] = llm.generate(prompt, one)
            asked = "prefix_caching" in settings
            assert (again.usage.cached_tokens > 0) == (reused or asked)
