"""The bytes of an item: what comes back is what went in, and nothing else is taken."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from typing import Any

import msgspec
import numpy as np
import pytest

from cutset.engine import SamplingParams, TokenLogprob
from cutset.engine.bits import MaskPart, allowed_ids, bits_of, mask_of
from cutset.engine.constraint import StepMasks
from cutset.engine.decoder_stage import DecoderStage
from cutset.engine.sampler import Choice, Scores, TokenSampler, choose
from cutset.engine.stage_item import StageItem, StageSetup, decode_item, decode_setup, encode_item, encode_setup
from cutset.engine.stage_result import decode_choices, encode_choices
from cutset.errors import CutsetError, EngineError, FrameError
from cutset.models.run.executor import Batch, LoadedAdapter, States

from .fake import VOCAB, FakeExecutor

SMALL = StageSetup(blocks=9, block_size=4, states=5, masked=(3, 299), sequences=3)
SETUP = StageSetup(blocks=9, block_size=4, states=5, masked=(3, 299))
ADAPTER = LoadedAdapter("tuned", b"d" * 16, "handle")
MUTATIONS = int(os.environ.get("CUTSET_FUZZ", "3000"))


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def batch() -> Batch:
    return Batch(
        token_ids=ints(5, 6, 7, 250, 1, 2),
        positions=ints(0, 1, 2, 9, 4, 5),
        row_starts=ints(0, 3, 4, 6),
        context_lens=ints(3, 10, 6),
        block_tables=ints(4, -1, -1, 0, 8, 2, 1, 3, -1).reshape(3, 3),
        logit_rows=ints(2, 3),
        limits=ints(30, 30, 30),
        adapters=(None, ADAPTER, ADAPTER),
        states=States(ints(0, 1, 4), ints(-1, 1, 3), ints(0, 3, 2).reshape(1, 3)),
    )


def samplers() -> tuple[list[TokenSampler], list[int]]:
    """Two that have drawn some tokens: (samplers, known)."""
    prompt = ints(5, 6, 7)
    first = SamplingParams(seed=-1, n=2, repetition_penalty=1.3, presence_penalty=0.2, top_k=-1, logprobs=4)
    made = [
        TokenSampler(first, seed=-1, index=1, vocab_size=VOCAB, prompt_ids=prompt),
        TokenSampler(
            SamplingParams(temperature=0.3, min_tokens=9, seed=7, min_p=0.01, top_p=0.99),
            seed=7,
            index=0,
            vocab_size=VOCAB,
            prompt_ids=prompt,
            end_ids=range(150),
        ),
    ]
    for token in (9, 9, 11, 250):
        for one in made:
            one.observe(token)
    return made, [7, 7]


def item() -> StageItem:
    return StageItem(2**40, batch(), *samplers())


def decoded(data: bytes, setup: StageSetup = SETUP, **options: Any) -> StageItem:
    return decode_item(data, setup, vocab_size=VOCAB, adapters={ADAPTER.digest: ADAPTER}, **options)


def test_an_item_comes_back_as_it_was() -> None:
    whole = item()
    found = decoded(encode_item(whole))
    assert found.number == whole.number
    assert list(found.known) == [7, 7]
    for field in fields(Batch):
        ours, theirs = getattr(whole.batch, field.name), getattr(found.batch, field.name)
        if isinstance(ours, np.ndarray):
            assert theirs.dtype == np.int32
            np.testing.assert_array_equal(theirs, ours)
        elif field.name != "states":
            assert theirs == ours
    assert whole.batch.states is not None
    assert found.batch.states is not None
    for name in ("slots", "sources", "saves"):
        np.testing.assert_array_equal(getattr(found.batch.states, name), getattr(whole.batch.states, name))
    assert encode_item(found) == encode_item(whole)
    assert decoded(encode_item(whole), sampling=False).samplers == ()
    bare = replace(whole.batch, adapters=(), states=None, logit_rows=ints())
    again = decoded(encode_item(StageItem(0, bare, [], [])), msgspec.structs.replace(SETUP, states=0))
    assert again.batch.adapters == ()
    assert again.batch.states is None
    assert again.samplers == []


def test_masks_and_biases_come_back_as_they_were() -> None:
    made, known = samplers()
    made[1] = TokenSampler(
        SamplingParams(seed=3, logit_bias={299: -100, 4: 2.5}), seed=3, index=0, vocab_size=VOCAB, prompt_ids=ints(5)
    )
    few, many = bits_of([3, 298, 77], VOCAB), ~bits_of([5, 260, *range(300, 320)], VOCAB + 20)
    for own in ([None, [few]], [[many], [few]], [[], None]):
        whole = StageItem(7, batch(), made, known, (), StepMasks.of(own))
        data = encode_item(whole)
        found = decoded(data)
        assert encode_item(found) == data
        assert found.masks is not None
        for theirs, ours in zip(found.masks.found, own, strict=True):
            assert (theirs is None) == (ours is None)
            for one, other in zip(theirs or (), ours or (), strict=True):
                assert allowed_ids(one, VOCAB).tolist() == allowed_ids(other, VOCAB).tolist()
        logits = np.random.default_rng(1).standard_normal((2, VOCAB)).astype(np.float32) * 3
        choices = choose(logits, made, known, (), StepMasks.of(own).parts)
        assert choose(logits, found.samplers, known, (), found.masks.parts) == choices
        assert [one is None for one in choices] == [one == [] for one in own]
        if own[1]:
            assert choices[1].token_id in (3, 298, 77)


def scoring() -> StageItem:
    rows = replace(batch(), logit_rows=ints(2, 3, 0, 1, 4))
    return item()._replace(batch=rows, scores=Scores(ints(6, 7, 299), ints(0, 20, 3)))


def test_scores_come_back_as_they_were() -> None:
    whole = scoring()
    data = encode_item(whole)
    found = decoded(data)
    assert encode_item(found) == data
    assert found.scores is not None
    assert [one.tolist() for one in found.scores] == [[6, 7, 299], [0, 20, 3]]
    assert found.scored == 3
    assert decoded(encode_item(item())).scores is None
    parts = msgspec.msgpack.decode(data)
    assert len(msgspec.msgpack.decode(encode_item(item()))) == len(parts) - 3  # as older stages know them
    for tokens, likeliest in (
        (ints(6, 7), ints(0, 20)),  # another number than there are rows
        (ints(6, 7, 299, 1), ints(0, 20, 3, 1)),
        (ints(6, 7, 299), ints(0, 20)),
        (ints(6, 7, VOCAB), ints(0, 20, 3)),
        (ints(6, 7, -1), ints(0, 20, 3)),
        (ints(6, 7, 299), ints(0, 21, 3)),
        (ints(6, 7, 299), ints(0, -1, 3)),
        (ints(), ints()),
    ):
        with pytest.raises(FrameError):
            decoded(msgspec.msgpack.encode([*parts[:-3], tokens.tobytes(), likeliest.tobytes()]))


@pytest.mark.parametrize(
    "part",
    [
        MaskPart(True, b"\x00\x00\x00"),
        MaskPart(True, b"\xff\xff\xff\xff"),
        MaskPart(True, int(VOCAB).to_bytes(4, "little")),
        MaskPart(False, b"\x00" * 4),
        MaskPart(False, b"\x00" * 400),
    ],
)
def test_a_mask_of_another_vocabulary_is_refused(part: MaskPart) -> None:
    with pytest.raises(FrameError, match="mask"):
        mask_of(part, VOCAB)


def test_more_masks_than_rows_and_wrong_biases_are_refused() -> None:
    made, known = samplers()
    one = bits_of([1], VOCAB)
    with pytest.raises(FrameError, match="more masks"):
        decoded(encode_item(StageItem(7, batch(), made, known, (), StepMasks.of([[one, one], None]))))
    for biased, biases in ((ints(1, 2), [1.0]), (ints(VOCAB), [1.0]), (ints(1), [float("nan")]), (ints(1), [1e300])):
        made[0]._biased, made[0]._biases = biased.astype(np.intp), np.array(biases)
        with pytest.raises(FrameError):
            decoded(encode_item(StageItem(7, batch(), made, known)))


def test_samplers_draw_the_same_elsewhere() -> None:
    whole = item()
    found = decoded(encode_item(whole))
    logits = np.random.default_rng(1).standard_normal((2, VOCAB)).astype(np.float32) * 3
    choices = choose(logits, whole.samplers, whole.known)
    assert choose(logits, found.samplers, found.known) == choices
    assert choices[1] is not None
    assert choices[1].token_id >= 150
    rng = np.random.default_rng(2)
    params = [
        SamplingParams(temperature=temperature, top_p=top_p, top_k=top_k, frequency_penalty=frequency, min_tokens=least)
        for temperature in (0, 0.7, 1.5)
        for top_p in (1.0, 0.5)
        for top_k in (0, 5)
        for frequency in (0, -2, 1.25)
        for least in (0, 5)
    ]
    for number, one in enumerate(params):
        sampler = TokenSampler(
            one, seed=number, index=number % 3, vocab_size=VOCAB, prompt_ids=ints(1, 2), end_ids=range(0, 300, 2)
        )
        for known in range(2, 10):
            row = (rng.standard_normal((1, VOCAB)) * 4).astype(np.float32)
            sent = StageItem(0, replace(batch(), logit_rows=ints(2)), [sampler], [known])
            other = decoded(encode_item(sent))
            [choice] = choose(row, [sampler], [known])
            assert choose(row, other.samplers, other.known) == [choice]
            assert choice is not None
            sampler.observe(choice.token_id)


def test_choices_come_back_as_they_were() -> None:
    choices = [
        Choice(5, None),
        None,
        Choice(299, TokenLogprob(299, -0.1234567890123456789, 300, ((299, -1e-300), (0, -50.5)))),
    ]
    assert decode_choices(encode_choices(choices), wanted=3, vocab_size=VOCAB) == choices
    for wanted, vocab in ((2, VOCAB), (4, VOCAB), (3, 299), (3, 5)):
        with pytest.raises(FrameError):
            decode_choices(encode_choices(choices), wanted=wanted, vocab_size=vocab)
    plain = [Choice(5, None), None, Choice(299, None)]
    assert decode_choices(encode_choices(plain), wanted=3, vocab_size=VOCAB) == plain
    for wanted, vocab in ((2, VOCAB), (4, VOCAB), (3, 299), (3, 5)):
        with pytest.raises(FrameError):
            decode_choices(encode_choices(plain), wanted=wanted, vocab_size=vocab)
    for data in (b"", b"\x00", b"\xc0", b"\x91\x91\x01", b"\xdd\xff\xff\xff\xff", encode_choices(choices) + b"\x00"):
        with pytest.raises(FrameError):
            decode_choices(data, wanted=3, vocab_size=VOCAB)
    tokens, [told, *rest] = msgspec.msgpack.decode(encode_choices([choices[2], *choices[:2]]))
    for wrong in (
        [tokens, [told]],
        [tokens, [told, *rest, None]],
        [tokens[:-1], [told, *rest]],
        [tokens + ints(3).tobytes(), [told, *rest]],
        [ints(299, 5, -2).tobytes(), [told, *rest]],
        [ints(299, 5, -2).tobytes(), []],
        [ints(-1, 5, -1).tobytes(), [told, *rest]],  # one of a token that wasn't drawn
        [ints(299, 300, -1).tobytes(), [told, *rest]],
        [tokens, [[300, *told[1:]], *rest]],
        [tokens, [told, *rest], "more"],
        [None, []],
    ):
        with pytest.raises(FrameError):
            decode_choices(msgspec.msgpack.encode(wrong), wanted=3, vocab_size=VOCAB)


def test_a_setup_comes_back_as_it_was() -> None:
    assert decode_setup(encode_setup(SETUP)) == SETUP
    for wrong in (
        [0, 4],
        [1, 0],
        [1, 2, -1],
        [1, 2, 3, "int4"],
        [1, 2, 3, "auto", [-1]],
        [1],
        [1, 2, 0, "auto", [], 0],
        [1, 2, 0, "auto", [], 1, 1, 1],
        [1, 2, 0, "auto", [], 1, 1, b"x" * 33],
        [1, 2, 0, "auto", [], 1, 1, b"", 1],
    ):
        with pytest.raises(FrameError, match="this is no setup of stages"):
            decode_setup(msgspec.msgpack.encode(wrong))


WRONG: dict[str, dict[str, Any]] = {
    "a token outside the vocabulary": {"token_ids": ints(5, 6, 7, 300, 1, 2)},
    "a negative token": {"token_ids": ints(5, 6, 7, -1, 1, 2)},
    "a block that isn't there": {"block_tables": ints(4, -1, -1, 0, 9, 2, 1, 3, -1).reshape(3, 3)},
    "no block where one is used": {"block_tables": ints(4, -1, -1, 0, -1, 2, 1, 3, -1).reshape(3, 3)},
    "too few blocks": {"block_tables": ints(4, 0, 1).reshape(3, 1)},
    "rows that go back": {"row_starts": ints(0, 4, 3, 6)},
    "rows that begin late": {"row_starts": ints(1, 3, 4, 6)},
    "rows that end early": {"row_starts": ints(0, 3, 4, 5)},
    "too short a context": {"context_lens": ints(2, 10, 6)},
    "too long a context": {"context_lens": ints(3, 13, 6)},
    "a huge context": {"context_lens": ints(3, 2**31 - 1, 6)},
    "an empty context": {"context_lens": ints(3, 10, 0)},
    "a limit that is passed": {"limits": ints(30, 9, 30)},
    "a position beyond the limit": {"positions": ints(0, 1, 2, 30, 4, 5)},
    "a negative position": {"positions": ints(0, 1, 2, -1, 4, 5)},
    "a wanted row that isn't there": {"logit_rows": ints(2, 6)},
    "a state that isn't there": {"states": States(ints(0, 1, 5), ints(-1, 1, 3), ints().reshape(0, 3))},
    "a source that isn't there": {"states": States(ints(0, 1, 4), ints(-2, 1, 3), ints().reshape(0, 3))},
    "a copy that isn't there": {"states": States(ints(0, 1, 4), ints(-1, 1, 3), ints(0, 3, 5).reshape(1, 3))},
    "a copy of nobody": {"states": States(ints(0, 1, 4), ints(-1, 1, 3), ints(3, 3, 2).reshape(1, 3))},
    "no states": {"states": None},
    "another adapter": {"adapters": (None, None, LoadedAdapter("other", b"e" * 16, None))},
}


@pytest.mark.parametrize("name", WRONG)
def test_numbers_lie_where_they_may(name: str) -> None:
    data = encode_item(item()._replace(batch=replace(batch(), **WRONG[name])))
    with pytest.raises(FrameError):
        decoded(data)


def test_parts_must_fit_together() -> None:
    parts = msgspec.msgpack.decode(encode_item(item()))
    assert isinstance(parts, list)
    for place, part in enumerate(parts):
        wrongs: list[Any] = [None, [], "x", -1, 2**63, b"abc", 1.5]
        if isinstance(part, bytes):
            wrongs += [part + b"\0\0\0\0", part[:-4], part[:-1]]
        for wrong in wrongs:
            if wrong == part or (place == 7 and wrong == []) or (place == 8 and wrong == b""):
                continue
            with pytest.raises(FrameError):
                decoded(msgspec.msgpack.encode([*parts[:place], wrong, *parts[place + 1 :]]))
    with pytest.raises(FrameError):
        decoded(msgspec.msgpack.encode([*parts, 1]))
    with pytest.raises(FrameError):
        decoded(msgspec.msgpack.encode(parts[:-1]))
    for number in range(len(parts[-1])):  # one who is to be drawn for is missing
        with pytest.raises(FrameError, match="wants 2 tokens"):
            decoded(msgspec.msgpack.encode([*parts[:-1], parts[-1][:number]]))
    for place, wrong in (
        (0, -1.0),
        (0, float("nan")),
        (1, 2.0),
        (2, -5),
        (4, 21),
        (5, 0.0),
        (8, b"short"),
        (9, b"\xff" * 4),
        (9, b"\x00"),
    ):
        sampling = [list(one) for one in parts[-1]]
        params = msgspec.msgpack.decode(sampling[0][0])
        params[place] = wrong
        sampling[0][0] = msgspec.msgpack.encode(params)
        with pytest.raises(FrameError):
            decoded(msgspec.msgpack.encode([*parts[:-1], sampling]))
    slot, start, prompt, ids = parts[-1][0][3]
    for wrong in (
        None,  # penalties without tokens
        [5, start, prompt, ids],  # there is one for each of three sequences
        [slot, -1, prompt, ids],
        [slot, start, 8, ids],
        [slot, start, prompt, ids + b"\0\0\0\0"],  # more tokens than are known
        [slot, start, prompt, ids[:-4]],
        [slot, start, prompt, ids[:-4] + ints(VOCAB).tobytes()],
    ):
        sampling = [list(one) for one in parts[-1]]
        sampling[0][3] = wrong
        with pytest.raises(FrameError):
            decoded(msgspec.msgpack.encode([*parts[:-1], sampling]), SMALL)
    sampling = [list(one) for one in parts[-1]]
    sampling[0][3] = [slot, 6, prompt, ids[-4:]]
    with pytest.raises(EngineError, match="doesn't know the tokens before"):
        decoded(msgspec.msgpack.encode([*parts[:-1], sampling]))
    sampling = [list(one) for one in parts[-1]]
    sampling[1][3] = sampling[0][3]  # of one that has no penalties
    with pytest.raises(FrameError):
        decoded(msgspec.msgpack.encode([*parts[:-1], sampling]))


def test_a_sampler_is_sent_anew_when_it_changes_and_sequences_that_are_alike_share_none_of_their_tokens() -> None:
    """Its bytes are kept from step to step, and so is what was made of them."""
    ends = TokenSampler(
        SamplingParams(temperature=0, min_tokens=2), seed=1, index=0, vocab_size=VOCAB, prompt_ids=ints(5), end_ids=[7]
    )
    rows = replace(batch(), logit_rows=ints(2))
    logits = np.zeros((1, VOCAB), np.float32)
    logits[0, 7] = 1.0
    drawn = []
    for known in (1, 2, 3, 4):
        found = decoded(encode_item(StageItem(0, rows, [ends], [known])))
        drawn.append(choose(logits, found.samplers, found.known)[0])
        assert drawn[-1] == choose(logits, [ends], [known])[0]
    assert [one.token_id == 7 for one in drawn if one is not None] == [False, False, True, True]
    penalised = SamplingParams(temperature=0, frequency_penalty=1.0, seed=4)
    twins = [TokenSampler(penalised, seed=4, index=0, vocab_size=VOCAB, prompt_ids=ints(5)) for _ in range(2)]
    twins[0].observe(7)
    both = decoded(encode_item(StageItem(0, replace(rows, logit_rows=ints(2, 3)), twins, [2, 1])))
    choices = choose(np.repeat(logits, 2, axis=0), both.samplers, both.known)
    assert [one is not None and one.token_id == 7 for one in choices] == [False, True]


def test_an_item_is_no_larger_than_was_agreed_on() -> None:
    data = encode_item(item())
    for sizes, taken in (((6, 3), True), ((5, 3), False), ((6, 2), False)):
        setup = msgspec.structs.replace(SETUP, rows=sizes[0], sequences=sizes[1])
        if taken:
            assert decoded(data, setup).number == 2**40
            continue
        with pytest.raises(FrameError, match="an item of 6 rows is too large"):
            decoded(data, setup)
    many = replace(batch(), logit_rows=ints(*range(6), 0))
    with pytest.raises(FrameError, match="too large"):
        decoded(encode_item(StageItem(0, many, [samplers()[0][0]] * 7, [7] * 7)))


def test_a_large_item_is_refused_by_its_length() -> None:
    with pytest.raises(FrameError, match="too large") as caught:
        decoded(bytes((64 << 20) + 1))
    assert caught.value.too_large


def test_random_bytes_end_in_a_frame_error_or_in_an_item_that_runs() -> None:
    """What is accepted can be run by an executor that checks nothing."""
    rng = np.random.default_rng(6)
    setup = msgspec.structs.replace(SETUP, states=0, masked=())
    bare = replace(batch(), states=None, adapters=())
    items = [StageItem(3, bare, *samplers()), scoring()]
    wholes = [encode_item(one._replace(batch=replace(one.batch, states=None, adapters=()))) for one in items]
    stage = DecoderStage(FakeExecutor(), setup)
    stage.executor.check = lambda *_: None  # it asserts what the whole item holds, and these are damaged
    refused = 0
    for number in range(MUTATIONS):
        data = bytearray(wholes[number % 2])
        for _ in range(int(rng.integers(1, 4))):
            place = int(rng.integers(len(data)))
            match int(rng.integers(4)):
                case 0:
                    data[place] = int(rng.integers(256))
                case 1:
                    del data[place : place + int(rng.integers(1, 9))]
                case 2:
                    data[place:place] = rng.integers(0, 256, int(rng.integers(1, 9))).astype(np.uint8).tobytes()
                case _:
                    data[place] ^= 1 << int(rng.integers(8))
            data = data or bytearray(b"\0")
        try:
            stage.run(0, {"batch": np.frombuffer(bytes(data), np.uint8)})
        except (FrameError, EngineError):
            refused += 1
        except CutsetError as error:
            raise AssertionError(bytes(data).hex()) from error
    assert MUTATIONS * 0.3 < refused < MUTATIONS


def test_padding_has_no_way_through_stages() -> None:
    with pytest.raises(ValueError, match="padded"):
        encode_item(item()._replace(batch=replace(batch(), key_mask=np.ones((3, 10), dtype=np.bool_))))
