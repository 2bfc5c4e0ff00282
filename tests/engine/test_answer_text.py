"""The text of an answer: what it adds to the prompt's, where it stops, and where in it each token begins."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders

from cutset.engine.detokenizer import Detokenizer, TextStream
from cutset.models.text.tokenizer import Tokenizer
from models.tokenizers_to_test import BYTES, DECODERS, LLAMA_STEPS, of_tokens

from .helpers import added

FFFD = "\ufffd"


@functools.cache
def tokenizer_of(kind: str, clean: bool = False) -> Tokenizer:
    return Tokenizer(DECODERS[kind](), clean_up_spaces=clean)


def difference(tokenizer: Tokenizer, prompt: Sequence[int], answer: Sequence[int], skip: bool) -> str:
    """The slow twin: what whole decodes say."""
    before = tokenizer.decode([*prompt], skip_special_tokens=skip)
    whole = tokenizer.decode([*prompt, *answer], skip_special_tokens=skip)
    return added(before, whole)


def answer_of(tokenizer: Tokenizer, prompt: Sequence[int], answer: Sequence[int], skip: bool) -> list[str]:
    text = TextStream(tokenizer, prompt, skip_special_tokens=skip)
    return [*(text.push(one) for one in answer), text.flush()]


@pytest.mark.parametrize("kind", [kind for kind in DECODERS if kind != "strip right"])
@settings(max_examples=60)
@given(data=st.data(), skip=st.booleans(), clean=st.booleans())
def test_an_answer_is_the_difference_of_whole_decodes(kind: str, data: st.DataObject, skip: bool, clean: bool) -> None:
    tokenizer = tokenizer_of(kind, clean)
    ids = st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=12)
    prompt, answer = data.draw(ids), data.draw(ids)
    assert "".join(answer_of(tokenizer, prompt, answer, skip)) == difference(tokenizer, prompt, answer, skip)


def ids_of(tokenizer: Tokenizer, *tokens: str) -> list[int]:
    return [tokenizer._backend.token_to_id(token) for token in tokens]


def bytes_as_ids(tokenizer: Tokenizer, data: bytes) -> list[int]:
    found = {tokenizer.token_bytes(one): one for one in range(tokenizer.vocab_size)}
    return [found[bytes([byte])] for byte in data]


def test_a_space_after_the_prompt_is_the_answers() -> None:
    words = ("▁a", "▁b", "a", "b", ".")
    for decoder in (decoders.Metaspace(), decoders.Sequence(LLAMA_STEPS)):
        tokenizer = Tokenizer(of_tokens(decoder, *words))
        prompt = ids_of(tokenizer, "<s>", "▁a", ".")
        assert answer_of(tokenizer, prompt, ids_of(tokenizer, "▁a", "b"), True) == [" a", "b", ""]
        assert answer_of(tokenizer, prompt[:1], ids_of(tokenizer, "▁a", "▁b"), True) == ["a", " b", ""]
        assert answer_of(tokenizer, prompt[:1], ids_of(tokenizer, "▁a", "▁b"), False) == [" a", " b", ""]
    pieces = tokenizer_of("word piece", True)
    prompt = ids_of(pieces, "do")
    assert answer_of(pieces, prompt, ids_of(pieces, "n't", "dog", ".", "dog", "##s"), True)[0] == "n't"
    assert "".join(answer_of(pieces, prompt, ids_of(pieces, "dog", ".", "dog", "##s"), True)) == " dog. dogs"


@pytest.mark.parametrize("kind", ["byte level", "byte fallback"])
def test_a_prompt_may_end_inside_a_character(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    [b], halves = ids_of(tokenizer, "b"), bytes_as_ids(tokenizer, "你".encode())
    for cut in (1, 2):
        prompt = [b, *halves[:cut]]
        assert "".join(answer_of(tokenizer, prompt, [*halves[cut:], b], True)) == "你b"
        assert "".join(answer_of(tokenizer, prompt, [b], True)) == "b"  # U+FFFD is the prompt's
        assert answer_of(tokenizer, [*prompt, b], [b], True) == ["b", ""]


def until_stop(tokenizer: Tokenizer, ids: Sequence[int], **options: object) -> tuple[str, int, str | None]:
    """The text, the tokens that were used, and the stop string."""
    text = Detokenizer(tokenizer, **options)
    given = ""
    for count, one in enumerate(ids, 1):
        given += text.push(one)
        if text.found is not None:
            return given, count, text.found
    given += text.flush()
    return given, len(ids), text.found


SPECIAL = Tokenizer(of_tokens(decoders.Fuse(), "a", "b", " ", "ab", "<", "s", ">", "</"))


@given(
    st.lists(st.integers(0, SPECIAL.vocab_size - 1), max_size=30),
    st.lists(st.sampled_from(["<s>", "a<s>", "<s>b", "b</s>a", "</s>", "ab", "aab", "<s><s>", "a<s>b", "s>a"])),
    st.booleans(),
)
@settings(max_examples=400)
def test_stop_strings_are_looked_for_with_special_tokens(ids: list[int], stops: list[str], include: bool) -> None:
    """Of the text with special tokens and that without, the one that has a stop string first decides."""
    given, count, found = until_stop(SPECIAL, ids, stop=stops, include_stop=include)
    shown, shown_count, shown_found = until_stop(
        SPECIAL, ids, stop=stops, include_stop=include, skip_special_tokens=False
    )
    hidden = SPECIAL.decode(ids)
    ended = [n for n in range(len(ids) + 1) for stop in stops if stop in SPECIAL.decode(ids[:n])]
    assert count == min([shown_count, *ended])
    assert (found is None) == (shown_found is None and not ended)
    assert hidden.startswith(given)
    if not include:
        assert not any(stop in given for stop in stops)
    if found is None:
        assert given == hidden
    elif count == shown_count and count not in ended[:1]:
        # The text with special tokens, up to the stop string, without them.
        assert given == without_special(ids[:count], shown)


def without_special(ids: Sequence[int], shown: str) -> str:
    """What is left of the first characters of a text when the special tokens in it are hidden."""
    left, given = shown, ""
    for one in ids:
        text = SPECIAL.token(one)
        if one not in SPECIAL.special_ids:
            given += left[: len(text)]
        left = left[len(text) :]
    return given


def test_a_hidden_stop_string_cuts_the_text_before_it() -> None:
    ids = ids_of(SPECIAL, "a", "b", "<s>", "a", "</s>", "b")
    assert until_stop(SPECIAL, ids, stop=["<s>"]) == ("ab", 3, "<s>")
    assert until_stop(SPECIAL, ids, stop=["b<s>a"]) == ("a", 4, "b<s>a")
    assert until_stop(SPECIAL, ids, stop=["b<s>a"], include_stop=True) == ("aba", 4, "b<s>a")
    assert until_stop(SPECIAL, ids, stop=["a</s>"]) == ("ab", 5, "a</s>")
    assert until_stop(SPECIAL, ids, stop=["ba"]) == ("a", 4, "ba")
    assert until_stop(SPECIAL, ids, stop=["</s>a", "aa"]) == ("abab", 6, None)
    assert until_stop(SPECIAL, ids, stop=["<s>"], skip_special_tokens=False) == ("ab", 3, "<s>")
    # What may become a stop string is held back, and comes when it doesn't.
    text = Detokenizer(SPECIAL, stop=["b<s>b"])
    assert [text.push(one) for one in ids[:4]] == ["a", "", "", "ba"]


def test_the_tokens_before_min_tokens_stop_nothing() -> None:
    text = Detokenizer(SPECIAL, stop=["<s>"])
    start, a = ids_of(SPECIAL, "<s>", "a")
    assert text.push(start, may_stop=False) == ""
    assert text.push(a) == "a"
    assert text.push(start) == ""
    assert text.found == "<s>"


def test_a_stop_string_in_a_run_of_bytes_ends_it_at_once() -> None:
    tokenizer = Tokenizer(of_tokens(decoders.Sequence(LLAMA_STEPS), "x", *BYTES))
    ids = [*ids_of(tokenizer, "x"), *ids_of(tokenizer, *(f"<0x{byte:02X}>" for byte in "你😀é".encode()))]
    assert until_stop(tokenizer, ids, stop=["😀"]) == ("x你", 8, "😀")
    assert until_stop(tokenizer, ids, stop=["你😀é"]) == ("x", 10, "你😀é")
    assert until_stop(tokenizer, ids, stop=[FFFD]) == ("x你😀é", 10, None)
    text = Detokenizer(tokenizer, stop=["你"])
    assert [text.push(one, may_stop=False) for one in ids[:4]] == ["x", "", "", ""]
    assert text.push(ids[0]) == "你x"  # it ended while nothing could stop
    assert text.found is None


TAKES_BACK = ("replace in all", "a pattern in all", "strip right", "ctc")


@pytest.mark.parametrize("kind", DECODERS)
@settings(max_examples=40)
@given(data=st.data(), skip=st.booleans())
def test_tokens_begin_where_the_text_differs(kind: str, data: st.DataObject, skip: bool) -> None:
    tokenizer = tokenizer_of(kind)
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=15))
    text = Detokenizer(tokenizer, skip_special_tokens=skip)
    begins, given = [], ""
    for one in ids:
        given += text.push(one)
        begins.append(text.begins)
    given += text.flush()
    assert begins == sorted(begins)
    assert all(at >= 0 for at in begins)
    if kind not in TAKES_BACK:  # where a later token takes text away, `clamp_offsets` has the last word
        assert all(at <= len(given) for at in begins)
    assert text.length == len(given)


def test_tokens_begin_after_whole_characters_and_what_shows() -> None:
    tokenizer = tokenizer_of("byte level")
    [special] = ids_of(tokenizer, "<|im_end|>")
    ids = [*bytes_as_ids(tokenizer, "é😀".encode()), special, *bytes_as_ids(tokenizer, b"ab")]
    text = Detokenizer(tokenizer)
    found = []
    for one in ids:
        text.push(one)
        found.append(text.begins)
    assert found == [0, 0, 1, 1, 1, 1, 2, 2, 3]
