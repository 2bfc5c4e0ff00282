"""Answers under a grammar: valid, ended where it ends, and the same however they are computed."""

from __future__ import annotations

import gc
import json
import threading
from dataclasses import replace
from random import Random
from typing import Any

import jsonschema
import numpy as np
import pytest

from cutset.bench.schemas import random_schema
from cutset.engine import EngineLoop, SamplingParams, constraint, grammar_compiler
from cutset.engine.bits import allowed_ids, bits_of, has
from cutset.engine.constraint import Constraint, MaskThread, Restriction, RowMasks, StepMasks
from cutset.engine.drafting import ModelDrafter, NgramDrafter
from cutset.engine.grammar import Grammar
from cutset.engine.grammar_compiler import GrammarCompiler
from cutset.errors import RequestError
from models.test_native import SPECS, tensors_of

from .fake import FakeExecutor, make_spec
from .grammars import COMPILER, EOS, TOKENIZER, VOCABULARY, json_engine
from .helpers import drain, make_engine, outputs
from .stages import SlowPipeline, local, stage_decoders
from .test_speculation import Oracle
from .test_stages import FOUR, PROMPTS, answers, whole

OBJECT = {
    "type": "object",
    "properties": {
        "a": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": 9999},
            "minItems": 2,
            "maxItems": 4,
        },
        "b": {"enum": ["ab", "true", None, 12]},
        "c": {"type": "string", "maxLength": 6},
    },
    "required": ["a", "b"],
    "additionalProperties": False,
}
SCHEMA = Grammar.json_schema(OBJECT)
WORDS = Grammar.regex("([a-d]{1,3} ){2,6}end")
CHOICE = Grammar.choice(["ab", "abc", "abcd 12", "null"])
LONG: dict[str, Any] = {"max_tokens": 120}
REQUESTS = {
    "greedy": (PROMPTS[0], SamplingParams(temperature=0, structured_outputs=SCHEMA, **LONG)),
    "drawn": (PROMPTS[4], SamplingParams(seed=3, structured_outputs=SCHEMA, logprobs=2, **LONG)),
    "penalties": (
        PROMPTS[1],
        SamplingParams(seed=4, repetition_penalty=1.3, frequency_penalty=0.2, structured_outputs=WORDS, **LONG),
    ),
    "samples": (PROMPTS[5], SamplingParams(seed=5, n=3, top_p=0.9, top_k=9, structured_outputs=SCHEMA, **LONG)),
    "choice": (PROMPTS[2], SamplingParams(seed=6, n=2, structured_outputs=CHOICE, logprobs=1, **LONG)),
    "least": (PROMPTS[3], SamplingParams(seed=7, structured_outputs=WORDS, min_tokens=18, **LONG)),
    "on": (PROMPTS[6], SamplingParams(seed=8, structured_outputs=CHOICE, ignore_eos=True, **LONG)),
    "stop": (PROMPTS[4], SamplingParams(seed=9, structured_outputs=SCHEMA, stop=["b"], **LONG)),
    "bias": (PROMPTS[0], SamplingParams(seed=10, logit_bias={20: 9, 3: -50}, bad_words=["12"], max_tokens=20)),
    "list": (PROMPTS[1], SamplingParams(temperature=0, allowed_token_ids=[20, 21, 30], bad_words=["12"], max_tokens=9)),
    "free": (PROMPTS[2], SamplingParams(seed=11, max_tokens=14)),
}


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return answers(json_engine(whole(FOUR)), REQUESTS)


def valid(text: str, schema: Any = OBJECT) -> None:
    jsonschema.validate(json.loads(text), schema)


def test_answers_are_what_their_grammars_say(expected: dict[str, Any]) -> None:
    for name in ("greedy", "drawn", "samples"):
        for tokens, text, finish, stop, _ in expected[name]:
            valid(text)
            assert (finish, stop) == ("stop", None)
            assert tokens[-1] != EOS  # nothing can follow the last bracket, so no end has to be drawn
    assert len({one[1] for one in expected["samples"]}) == 3
    for _, text, finish, _, told in expected["choice"]:
        assert text in ("ab", "abc", "abcd 12", "null")
        assert finish == "stop"
        assert all(len(one.top) == 1 and one.logprob < 0 for one in told)
    [(tokens, text, finish, _, _)] = expected["least"]
    assert finish == "stop"
    assert text.endswith(" end")
    assert len(tokens) >= 18
    [(tokens, text, finish, _, _)] = expected["on"]  # as far as it goes, then it ends anyway
    assert text in ("abcd 12", "null")
    assert finish == "stop"
    [(_, text, finish, stop, _)] = expected["stop"]
    assert (finish, stop) == ("stop", "b")
    assert text.startswith("{")
    assert "b" not in text
    [(tokens, text, _, _, _)] = expected["list"]
    assert set(tokens) <= {20, 21, 30}
    assert "12" not in TOKENIZER.decode(expected["bias"][0][0])
    assert 3 not in expected["bias"][0][0]


def test_random_schemas_give_valid_texts() -> None:
    random = Random(11)
    engine = json_engine(whole(FOUR), max_num_seqs=16, blocks=300)
    schemas = {str(i): random_schema(random) for i in range(60)}
    for name, schema in schemas.items():
        params = SamplingParams(seed=int(name), max_tokens=400, structured_outputs=Grammar.json_schema(schema))
        engine.add(name, random.choice(PROMPTS), params)
    found = outputs(drain(engine))
    for name, schema in schemas.items():
        assert found[name].finish_reason == "stop", (schema, found[name].text)
        valid(found[name].text, schema)
    assert len({one.text for one in found.values()}) > 30


@pytest.mark.parametrize(
    "options",
    [
        {"max_batch_tokens": 16, "max_num_seqs": 3},
        {"prefix_caching": False},
        {"blocks": 12, "prefix_caching": False},  # some are preempted
        {"max_num_seqs": 1},
    ],
    ids=str,
)
def test_whoever_shares_the_batch_the_tokens_are_the_same(options: dict[str, Any], expected: dict[str, Any]) -> None:
    engine = json_engine(whole(FOUR), **options)
    assert answers(engine, REQUESTS) == expected
    assert engine.stats().preemptions > 0 or "blocks" not in options


@pytest.mark.parametrize("worth", [0.0, 1e9])
def test_whoever_computes_the_masks_the_tokens_are_the_same(
    worth: float, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def alive() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "cutset-masks"}

    monkeypatch.setattr(constraint, "WORTH", worth)
    before = alive()  # of engines that have just gone, too
    engine = json_engine(whole(FOUR))
    assert answers(engine, REQUESTS) == expected
    own = alive() - before
    assert len(own) == (not worth)
    del engine
    gc.collect()
    for thread in own:
        thread.join(10)
    assert not alive() & own


@pytest.mark.parametrize("always", [True, False])
@pytest.mark.parametrize("wrong", [0.0, 0.3, 1.0])
def test_speculation_changes_no_token(wrong: float, always: bool, expected: dict[str, Any]) -> None:
    for shift in (1, 7):
        drafter = Oracle(expected, wrong=wrong, shift=shift)
        engine = json_engine(whole(FOUR), drafter=drafter, draft_tokens=6, draft_always=always)
        assert answers(engine, REQUESTS) == expected
        if always and wrong < 1:
            assert engine.stats().accepted_tokens > 50


def test_drafters_of_both_kinds(expected: dict[str, Any]) -> None:
    engine = json_engine(whole(FOUR), drafter=NgramDrafter(), draft_tokens=4, draft_always=True)
    assert answers(engine, REQUESTS) == expected
    for model in (FOUR, replace(SPECS["dense"], eos_token_ids=()) if "dense" in SPECS else FOUR):
        drafter = ModelDrafter(whole(model), blocks=96, block_size=16, vocab_size=61)
        engine = json_engine(whole(FOUR), drafter=drafter, draft_tokens=4, draft_always=True)
        assert answers(engine, REQUESTS) == expected
        stats = engine.stats()
        if model is FOUR:  # it draws under the grammar too
            assert stats.accepted_tokens > 0.9 * stats.drafted_tokens * 0.8


def test_a_draft_that_breaks_the_grammar_is_no_row(expected: dict[str, Any]) -> None:
    class Rows(Oracle):
        pass

    drafter = Rows(expected, wrong=1.0, shift=0)
    drafter.known = {name: [([EOS] * 200,)] * 3 for name in expected}
    engine = json_engine(whole(FOUR), drafter=drafter, draft_tokens=4)
    wanted = {name: REQUESTS[name] for name in ("greedy", "drawn")}
    assert answers(engine, wanted) == {name: expected[name] for name in wanted}
    assert drafter.asked
    assert engine.stats().drafted_tokens == 0


@pytest.mark.parametrize("depth", [1, 3])
def test_stages_by_bytes_and_in_threads(depth: int, expected: dict[str, Any]) -> None:
    pipeline = SlowPipeline(stage_decoders(FOUR, tensors_of(FOUR), 2), depth, lose={9, 10})
    assert answers(json_engine(pipeline), REQUESTS) == expected
    drafter = Oracle(expected, wrong=0.3)
    pipeline = SlowPipeline(stage_decoders(FOUR, tensors_of(FOUR), 2), depth, early=True)
    engine = json_engine(pipeline, drafter=drafter, draft_tokens=5, draft_always=True)
    assert answers(engine, REQUESTS) == expected
    threads = local(FOUR, tensors_of(FOUR), 2, depth)
    assert answers(json_engine(threads), REQUESTS) == expected
    threads.close()


def test_streamed_pieces_are_the_text(expected: dict[str, Any]) -> None:
    with EngineLoop(json_engine(whole(FOUR))) as loop:
        prompt, params = REQUESTS["drawn"]
        pieces = [delta.text for delta in loop.submit(prompt, params)]
    assert "".join(pieces) == expected["drawn"][0][1]
    assert sum(map(bool, pieces)) > 3


def run_one(params: SamplingParams, **options: Any) -> Any:
    engine = json_engine(whole(FOUR), **options)
    engine.add("a", PROMPTS[0], params)
    return outputs(drain(engine))["a"]


def test_a_model_without_an_end_token() -> None:
    compiler = GrammarCompiler(replace(VOCABULARY, eos_ids=()))
    for grammar in (SCHEMA, Grammar.regex("[a-d]{5}")):
        params = SamplingParams(seed=1, structured_outputs=grammar, **LONG)
        found = run_one(params, grammars=compiler, eos_token_ids=())
        assert found.finish_reason == "stop"
        assert COMPILER.compile(grammar).begin().validate_tokens(found.token_ids) == len(found.token_ids)
    endless = SamplingParams(seed=1, structured_outputs=Grammar.regex("[a-d]+"), max_tokens=30)
    assert run_one(endless, grammars=compiler, eos_token_ids=()).finish_reason == "length"


def test_an_end_comes_only_where_the_grammar_allows_it() -> None:
    biased = SamplingParams(seed=1, logit_bias={EOS: 100}, structured_outputs=SCHEMA, **LONG)
    valid(run_one(biased).text)
    early = run_one(replace(biased, structured_outputs=Grammar.regex("a*b?")))
    assert (early.text, early.finish_reason, early.token_ids) == ("", "stop", [EOS])
    at_last = run_one(replace(biased, structured_outputs=Grammar.regex("a*b?"), min_tokens=4))
    assert at_last.finish_reason == "stop"
    assert len(at_last.token_ids) in (4, 5) or at_last.text.endswith("b")


def test_a_stop_token_ends_a_text_where_it_is_allowed() -> None:
    free = run_one(SamplingParams(seed=1, structured_outputs=WORDS, **LONG))
    token = free.token_ids[3]
    found = run_one(SamplingParams(seed=1, structured_outputs=WORDS, stop_token_ids=[token], **LONG))
    assert found.token_ids == free.token_ids[: free.token_ids.index(token) + 1]
    assert found.outputs[0].stop_reason == token


def test_where_lists_leave_nothing_the_request_ends_with_an_error_and_the_others_go_on() -> None:
    engine = json_engine(whole(FOUR))
    digits = [20, 21]
    engine.add("a", PROMPTS[0], SamplingParams(allowed_token_ids=digits, structured_outputs=SCHEMA, **LONG))
    engine.add("b", PROMPTS[1], SamplingParams(temperature=0, max_tokens=5))
    deltas = drain(engine)
    [error] = [delta.error for delta in deltas if delta.error is not None]
    assert isinstance(error, RequestError)
    assert "nothing may follow" in str(error)
    assert len(outputs([delta for delta in deltas if delta.request_id == "b"])["b"].token_ids) == 5


@pytest.mark.parametrize("limit", [{"max_lexer_states": 30}, {"max_items_in_row": 2}], ids=str)
def test_a_grammar_that_takes_too_much_work_on_its_way_ends_its_request_with_an_error(
    limit: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_compiler, "LIMITS", limit)
    engine = json_engine(FakeExecutor(make_spec(vocab_size=61)), grammars=GrammarCompiler(VOCABULARY))
    engine.add("a", PROMPTS[0], SamplingParams(seed=1, structured_outputs=Grammar.json_object(), **LONG))
    engine.add("b", PROMPTS[1], SamplingParams(temperature=0, max_tokens=60, ignore_eos=True))
    deltas = drain(engine)
    [error] = [delta.error for delta in deltas if delta.error is not None]
    assert isinstance(error, RequestError)
    assert "too much work" in str(error)
    assert not any(delta.finish_reason == "stop" for delta in deltas)
    assert len(outputs([delta for delta in deltas if delta.request_id == "b"])["b"].token_ids) == 60


def test_an_engine_without_a_vocabulary_refuses_grammars() -> None:
    engine = make_engine()
    for params in (SamplingParams(structured_outputs=SCHEMA), SamplingParams(bad_words=["a"])):
        with pytest.raises(RequestError, match="without a vocabulary"):
            engine.add("a", [1, 2], params)
    assert not engine.has_work


def test_grammars_that_can_t_be_kept_are_refused_before_anything_runs() -> None:
    engine = json_engine(whole(FOUR))
    with pytest.raises(RequestError, match="`not`"):
        engine.add("a", [1, 2], SamplingParams(structured_outputs=Grammar.json_schema({"not": {}})))
    with EngineLoop(engine) as loop, pytest.raises(RequestError, match="`not`"):
        loop.submit([1, 2], SamplingParams(structured_outputs=Grammar.json_schema({"not": {}})))


def test_ids_outside_the_vocabulary_are_refused_by_name() -> None:
    engine = make_engine(without_token=[9])
    for name, value in (("logit_bias", {300: 1}), ("allowed_token_ids", [1, 300]), ("allowed_token_ids", [9])):
        with pytest.raises(RequestError, match=name):
            engine.add("a", [1, 2], SamplingParams(**{name: value}))


def test_biases_are_added_and_bad_words_are_sequences() -> None:
    def tokens(**options: Any) -> list[int]:
        engine = make_engine(FakeExecutor(make_spec()))
        engine.add("a", [1, 2, 3], SamplingParams(temperature=0, max_tokens=8, **options))
        return outputs(drain(engine))["a"].token_ids

    free = tokens()
    assert tokens(logit_bias={77: 100}) == [77] * 8
    assert free[0] not in tokens(logit_bias={str(free[0]): -100})
    assert tokens(allowed_token_ids=list(range(300))) == free
    assert set(tokens(allowed_token_ids=[4, 9])) <= {4, 9}

    followed = Constraint(
        SamplingParams(),
        vocab_size=61,
        prompt_tokens=0,
        restriction=Restriction(None, None, [[5], [7, 8], [7, 7, 9]]),
        end_ids=(),
        eos_ids=(),
    )

    def forbidden() -> list[int]:
        [mask] = followed.rows(0)
        flags = np.unpackbits(mask.view(np.uint8), bitorder="little")[:61]
        return [int(one) for one in np.flatnonzero(flags == 0)]

    seen = []
    for token in (3, 7, 7, 8, 7):
        seen.append(forbidden())
        followed.observe(token)
    assert seen == [[5], [5], [5, 8], [5, 8, 9], [5]]
    assert len(followed.rows(0, [7, 7, 9, 1])) == 3  # behind what is forbidden nothing is looked at


def test_the_end_of_a_long_prompt_is_read() -> None:
    prompt = list(range(50))
    for most, ids in ((10, prompt[-10:]), (50, prompt), (99, prompt), (-1, prompt)):
        found, right = make_engine(), make_engine()
        params = SamplingParams(temperature=0, max_tokens=5)
        found.add("a", prompt, replace(params, truncate_prompt_tokens=most))
        right.add("a", ids, params)
        assert outputs(drain(found))["a"].token_ids == outputs(drain(right))["a"].token_ids
    small = make_engine(max_model_len=20)
    with pytest.raises(RequestError, match="too many"):
        small.add("a", prompt, SamplingParams())
    small.add("a", prompt, SamplingParams(truncate_prompt_tokens=-1, max_tokens=None))
    assert len(outputs(drain(small))["a"].token_ids) == 1


def test_a_mask_that_fails_lets_nothing_be_drawn() -> None:
    class Broken(Constraint):
        def rows(self, known: int, drafts: Any = ()) -> Any:
            raise ValueError("no")

    nothing = Restriction(None, None, ())
    broken = Broken(SamplingParams(), vocab_size=61, prompt_tokens=0, restriction=nothing, end_ids=(), eos_ids=())
    masks = MaskThread().begin(StepMasks([None, broken, None], [1, 2, 3], ()))
    assert masks.found == [None, [], None]
    assert "no" in broken.failed


def test_whoever_asks_about_one_token_gets_what_the_mask_says() -> None:
    """At every place of many texts, for every token: no mask is computed where the likeliest token may come."""
    random, asked, spared = Random(2), 0, 0
    grammars = [SCHEMA, WORDS, CHOICE, *(Grammar.json_schema(random_schema(random)) for _ in range(12))]
    for number, grammar in enumerate(grammars):
        more = {"ignore_eos": True} if number % 3 == 2 else {"min_tokens": 3} if number % 3 else {}
        allowed = bits_of(random.sample(range(VOCABULARY.size), VOCABULARY.size - 9), VOCABULARY.size)
        followed = Constraint(
            SamplingParams(structured_outputs=grammar, **more),
            vocab_size=VOCABULARY.size,
            prompt_tokens=0,
            restriction=Restriction(COMPILER.compile(grammar), allowed if number % 2 else None, ()),
            end_ids=[EOS],
            eos_ids=[EOS],
        )
        for known in range(20):
            [mask] = followed.copy().rows(known) or [None]
            if mask is None or followed.ended:
                break
            for token in range(VOCABULARY.size):
                part = RowMasks(followed, known, ())
                assert part.allows(0, token) == has(mask, token)
                assert part.row(0) is not None
                assert followed.surely_allows(known, token) <= has(mask, token)
                spared += followed.surely_allows(known, token)
                asked += has(mask, token)
            followed.observe(random.choice(allowed_ids(mask, VOCABULARY.size).tolist()))
    assert spared > 0.9 * asked > 100
