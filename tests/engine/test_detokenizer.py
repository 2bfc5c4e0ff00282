"""Text that grows: whole characters only, stop strings never by half, and in the end what `decode` says."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

from cutset.engine.detokenizer import Detokenizer, TextStream
from cutset.engine.stops import StopMatcher
from cutset.models.text.tokenizer import Tokenizer

from .fake import ByteTokenizer

FFFD = "\ufffd"


class Wrapped(Tokenizer):
    """A vocabulary without merges."""

    def __init__(
        self, vocab: Sequence[str], decoder: decoders.Decoder, special: Sequence[str] = ("<s>", "</s>")
    ) -> None:
        self.size = len(vocab) + len(special)
        inner = tokenizers.Tokenizer(models.BPE({piece: i for i, piece in enumerate(vocab)}, []))
        inner.add_special_tokens(list(special))
        inner.decoder = decoder
        self.ids: dict[str, int] = inner.get_vocab()
        super().__init__(inner)


def byte_level() -> Wrapped:
    """GPT-2's kind: tokens are runs of bytes."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    names = {byte: chr(byte) for byte in visible} | {
        byte: chr(256 + i) for i, byte in enumerate(byte for byte in range(256) if byte not in visible)
    }
    texts = [" the", "é", "😀", "日本", " a", "👨‍👩‍👧", "\n\n"]
    pieces = [names[byte] for byte in range(256)]
    pieces += ["".join(names[byte] for byte in text.encode()) for text in texts]
    pieces += ["".join(names[byte] for byte in run) for run in (b"\x80\xf0\x9f", b"a\xf0\x9f\x98", b"\x98\x80 x")]
    return Wrapped(pieces, decoders.ByteLevel())


def metaspace(*, fallback: bool = True) -> Wrapped:
    """Llama 2's kind: ▁ is a space, the first of a text is dropped, unknown characters come as bytes."""
    pieces = ["▁", "▁the", "▁▁", "a", "b", "é", "▁é", "日", "▁x", "\n", "."]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)] if fallback else []
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    return Wrapped(pieces, decoders.Sequence(steps))


def word_piece() -> Wrapped:
    return Wrapped(["un", "##able", "##s", "dog", ".", "'", "do", "n't"], decoders.WordPiece())


def stream(tokenizer: object, ids: Sequence[int], *, skip: bool = True) -> list[str]:
    text = TextStream(tokenizer, skip_special_tokens=skip)
    return [*(text.push(one) for one in ids), text.flush()]


BYTE_LEVEL, METASPACE, WORD_PIECE = byte_level(), metaspace(), word_piece()
PLAIN = metaspace(fallback=False)


@given(st.lists(st.integers(0, 299), max_size=150), st.booleans())
def test_pieces_add_up(ids: list[int], skip: bool) -> None:
    tokenizer = ByteTokenizer()
    assert "".join(stream(tokenizer, ids, skip=skip)) == tokenizer.decode(ids, skip_special_tokens=skip)


@given(st.lists(st.integers(0, BYTE_LEVEL.size - 1), max_size=150), st.booleans())
def test_pieces_add_up_byte_level(ids: list[int], skip: bool) -> None:
    assert "".join(stream(BYTE_LEVEL, ids, skip=skip)) == BYTE_LEVEL.decode(ids, skip_special_tokens=skip)


@given(st.lists(st.integers(0, PLAIN.size - 1), max_size=150), st.booleans())
def test_pieces_add_up_stripping_a_space(ids: list[int], skip: bool) -> None:
    assert "".join(stream(PLAIN, ids, skip=skip)) == PLAIN.decode(ids, skip_special_tokens=skip)


@given(st.lists(st.integers(0, WORD_PIECE.size - 1), max_size=80))
def test_pieces_add_up_word_piece(ids: list[int]) -> None:
    assert "".join(stream(WORD_PIECE, ids)) == WORD_PIECE.decode(ids)


@given(st.text(alphabet="ab é日😀\n.👨‍👩‍👧x", max_size=60))
def test_pieces_add_up_byte_fallback(text: str) -> None:
    """Sound text in which what the vocabulary lacks comes as bytes."""
    ids: list[int] = []
    vocab = METASPACE.ids
    for character in text:
        piece = character.replace(" ", "▁")
        ids += [vocab[piece]] if piece in vocab else [vocab[f"<0x{byte:02X}>"] for byte in character.encode()]
    pieces = stream(METASPACE, ids)
    assert "".join(pieces) == METASPACE.decode(ids)
    assert FFFD not in "".join(pieces)


@pytest.mark.parametrize("text", ["👨‍👩‍👧" * 20, "é日" * 20, "x👩‍é" * 20])
def test_long_runs_of_bytes(text: str) -> None:
    """A wrong byte would turn all of such a run into U+FFFD, so it comes when it has ended; a stop string ends it."""
    vocab = METASPACE.ids
    ids = [vocab[f"<0x{byte:02X}>"] for byte in text.encode()]
    assert "".join(stream(METASPACE, ids)) == text
    assert stream(METASPACE, [*ids, vocab["a"]])[-2:] == [text + "a", ""]
    end = text[:9]
    found = Detokenizer(METASPACE, stop=[end])
    pushed = [found.push(one) for one in ids[: len(end.encode())]]
    assert (found.found, "".join(pushed)) == (end, "")


def test_a_space_after_many_special_tokens() -> None:
    vocab = METASPACE.ids
    ids = [vocab["a"], *[vocab["<s>"]] * 50, vocab["▁x"]]
    assert "".join(stream(METASPACE, ids)) == METASPACE.decode(ids) == "a x"


@given(st.lists(st.integers(0, METASPACE.size - 1), max_size=100), st.booleans())
def test_byte_fallback_with_bytes_that_are_no_text(ids: list[int], skip: bool) -> None:
    """Such a decoder turns a whole run of bytes into U+FFFD when one of them is wrong."""
    assert "".join(stream(METASPACE, ids, skip=skip)) == METASPACE.decode(ids, skip_special_tokens=skip)


@given(st.text(st.sampled_from("a éß日本😀👍🏽\u200d\u0301\ufffd\ud800"), max_size=60))
def test_no_half_characters(text: str) -> None:
    tokenizer = ByteTokenizer()
    pieces = stream(tokenizer, list(text.encode("utf-8", "surrogatepass")))
    if FFFD not in tokenizer.decode(list(text.encode("utf-8", "surrogatepass"))):
        assert FFFD not in "".join(pieces)
        assert "".join(pieces) == text


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BYTE_LEVEL])
def test_emoji_comes_whole(tokenizer: ByteTokenizer | Wrapped) -> None:
    raw = "x👨‍👩‍👧é".encode()
    ids = list(raw)
    if isinstance(tokenizer, Wrapped):
        names = {tokenizer.token_bytes(i): i for i in range(256)}
        ids = [names[bytes([byte])] for byte in raw]
    assert [piece for piece in stream(tokenizer, ids) if piece] == list("x👨‍👩‍👧é")


def test_incomplete_at_the_end_is_flushed() -> None:
    assert stream(ByteTokenizer(), [97, 0xF0, 0x9F]) == ["a", "", "", FFFD]


def test_invalid_bytes_come_soon_and_as_one_fffd_each() -> None:
    for tokenizer, first in ((ByteTokenizer(), 0), (METASPACE, METASPACE.ids["<0x00>"])):
        assert stream(tokenizer, [first + 0x80] * 50) == [*[FFFD] * 50, ""]
        assert stream(tokenizer, [first + 0xFF, first + 97, first + 98])[0] == FFFD
    assert stream(ByteTokenizer(), [0xFF, 97, 98]) == [FFFD, "a", "b", ""]


def split(text: str, cuts: list[int]) -> list[str]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in pairwise(places)]


def slow_stop(text: str, stops: Sequence[str], *, include: bool) -> tuple[str, str | None]:
    """Character by character: the stop string that is complete first, of several the longest."""
    for end in range(1, len(text) + 1):
        ended = [stop for stop in stops if text[:end].endswith(stop)]
        if ended:
            stop = max(ended, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


@given(
    st.text("abc", max_size=30),
    st.lists(st.text("abc", min_size=1, max_size=5), max_size=4, unique=True),
    st.lists(st.integers(0, 100)),
    st.booleans(),
)
@settings(max_examples=300)
def test_stop_strings_equal_twin(text: str, stops: list[str], cuts: list[int], include: bool) -> None:
    matcher = StopMatcher(stops, include=include)
    expected, stop = slow_stop(text, stops, include=include)
    shown = ""
    longest = max((len(one) for one in stops), default=1)
    read = 0
    for piece in split(text, cuts):
        read += len(piece)
        shown += matcher.push(piece)
        assert expected.startswith(shown), "half a stop string has leaked"
        if matcher.found:
            break
        assert read - len(shown) < longest, "more is held back than could become a stop string"
    else:
        shown += matcher.flush()
    assert (shown, matcher.found) == (expected, stop)


def test_only_what_may_become_a_stop_string_is_held() -> None:
    matcher = StopMatcher(["\n\nUser:"])
    assert matcher.push("Hello there") == "Hello there"
    assert matcher.push("\n") == ""
    assert matcher.push("\n") == ""
    assert matcher.push("Us") == ""
    assert matcher.push("able") == "\n\nUsable"


def test_stop_string_that_begins_before_it_may_stop() -> None:
    matcher = StopMatcher(["abab"])
    assert matcher.push("xabab", may_stop=False) == "xab"
    assert matcher.push("ab") == ""
    assert matcher.found == "abab"


def test_long_stop_strings_cost_little() -> None:
    matcher = StopMatcher([("a" * 999) + "b"] * 64)
    for _ in range(200):
        matcher.push("a" * 10)
    assert matcher.found is None
    assert len(matcher.flush()) == 999


@pytest.mark.parametrize(("include", "expected"), [(False, "x"), (True, "xstop")])
def test_stop_over_token_boundaries(include: bool, expected: str) -> None:
    text = Detokenizer(ByteTokenizer(), stop=["stop"], include_stop=include)
    pieces = [text.push(byte) for byte in b"xsto"]
    assert "".join(pieces) == "x"
    assert "".join(pieces) + text.push(ord("p")) == expected
    assert text.found == "stop"


def test_stop_inside_a_token() -> None:
    text = Detokenizer(ByteTokenizer(), stop=["本"])
    assert text.push(258 + ByteTokenizer.PIECES.index("日本")) == "日"
    assert text.found == "本"


def test_stop_of_an_emoji_in_bytes() -> None:
    text = Detokenizer(ByteTokenizer(), stop=["😀!"])
    assert [text.push(byte) for byte in "a😀!".encode()] == ["a", "", "", "", "", ""]
    assert text.found == "😀!"


def test_stop_in_what_is_flushed() -> None:
    text = Detokenizer(ByteTokenizer(), stop=[FFFD])
    assert text.push(0xF0) == ""
    assert (text.flush(), text.found) == ("", FFFD)
