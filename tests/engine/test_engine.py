"""The engine's edges: what is refused, how a text ends, cancelling, failures, and the account at the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cutset.engine import Engine, SamplingParams
from cutset.errors import ConfigError, ContextLengthError, EngineError, RequestError
from cutset.models.run.executor import Batch, KVCache

from .fake import EOS, SPECIAL, ByteDecoder, ByteTokenizer, FakeExecutor, make_spec, slow_logits
from .helpers import GREEDY, assert_empty, drain, make_engine, outputs, prompts, run
from .twin import slow_generate


class Scripted(FakeExecutor):
    """Continues a prompt of one token with a text, token by token."""

    def __init__(self, tokens: Sequence[int], **spec: Any) -> None:
        super().__init__(make_spec(**spec))
        self.tokens = tokens

    def forward(self, batch: Batch, cache: KVCache) -> NDArray[np.float32]:
        logits = np.zeros_like(super().forward(batch, cache))
        for row, position in enumerate(batch.positions[batch.logit_rows]):
            logits[row, self.tokens[min(position, len(self.tokens) - 1)]] = 9
        return logits


def write(tokens: Sequence[int] | bytes, *, eos: tuple[int, ...] = (EOS,), **params: Any) -> Any:
    engine = make_engine(Scripted(list(tokens), eos=eos))
    engine.add("a", [1], SamplingParams(**{"temperature": 0, "max_tokens": len(tokens)} | params))
    return outputs(drain(engine))["a"].outputs[0]


class TestRefused:
    @pytest.mark.parametrize(
        ("prompt", "message"),
        [
            ([], "The prompt is empty"),
            ([0, 300], "token id 300, outside the vocabulary: ids go from 0 to 299"),
            ([-1], "token id -1, outside"),
            ([10**30], "flat list"),
            ([1.0], "flat list of token ids, not 1-dimensional float64"),
            ([True], "flat list"),
            (["a"], "flat list"),
            ("text", "flat list"),
            (5, "flat list"),
            ([[1, 2]], "flat list"),
            ([[1], [2, 3]], "flat list"),
            (None, "flat list"),
        ],
    )
    def test_prompts(self, prompt: Any, message: str) -> None:
        engine = make_engine()
        with pytest.raises(RequestError, match=message):
            engine.add("a", prompt, GREEDY)
        assert not engine.has_work
        assert_empty(engine)

    def test_too_long_for_the_context_says_by_how_much(self) -> None:
        engine = make_engine(max_model_len=20)
        with pytest.raises(ContextLengthError, match=r"25 tokens.*context holds 20: 6 too many") as caught:
            engine.add("a", [1] * 25, GREEDY)
        assert (caught.value.prompt_tokens, caught.value.limit) == (25, 20)

    def test_too_long_for_the_cache_says_by_how_much(self) -> None:
        engine = make_engine(blocks=4)
        with pytest.raises(ContextLengthError, match=r"KV cache holds 16: 1 too many.*more blocks") as caught:
            engine.add("a", [1] * 16, GREEDY)
        assert (caught.value.prompt_tokens, caught.value.limit) == (16, 16)

    def test_the_longest_that_fits(self) -> None:
        engine = make_engine(max_model_len=20)
        assert run(engine, {"a": ([1] * 19, GREEDY)})["a"] == [slow_generate([1] * 19, replace(GREEDY, max_tokens=1))]

    def test_stop_token_outside_the_vocabulary(self) -> None:
        with pytest.raises(RequestError, match="stop_token_ids has the token id 300"):
            make_engine().add("a", [1], SamplingParams(stop_token_ids=[300]))

    def test_id_in_use(self) -> None:
        engine = make_engine()
        engine.add("a", [1], GREEDY)
        with pytest.raises(RequestError, match="'a' is in use"):
            engine.add("a", [1], GREEDY)
        drain(engine)
        engine.add("a", [1], GREEDY)
        drain(engine)

    @pytest.mark.parametrize(
        "options",
        [
            {"blocks": 0},
            {"block_size": 0},
            {"max_num_seqs": 0},
            {"max_batch_tokens": 4, "max_num_seqs": 5},
            {"max_model_len": 1},
            {"max_model_len": 513},
        ],
    )
    def test_sizes(self, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=next(iter(options))):
            make_engine(**options)

    def test_prefill_of_nothing(self) -> None:
        with pytest.raises(RequestError, match="no unfinished request 'a'"):
            make_engine().prefill("a")


def test_prompts_may_be_arrays() -> None:
    expected = [slow_generate([1, 2, 3], GREEDY)]
    for dtype in (np.int32, np.int64, np.uint16):
        assert run(make_engine(), {"a": (np.array([1, 2, 3], dtype=dtype), GREEDY)})["a"] == expected


class TestFinish:
    def test_length(self) -> None:
        output = write(b"abcdef", max_tokens=3)
        assert (output.text, output.finish_reason, output.stop_reason) == ("abc", "length", None)

    def test_end_of_context(self) -> None:
        engine = make_engine(max_model_len=10)
        engine.add("a", [1, 2, 3], SamplingParams(temperature=0, max_tokens=None))
        output = outputs(drain(engine))["a"]
        assert (len(output.token_ids), output.finish_reason) == (7, "length")

    def test_eos(self) -> None:
        output = write([*b"ab", EOS, *b"cd"])
        assert (output.text, output.finish_reason, output.stop_reason) == ("ab", "stop", None)
        assert output.token_ids == [*b"ab", EOS]

    def test_eos_as_the_last_token_allowed(self) -> None:
        assert write([*b"ab", EOS], max_tokens=3).finish_reason == "stop"

    def test_ignore_eos(self) -> None:
        output = write([*b"ab", EOS, *b"cd"], ignore_eos=True)
        assert (output.text, output.finish_reason) == ("abcd", "length")
        output = write([*b"ab", EOS, *b"cd"], ignore_eos=True, skip_special_tokens=False)
        assert output.text == "ab<|256|>cd"

    def test_eos_given_to_the_engine(self) -> None:
        engine = make_engine(Scripted(b"abcd", eos=(EOS,)), eos_token_ids=[ord("c")])
        engine.add("a", [1], GREEDY)
        assert outputs(drain(engine))["a"].text == "ab"

    def test_stop_token(self) -> None:
        output = write(b"abcd", stop_token_ids=[ord("c")])
        assert (output.text, output.finish_reason, output.stop_reason) == ("ab", "stop", ord("c"))
        assert write(b"abcd", stop_token_ids=[ord("c")], include_stop_str_in_output=True).text == "abc"

    def test_stop_string(self) -> None:
        output = write(b"one STOP two", stop="STOP")
        assert (output.text, output.finish_reason, output.stop_reason) == ("one ", "stop", "STOP")
        assert output.token_ids == list(b"one STOP")
        assert write(b"one STOP two", stop=["x", "STOP"], include_stop_str_in_output=True).text == "one STOP"

    def test_stop_string_as_the_last_token_allowed(self) -> None:
        assert write(b"one STOP", stop="STOP").finish_reason == "stop"

    def test_half_a_stop_string_at_the_end_is_text(self) -> None:
        output = write(b"one STO", stop="STOP")
        assert (output.text, output.finish_reason) == ("one STO", "length")
        output = write([*b"one STO", EOS], stop="STOP")
        assert (output.text, output.finish_reason) == ("one STO", "stop")

    def test_half_a_stop_string_is_never_streamed(self) -> None:
        engine = make_engine(Scripted(b"one STOP"))
        engine.add("a", [1], SamplingParams(temperature=0, max_tokens=20, stop="STOP"))
        assert [delta.text for delta in drain(engine)] == ["o", "n", "e", " ", "", "", "", ""]

    def test_half_a_stop_string_stays_back_when_cancelled(self) -> None:
        engine = make_engine(Scripted(b"one STOP"))
        engine.add("a", [1], SamplingParams(temperature=0, max_tokens=20, stop="STOP"))
        deltas = [delta for _ in range(7) for delta in engine.step()] + engine.abort("a")
        assert outputs(deltas)["a"].text == "one "

    def test_min_tokens(self) -> None:
        assert write([*b"ab", EOS, *b"cd", EOS], min_tokens=2).token_ids == [*b"ab", EOS]
        output = write([*b"ab", EOS, *b"cd", EOS], min_tokens=3)  # a zero logit wins where the end is masked
        assert output.token_ids == [*b"ab", 0, *b"cd", EOS]
        output = write(b"a.b.c.d.", stop=".", min_tokens=4)
        assert (output.text, len(output.token_ids)) == ("a.b.c", 6)

    def test_character_cut_off(self) -> None:
        output = write("aé".encode()[:2])
        assert (output.text, output.finish_reason) == ("a\ufffd", "length")


class TestAbort:
    def test_frees_blocks_at_once(self) -> None:
        engine = make_engine()
        engine.add("a", [1] * 20, replace(GREEDY, max_tokens=50))
        engine.add("b", [2] * 20, GREEDY)
        for _ in range(3):
            engine.step()
        assert engine.stats().blocks_used == 12
        [delta] = engine.abort("a")
        assert engine.stats().blocks_used == 6
        assert (delta.finish_reason, delta.finished, delta.error) == ("abort", True, None)
        assert delta.usage is not None
        assert delta.usage.completion_tokens == 3
        assert outputs(drain(engine))["b"].token_ids == slow_generate([2] * 20, GREEDY)[3:]

    def test_waiting_half_prefilled_and_all_samples(self) -> None:
        engine = make_engine(max_batch_tokens=8, max_num_seqs=2)
        params = replace(GREEDY, n=3)
        engine.add("a", [1] * 20, params)
        engine.add("b", [2] * 20, params)
        engine.step()
        assert [delta.index for delta in engine.abort("b")] == [0, 1, 2]
        assert [delta.finished for delta in engine.abort("a")] == [False, False, True]
        assert not engine.has_work
        assert_empty(engine)

    def test_unknown(self) -> None:
        assert make_engine().abort("nobody") == []


class Failing(FakeExecutor):
    """Fails in one step."""

    def __init__(self, at: int, error: BaseException) -> None:
        super().__init__()
        self.at, self.error = at, error

    def forward(self, batch: Batch, cache: KVCache) -> NDArray[np.float32]:
        logits = super().forward(batch, cache)
        if len(self.log) == self.at:
            raise self.error
        return logits


class TestFailure:
    def test_a_step_that_fails_ends_its_requests_only(self) -> None:
        executor = Failing(2, OSError("no link"))
        engine = make_engine(executor, max_num_seqs=2)
        for one in "abc":
            engine.add(one, [ord(one)] * 9, GREEDY)
        engine.step()
        deltas = engine.step()
        assert [(delta.request_id, delta.finish_reason, delta.finished) for delta in deltas] == [
            ("a", "abort", True),
            ("b", "abort", True),
        ]
        error = deltas[0].error
        assert isinstance(error, EngineError)
        assert str(error) == "Request 'a' was lost: no link."
        assert isinstance(error.__cause__, OSError)
        assert engine.stats().blocks_used == 0
        assert outputs(drain(engine))["c"].token_ids == slow_generate([ord("c")] * 9, GREEDY)

    def test_blocks_of_a_failed_step_are_not_found(self) -> None:
        executor = Failing(1, OSError("no link"))
        engine = make_engine(executor)
        prompt = prompts(1, seed=3, low=20, high=21)[0]
        engine.add("a", prompt, GREEDY)
        assert [delta.error is not None for delta in engine.step()] == [True]
        engine.add("b", prompt, GREEDY)
        output = outputs(drain(engine))["b"]
        assert output.usage is not None
        assert output.usage.cached_tokens == 0
        assert output.token_ids == slow_generate(prompt, GREEDY)

    def test_interrupt_goes_through_and_leaves_no_blocks(self) -> None:
        engine = make_engine(Failing(1, KeyboardInterrupt()))
        engine.add("a", [1] * 9, GREEDY)
        with pytest.raises(KeyboardInterrupt):
            engine.step()
        assert_empty(engine)
        assert not engine.has_work

    def test_wrong_logits(self) -> None:
        class Wrong(FakeExecutor):
            def forward(self, batch: Batch, cache: KVCache) -> NDArray[np.float32]:
                return super().forward(batch, cache)[:, :-1]

        engine = make_engine(Wrong())
        engine.add("a", [1], GREEDY)
        [delta] = engine.step()
        assert "(1, 299) instead of (1, 300)" in str(delta.error)

    def test_nan_names_its_request(self) -> None:
        class Nan(FakeExecutor):
            def forward(self, batch: Batch, cache: KVCache) -> NDArray[np.float32]:
                logits = super().forward(batch, cache)
                logits[batch.token_ids[batch.logit_rows] == 7, 5] = np.nan
                return logits

        engine = make_engine(Nan())
        engine.add("good", [1, 2], GREEDY)
        engine.add("bad", [1, 7], replace(GREEDY, n=2))
        deltas = drain(engine)
        errors = [delta.error for delta in deltas if delta.error]
        assert len(errors) == 2
        assert str(errors[0]) == "Request 'bad' was lost: its logits are not numbers, or all are masked."
        good = [delta for delta in deltas if delta.request_id == "good"]
        assert outputs(good)["good"].token_ids == slow_generate([1, 2], GREEDY)

    def test_a_tokenizer_that_fails_ends_its_request_only(self) -> None:
        class BrokenDecoder(ByteDecoder):
            def push(self, ids: Iterable[int]) -> str:
                if list(ids) != [1, 2] and not self.skip:
                    raise ValueError("no such token")
                return super().push(ids)

        class Broken(ByteTokenizer):
            def incremental(self, *, skip_special_tokens: bool = True) -> ByteDecoder:
                return BrokenDecoder(self, skip_special_tokens)

        engine = make_engine(tokenizer=Broken())
        engine.add("good", [1, 2], GREEDY)
        engine.add("bad", [1, 2], replace(GREEDY, skip_special_tokens=False))
        deltas = drain(engine)
        assert [str(delta.error) for delta in deltas if delta.error] == ["Request 'bad' was lost: no such token."]
        good = [delta for delta in deltas if delta.request_id == "good"]
        assert outputs(good)["good"].token_ids == slow_generate([1, 2], GREEDY)


class TestAccount:
    def engine(self, **options: Any) -> tuple[Engine, list[float]]:
        """An engine whose steps take a second each: the clock stands still but for the executor."""
        now = [100.0]

        class Slow(FakeExecutor):
            def forward(self, batch: Batch, cache: KVCache) -> NDArray[np.float32]:
                now[0] += 1
                return super().forward(batch, cache)

        return make_engine(Slow(), clock=lambda: now[0], **options), now

    def test_timings(self) -> None:
        engine, now = self.engine(max_batch_tokens=8)
        engine.add("a", [1] * 20, replace(GREEDY, max_tokens=5))
        now[0] += 2
        timings = outputs(drain(engine))["a"].timings
        assert timings is not None
        # Two seconds waiting, three steps of prefill (8, 8, 4 rows), four tokens more in four seconds.
        assert timings.ttft_s == 5
        assert timings.prefill_tps == pytest.approx(20 / 3)
        assert timings.decode_tps == 1
        assert timings.load_s is None

    def test_time_in_a_queue_before(self) -> None:
        engine, now = self.engine()
        engine.add("a", [1], GREEDY, added=now[0] - 7)
        timings = outputs(drain(engine))["a"].timings
        assert timings is not None
        assert timings.ttft_s == 8

    def test_cached_tokens_don_t_count_as_computed(self) -> None:
        engine, _ = self.engine()
        engine.add("a", [1] * 20, GREEDY)
        drain(engine)
        engine.add("b", [1] * 20, GREEDY)
        timings = outputs(drain(engine))["b"].timings
        assert timings is not None
        assert timings.prefill_tps == 4

    def test_nothing_to_measure(self) -> None:
        engine, _ = self.engine()
        engine.add("a", [1], GREEDY)
        timings = outputs(engine.abort("a") or [])["a"].timings
        assert timings is not None
        assert (timings.ttft_s, timings.prefill_tps, timings.decode_tps) == (None, None, None)

    def test_stats(self) -> None:
        engine, _ = self.engine(max_num_seqs=2)
        for one in "abc":
            engine.add(one, [ord(one)] * 9, GREEDY)
        engine.step()
        stats = engine.stats()
        assert (stats.running, stats.waiting, stats.blocks, stats.blocks_used) == (2, 1, 64, 6)
        assert (stats.steps, stats.prompt_tokens, stats.generated_tokens) == (1, 18, 2)
        drain(engine)
        assert engine.stats().generated_tokens == 36

    def test_logprobs_in_the_deltas(self) -> None:
        engine = make_engine()
        engine.add("a", [1, 2], replace(GREEDY, logprobs=2))
        output = outputs(drain(engine))["a"].outputs[0]
        assert output.logprobs is not None
        assert [one.token_id for one in output.logprobs] == output.token_ids
        logits = slow_logits([1, 2]).astype(np.float64)
        expected = logits - np.log(np.exp(logits).sum())
        assert output.logprobs[0].logprob == pytest.approx(expected.max())
        assert output.logprobs[0].rank == 1
        assert len(output.logprobs[0].top) == 2

    def test_the_tokenizer_reads_every_token_once(self) -> None:
        asked: list[int] = []

        class Counting(ByteTokenizer):
            def bytes_of(self, token_id: int) -> bytes:
                asked.append(token_id)
                return super().bytes_of(token_id)

        engine = make_engine(tokenizer=Counting())
        engine.add("a", [1] * 20, replace(GREEDY, n=4, max_tokens=40))
        drain(engine)
        assert len(asked) == 20 + 4 * 40  # the samples share what comes of the prompt

    def test_text_offsets(self) -> None:
        """Into the text that is given out: characters come whole, special tokens show not, a stop string is cut."""
        raw = [*"é😀".encode(), SPECIAL, *b"ab"]
        output = write(raw, logprobs=0)
        assert output.text == "é😀ab"
        assert [one.text_offset for one in output.logprobs] == [0, 0, 1, 1, 1, 1, 2, 2, 3]
        shown = write(raw, logprobs=0, skip_special_tokens=False)
        assert [one.text_offset for one in shown.logprobs][6:] == [2, 9, 10]
        assert [one.text_offset for one in write(b"xstop", logprobs=0, stop="sto").logprobs] == [0, 1, 1, 1]
        assert [one.text_offset for one in write([97, EOS], logprobs=0).logprobs] == [0, 1]
        assert [one.text_offset for one in write([97, 0xF0, EOS], logprobs=0).logprobs] == [0, 1, 2]
