"""Masks: the keystream against RFC 8439 and the page's vectors, rejection, seeds."""

import re
from pathlib import Path

import numpy as np
import pytest

from cutset.kernels.reference_field import P
from cutset.offload import arithmetic as masks
from cutset.offload.client.ledger import seed_of

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = next(p for p in (DOCS / "protocol.md", DOCS / "protocol.md") if p.is_file())
SEED = bytes(range(32))


def chacha_block(key, counter, nonce):
    """RFC 8439, section 2.3, written out."""

    def quarter(s, a, b, c, d):
        for x, y, z, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[x] = (s[x] + s[y]) & 0xFFFFFFFF
            value = s[z] ^ s[x]
            s[z] = (value << turn | value >> (32 - turn)) & 0xFFFFFFFF

    words = [int.from_bytes(part[i : i + 4], "little") for part in (key, nonce) for i in range(0, len(part), 4)]
    start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *words[:8], counter, *words[8:]]
    state = list(start)
    for _ in range(10):
        for column in range(4):
            quarter(state, column, column + 4, column + 8, column + 12)
        for i in range(4):
            quarter(state, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return [(a + b) & 0xFFFFFFFF for a, b in zip(start, state, strict=True)]


def test_the_cipher_of_this_test_is_the_rfc_s():
    block = chacha_block(SEED, 1, bytes.fromhex("000000090000004a00000000"))
    assert [f"{word:08x}" for word in block[:4]] == ["e4e7f110", "15593bd1", "1fdd0f50", "c47120a3"]


@pytest.mark.parametrize(("start", "count"), [(0, 0), (0, 100), (15, 2), (16, 16), (1000003, 37), (16 * 70000 - 5, 9)])
def test_residues_are_the_keystream_s_words(start, count):
    expected = []
    for i in range(start, start + count):
        expected.append(chacha_block(SEED, i // 16, bytes(12))[i % 16] & 0x7FFFFFFF)
    got = masks.residues(SEED, count, start)
    assert got.dtype == np.uint32
    assert got.tolist() == expected


def test_pieces_join():
    """Longer than what is encrypted at a time, from any start."""
    all_of_it = masks.residues(SEED, 50_000)
    assert np.array_equal(masks.residues(SEED, 40_000, 9_999), all_of_it[9_999:49_999])
    assert len(set(all_of_it.tolist())) > 49_990
    assert int(all_of_it.max()) < P


def vectors(name):
    return re.findall(rf"^{name} ([0-9a-f]+) (\d+) ([0-9a-f ]+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def test_vectors_of_residues():
    found = vectors("residues")
    assert len(found) >= 3
    for seed, start, words in found:
        wanted = [int(word, 16) for word in words.split()]
        assert masks.residues(bytes.fromhex(seed), len(wanted), int(start)).tolist() == wanted


def test_vectors_of_seeds():
    found = vectors("seed")
    assert len(found) >= 3
    for master, number, seed in found:
        assert seed_of(bytes.fromhex(master), int(number)).hex() == seed


def test_rejected_words_are_drawn_again():
    words = np.array([P, 0x80000005, 0xFFFFFFFF, P - 1], np.uint32)
    asked = []

    def redraw(positions, draw):
        asked.append((positions.tolist(), draw))
        return np.array({1: [7, 0x7FFFFFFF], 2: [0x80000009]}[draw], np.uint32)

    masks.accept(words, redraw)
    assert words.tolist() == [7, 5, 9, P - 1]
    assert asked == [([0, 2], 1), ([2], 2)]


def test_a_source_that_only_gives_p_is_not_waited_for():
    with pytest.raises(RuntimeError, match="again and again"):
        masks.accept(np.full(3, P, np.uint32), lambda positions, draw: np.full(len(positions), P, np.uint32))


def test_redrawn_residues_come_from_their_own_place(monkeypatch):
    """As if word 20 of the first draw were P: the next draw has another nonce and the same counter."""
    real = masks._words
    start = 3

    def first_is_p(seed, count, at, draw):
        words = real(seed, count, at, draw).copy()
        if draw == 0:
            words[20 - at] = 0xFFFFFFFF
        return words

    expected = masks.residues(SEED, 40, start)
    monkeypatch.setattr(masks, "_words", first_is_p)
    got = masks.residues(SEED, 40, start)
    redrawn = chacha_block(SEED, 1, b"\1" + bytes(11))[4] & 0x7FFFFFFF
    assert got[20 - start] == redrawn != expected[20 - start]
    assert np.array_equal(np.delete(got, 20 - start), np.delete(expected, 20 - start))


def test_what_a_seed_does_not_have():
    for seed, count, start in ((bytes(31), 1, 0), (SEED, -1, 0), (SEED, 1, -1), (SEED, 1, masks.MOST_WORDS)):
        with pytest.raises(ValueError, match="a seed has"):
            masks.residues(seed, count, start)


def test_random_residues_differ():
    a, b = masks.random_residues(1000), masks.random_residues(1000)
    assert a.dtype == np.uint32
    assert int(a.max()) < P
    assert (a != b).sum() > 990
    a[0] = 1  # writable
