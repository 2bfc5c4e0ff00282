"""SamplingParams: what may be asked, and what is said of the rest."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from cutset.engine import SamplingParams
from cutset.engine.params import UNDONE
from cutset.errors import RequestError

BAD: list[tuple[str, Any, str]] = [
    ("n", 0, "from 1 to 128"),
    ("n", 129, "from 1 to 128"),
    ("n", True, "whole number"),
    ("n", 1.0, "whole number"),
    ("n", "1", "whole number"),
    ("max_tokens", 0, "from 1"),
    ("max_tokens", -1, "from 1"),
    ("max_tokens", 2.5, "whole number"),
    ("min_tokens", -1, "from 0"),
    ("min_tokens", 17, "at most max_tokens, which is 16"),
    ("temperature", -0.1, "from 0 to 100"),
    ("temperature", float("nan"), "from 0 to 100"),
    ("temperature", float("inf"), "from 0 to 100"),
    ("temperature", "1", "a number"),
    ("temperature", True, "a number"),
    ("temperature", None, "a number"),
    ("top_p", 0, "above 0 and at most 1"),
    ("top_p", 1.01, "above 0 and at most 1"),
    ("top_p", float("nan"), "above 0 and at most 1"),
    ("top_k", -2, "from -1"),
    ("top_k", 1.5, "whole number"),
    ("min_p", -0.1, "from 0 to 1"),
    ("min_p", 1.1, "from 0 to 1"),
    ("seed", 2**64, "whole number"),
    ("seed", -(2**63) - 1, "whole number"),
    ("seed", 0.5, "whole number"),
    ("stop", "", "1 to 1000 characters"),
    ("stop", ["a", ""], "1 to 1000 characters"),
    ("stop", ["x" * 1001], "1 to 1000 characters"),
    ("stop", ["a"] * 65, "at most 64"),
    ("stop", [1], "strings"),
    ("stop", 1, "strings"),
    ("stop_token_ids", [-1], "from 0"),
    ("stop_token_ids", ["a"], "whole number"),
    ("stop_token_ids", "12", "list of at most 1024"),
    ("stop_token_ids", 5, "list of at most 1024"),
    ("stop_token_ids", [1] * 1025, "list of at most 1024"),
    ("ignore_eos", 1, "True or False"),
    ("include_stop_str_in_output", "yes", "True or False"),
    ("skip_special_tokens", None, "True or False"),
    ("logprobs", -1, "from 0 to 20"),
    ("logprobs", 21, "from 0 to 20"),
    ("logprobs", True, "from 0 to 20"),
    ("prompt_logprobs", -1, "from 0 to 20"),
    ("prompt_logprobs", 21, "from 0 to 20"),
    ("skip_reading_prefix_cache", "yes", "True or False"),
    ("repetition_penalty", 0, "above 0"),
    ("repetition_penalty", float("inf"), "above 0"),
    ("presence_penalty", 2.1, "from -2 to 2"),
    ("presence_penalty", -2.1, "from -2 to 2"),
    ("frequency_penalty", float("nan"), "from -2 to 2"),
    ("frequency_penalty", "0", "from -2 to 2"),
    ("logit_bias", {-1: 1}, "a whole number"),
    ("logit_bias", {True: 1}, "a whole number"),
    ("logit_bias", {"x": 1}, "a whole number"),
    ("logit_bias", {"9" * 5000: 1}, "a whole number"),
    ("logit_bias", {1: 101}, "from -100 to 100"),
    ("logit_bias", {1: float("nan")}, "from -100 to 100"),
    ("logit_bias", dict.fromkeys(range(1025), 1), "at most 1024"),
    ("logit_bias", [1], "at most 1024"),
    ("allowed_token_ids", [], "at least one"),
    ("allowed_token_ids", [1.0], "a whole number"),
    ("allowed_token_ids", range(3), "a list of at most"),
    ("bad_words", ["a"] * 257, "at most 256"),
    ("bad_words", [""], "at most 256"),
    ("bad_words", [7], "at most 256"),
    ("truncate_prompt_tokens", 0, "a whole number"),
    ("truncate_prompt_tokens", -2, "a whole number"),
]


@pytest.mark.parametrize(("name", "value", "wanted"), BAD)
def test_refused(name: str, value: Any, wanted: str) -> None:
    with pytest.raises(RequestError, match=wanted) as caught:
        SamplingParams(**{name: value})
    assert str(caught.value).startswith(f"{name}=")
    assert len(str(caught.value)) < 250


def test_what_is_refused_is_not_written_out_first() -> None:
    class Shown(float):
        count = 0

        def __repr__(self) -> str:
            Shown.count += 1
            return "1"

    one = Shown(1)
    for name, value in (("logit_bias", dict.fromkeys(range(5000), one)), ("stop", [one] * 5000), ("n", one)):
        with pytest.raises(RequestError, match=f"{name}="):
            SamplingParams(**{name: value})
    assert 2 < Shown.count < 40


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", None),
        ("temperature", 0),
        ("temperature", 100),
        ("top_p", 1),
        ("top_k", -1),
        ("min_p", 1),
        ("seed", 2**64 - 1),
        ("seed", -(2**63)),
        ("logprobs", 0),
        ("repetition_penalty", 0.01),
        ("presence_penalty", -2),
    ],
)
def test_allowed(name: str, value: Any) -> None:
    assert getattr(SamplingParams(**{name: value}), name) == value


def test_defaults_are_vllms() -> None:
    params = SamplingParams()
    assert (params.n, params.max_tokens, params.temperature, params.top_p, params.top_k) == (1, 16, 1.0, 1.0, 0)
    assert (params.stop, params.stop_token_ids, params.seed, params.logprobs) == ((), (), None, None)


def test_stop_becomes_a_tuple_without_repeats() -> None:
    assert SamplingParams(stop="ab").stop_strings == ("ab",)
    assert SamplingParams(stop=["b", "a", "b"]).stop_strings == ("b", "a")
    assert SamplingParams(stop_token_ids=[3, 3, 1]).stop_ids == (3, 1)


@pytest.mark.parametrize("name", sorted(UNDONE))
def test_what_vllm_has_and_isn_t_here_is_refused_by_name(name: str) -> None:
    with pytest.raises(RequestError, match=f"{name} isn't done here"):
        SamplingParams(**{name: None})


def test_every_parameter_of_vllm_s_is_done_or_refused() -> None:
    """Those of its SamplingParams at 0.31, and older ones that clients still send."""
    theirs = re.findall(
        r"\w+",
        """
    n presence_penalty frequency_penalty repetition_penalty temperature top_p top_k min_p seed stop stop_token_ids
    ignore_eos max_tokens min_tokens logprobs prompt_logprobs prompt_logprob_token_ids prompt_logprob_start
    logprob_token_ids flat_logprobs detokenize skip_special_tokens spaces_between_special_tokens
    include_stop_str_in_output output_kind stream_interval skip_clone output_text_buffer_length structured_outputs
    logit_bias allowed_token_ids extra_args bad_words skip_reading_prefix_cache thinking_token_budget
    repetition_detection routed_experts_prompt_start trace_decode_token_ids
    best_of guided_decoding truncate_prompt_tokens logits_processors use_beam_search length_penalty early_stopping
    """,
    )
    done = {*SamplingParams.names(), "guided_decoding"}
    assert not done & UNDONE.keys()
    assert set(theirs) == done | UNDONE.keys()


def test_vllm_s_lists_are_made_ready() -> None:
    params = SamplingParams(logit_bias={"7": 1, 3: -2.5}, allowed_token_ids=[5, 5, 2], bad_words=["b", "a", "b"])
    assert params.logit_bias == {3: -2.5, 7: 1.0}
    assert params.allowed_token_ids == (5, 2)
    assert params.bad_words == ("b", "a")
    assert params == params.with_defaults({})
    assert hash(params) == hash(SamplingParams(allowed_token_ids=[5, 2], bad_words=["b", "a"]))
    assert SamplingParams(logit_bias={}, bad_words=[]) == SamplingParams()
    assert SamplingParams(truncate_prompt_tokens=-1).truncate_prompt_tokens == -1
    guided = SamplingParams(guided_decoding={"regex": "a"})
    assert "structured_outputs" in guided.named
    assert guided.with_defaults({"structured_outputs": None}).grammar == guided.grammar


def test_frozen_and_by_name_only() -> None:
    with pytest.raises(FrozenInstanceError):
        SamplingParams().n = 2
    with pytest.raises(TypeError):
        SamplingParams(2)
    assert SamplingParams(seed=1) == SamplingParams(seed=1)


def test_names() -> None:
    assert {"n", "top_k", "include_stop_str_in_output"} <= set(SamplingParams.names())
