"""Text that is decoded while its tokens come: in the end, and at every place on the way, what `decode` says."""

from __future__ import annotations

import functools
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders

from cutset.models.text.tokenizer import Tokenizer
from models.tokenizers_to_test import BYTES, DECODERS, LLAMA_STEPS, of_tokens, sentencepiece_like

FFFD = "\ufffd"


@functools.cache
def tokenizer_of(kind: str, clean: bool = False) -> Tokenizer:
    return Tokenizer(DECODERS[kind](), clean_up_spaces=clean)


@functools.cache
def hard_ids(kind: str) -> list[int]:
    """Ids of parts of characters, or all."""
    tokenizer = tokenizer_of(kind)
    data = {one: tokenizer.token_bytes(one) for one in range(tokenizer.vocab_size)}
    return [one for one, raw in data.items() if raw is not None and max(raw, default=0) > 127] or list(data)


def texts_of(kind: str) -> st.SearchStrategy[list[int]]:
    any_id = st.integers(0, tokenizer_of(kind).vocab_size - 1)
    ids = st.lists(st.one_of(any_id, st.sampled_from(hard_ids(kind))), max_size=25)
    # The library panics where this decoder finds nothing but what it takes away.
    return ids.map(lambda some: [0, *some]) if kind == "strip right" else ids


@pytest.mark.parametrize("kind", DECODERS)
@settings(max_examples=60)
@given(data=st.data(), skip=st.booleans(), clean=st.booleans())
def test_pieces_add_up_to_what_decode_says(kind: str, data: st.DataObject, skip: bool, clean: bool) -> None:
    tokenizer = tokenizer_of(kind, clean)
    ids, cut = data.draw(texts_of(kind)), data.draw(st.integers(0, 25))
    one_by_one, in_two = (tokenizer.incremental(skip_special_tokens=skip) for _ in range(2))
    given = ""
    for place, token_id in enumerate(ids, 1):
        given += one_by_one.push([token_id])
        assert given + one_by_one.rest() == tokenizer.decode(ids[:place], skip_special_tokens=skip)
    first = in_two.push(ids[:cut])
    other = in_two.copy()
    assert first + in_two.push(ids[cut:]) == first + other.push(ids[cut:]) == given
    assert in_two.rest() == other.rest() == one_by_one.rest()


@given(st.data())
def test_special_tokens_with_a_text_of_their_own_are_left_out(data: st.DataObject) -> None:
    """The library writes such a token `▁<s>`, doesn't know it for a special one, and prints it so."""
    tokenizer = normalised()
    ids = data.draw(st.lists(st.integers(0, 20), max_size=12))
    for skip in (True, False):
        decoder = tokenizer.incremental(skip_special_tokens=skip)
        assert decoder.push(ids) + decoder.rest() == tokenizer.decode(ids, skip_special_tokens=skip)


@functools.cache
def normalised() -> Tokenizer:
    state = json.loads(sentencepiece_like().to_str())
    for token in state["added_tokens"]:
        token["normalized"] = True
    return Tokenizer(Backend.from_str(json.dumps(state)))


def test_a_replacement_character_is_a_character() -> None:
    """Its bytes are no half of anything; a run of byte tokens is certain where it ends."""
    names = ["a", *[f"<0x{byte:02X}>" for byte in f"{FFFD}你".encode()], "▁", "o", "k"]
    tokenizer = Tokenizer(of_tokens(decoders.Sequence(LLAMA_STEPS), *names, *BYTES))
    decoder = tokenizer.incremental()
    ids = [tokenizer._backend.token_to_id(name) for name in names]
    assert [decoder.push([one]) for one in ids] == ["a", *[""] * 6, f"{FFFD}你 ", "o", "k"]
    assert decoder.rest() == ""


def test_what_bytes_may_still_become_is_known_by_the_bytes() -> None:
    tokenizer = tokenizer_of("byte level")
    ids = {tokenizer.token_bytes(one): one for one in range(tokenizer.vocab_size)}

    def pieces(data: bytes) -> list[str]:
        decoder = tokenizer.incremental()
        return [*(decoder.push([ids[bytes([byte])]]) for byte in data), decoder.rest()]

    assert pieces(f"a{FFFD}b".encode()) == ["a", "", "", FFFD, "b", ""]
    assert pieces("😀é".encode()) == ["", "", "", "😀", "", "é", ""]
    assert pieces(b"\xff\xf0\x9fa") == [FFFD, "", "", f"{FFFD}a", ""]
    assert pieces(b"\xe4\xbd") == ["", "", FFFD]


def test_what_may_still_change_is_told_without_halves_of_characters() -> None:
    bytes_of_text = Tokenizer(of_tokens(decoders.Sequence(LLAMA_STEPS), "a", *BYTES))
    ids = [bytes_of_text._backend.token_to_id(f"<0x{byte:02X}>") for byte in "你é".encode()]
    decoder = bytes_of_text.incremental()
    assert [(decoder.push([one]), decoder.so_far()) for one in ids] == [
        *[("", "")] * 2,
        *[("", "你")] * 2,
        ("", "你é"),
    ]
    assert bytes_of_text.decode([*ids, ids[0]]) == FFFD * 6
    assert decoder.push([ids[0], 0]) + decoder.rest() == FFFD * 6 + "a"
    cleaned = Tokenizer(of_tokens(decoders.Fuse(), *"dn't. "), clean_up_spaces=True)
    decoder = cleaned.incremental()
    found = [(decoder.push([cleaned._backend.token_to_id(one)]), decoder.so_far()) for one in "d . n't '"]
    assert found == [
        *[("d", ""), ("", " "), (".", ""), ("", " "), ("", " n"), ("", " n'"), ("n't", "")],
        *[("", " "), ("", " '")],
    ]


def test_bytes_of_tokens() -> None:
    tokenizer = tokenizer_of("byte fallback")
    found = {tokenizer.token(one): tokenizer.token_bytes(one) for one in range(tokenizer.vocab_size)}
    assert found["<0xE4>"] == found["<0xe4>"] == b"\xe4"
    assert found["<0x+A>"] == b"\n"
    assert found["<0xZZ>"] is found[FFFD] is found["b"] is None
    assert tokenizer_of("metaspace").token_bytes(0) is None


def test_work_for_a_token_does_not_grow_with_the_text() -> None:
    def seconds(kind: str, ids: list[int]) -> float:
        best = []
        for _ in range(3):
            decoder = tokenizer_of(kind).incremental()
            start = time.thread_time()
            for one in ids:
                decoder.push([one])
                decoder.so_far()
            best.append((time.thread_time() - start) / len(ids))
        return min(best)

    for kind in ("byte level", "llama", "word piece", "suffixes"):
        ids = [one % tokenizer_of(kind).vocab_size for one in range(0, 7 * 12_000, 7)]
        assert seconds(kind, ids) < 5 * seconds(kind, ids[:500])


def test_ids_that_no_token_has() -> None:
    gaps = Tokenizer(Backend.from_str(json.dumps(GAPS)))
    assert gaps.vocab_size == 2
    assert gaps.ids_without_token(8).tolist() == [1, 2, 3, 4, 5, 6]
    assert gaps.ids_without_token(10).tolist() == [1, 2, 3, 4, 5, 6, 8, 9]
    assert gaps.ids_without_token(1).tolist() == []
    added = Backend.from_str(json.dumps(GAPS))
    added.add_special_tokens(["<s>"])
    assert Tokenizer(added).ids_without_token(12).size == 12 - 3
    twice = json.loads(json.dumps(GAPS))
    twice["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0], ["b", -1.0], ["a", -2.0]]}
    assert Tokenizer(Backend.from_str(json.dumps(twice))).ids_without_token(4).tolist() == [3]


GAPS = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "WhitespaceSplit"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 7}, "unk_token": "a"},
}
