"""Trees against twins that follow the standard's recursive definitions word by word."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence

import pytest

from cutset.trust.merkle import (
    EMPTY_ROOT,
    SaltedTree,
    consistency_proof,
    hash_entry,
    inclusion_proof,
    is_consistent,
    is_included,
    log_root,
)
from cutset.trust.verify_receipt import MOST_LEAVES, _root, hash_leaf

Hashes = list[bytes]
MOST = 64
LEAVES = [hash_entry(bytes([index]) * 32) for index in range(MOST)]
ROOTS = [log_root(LEAVES[:size]) for size in range(MOST + 1)]


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def split(count: int) -> int:
    k = 1
    while 2 * k < count:
        k *= 2
    return k


def mth(d: Sequence[bytes]) -> bytes:
    """MTH of RFC 9162, 2.1.1, over hashes of leaves."""
    if not d:
        return hashlib.sha256(b"").digest()
    if len(d) == 1:
        return d[0]
    k = split(len(d))
    return node(mth(d[:k]), mth(d[k:]))


def path(m: int, d: Sequence[bytes]) -> Hashes:
    """PATH of 2.1.3.1."""
    if len(d) == 1:
        return []
    k = split(len(d))
    return [*path(m, d[:k]), mth(d[k:])] if m < k else [*path(m - k, d[k:]), mth(d[:k])]


def subproof(m: int, d: Sequence[bytes], b: bool) -> Hashes:
    """SUBPROOF of 2.1.4.1."""
    if m == len(d):
        return [] if b else [mth(d)]
    k = split(len(d))
    return [*subproof(m, d[:k], b), mth(d[k:])] if m <= k else [*subproof(m - k, d[k:], False), mth(d[:k])]


def test_the_examples_of_certificate_transparency() -> None:
    """The roots that its reference implementation tests with."""
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    roots = {
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    hashes = [hash_entry(bytes.fromhex(one)) for one in inputs]
    for size, root in roots.items():
        assert log_root(hashes[:size]).hex() == root
    assert log_root([]) == EMPTY_ROOT


def test_roots_and_proofs_are_the_standard_s_for_all_sizes() -> None:
    for size in range(1, MOST + 1):
        assert ROOTS[size] == mth(LEAVES[:size])
        for index in range(size):
            assert inclusion_proof(LEAVES[:size], index) == path(index, LEAVES[:size])
        for before in range(1, size):
            assert consistency_proof(LEAVES[:size], before) == subproof(before, LEAVES[:size], True)


def test_a_leaf_is_included_where_it_is_and_nowhere_else() -> None:
    draw = random.Random(3)
    for size in range(1, MOST + 1):
        for index in range(size):
            proof = path(index, LEAVES[:size])
            assert is_included(LEAVES[index], index, size, proof, ROOTS[size])
            other = draw.randrange(MOST)
            assert is_included(LEAVES[other], index, size, proof, ROOTS[size]) == (other == index)
            assert not is_included(LEAVES[index], index + 1, size, proof, ROOTS[size])
            assert not is_included(LEAVES[index], index, size, [*proof, bytes(32)], ROOTS[size])
            assert not proof or not is_included(LEAVES[index], index, size, proof[:-1], ROOTS[size])
            assert not is_included(LEAVES[index], index, size, proof, ROOTS[size - 1])
            for at in range(len(proof)):
                changed = [*proof[:at], node(proof[at], b""), *proof[at + 1 :]]
                assert not is_included(LEAVES[index], index, size, changed, ROOTS[size])
    assert not is_included(LEAVES[0], -1, 1, [], ROOTS[1])
    assert not is_included(LEAVES[0], 0, 0, [], EMPTY_ROOT)


def test_a_log_is_consistent_with_its_own_past_alone() -> None:
    others = [hash_entry(b"x" + bytes([index])) for index in range(MOST)]
    for size in range(MOST + 1):
        for before in range(size + 1):
            proof = consistency_proof(LEAVES[:size], before)
            old, new = ROOTS[before], ROOTS[size]
            assert is_consistent(before, old, size, new, proof)
            assert not is_consistent(before, log_root(others[: before or 1]), size, new, proof)
            assert not is_consistent(before, old, size, new, [*proof, bytes(32)])
            if 0 < before < size:
                assert not is_consistent(before, old, size, log_root([others[0], *LEAVES[1:size]]), proof)
                assert not is_consistent(before, old, size, new, proof[:-1])
                for at in range(len(proof)):
                    changed = [*proof[:at], node(proof[at], b""), *proof[at + 1 :]]
                    assert not is_consistent(before, old, size, new, changed)
            if size:
                assert not is_consistent(size, new, size - 1, ROOTS[size - 1], proof)


def test_a_log_whose_middle_was_changed_proves_nothing() -> None:
    for size in range(2, MOST + 1):
        for before in range(1, size):
            changed = [*LEAVES[: before - 1], hash_entry(b"changed"), *LEAVES[before:size]]
            proof = consistency_proof(changed, before)
            assert not is_consistent(before, ROOTS[before], size, log_root(changed), proof)


# ---- salted trees


def naive_root(tree: SaltedTree) -> bytes:
    level = [hashlib.sha256(b"\0" + tree.salt(i) + content).digest() for i, content in enumerate(tree.contents)]
    return mth(level)


def places(size: int, draw: random.Random) -> Iterator[list[int]]:
    yield list(range(size))
    for index in range(size):
        yield [index]
    for _ in range(8):
        yield sorted(draw.sample(range(size), draw.randrange(1, size + 1)))


def test_leaves_are_shown_and_proven() -> None:
    draw = random.Random(5)
    for count in range(MOST + 1):
        tree = SaltedTree([bytes([index]) for index in range(count)])
        assert len(tree) == max(1, 1 << max(0, count - 1).bit_length())
        assert tree.root == naive_root(tree)
        for wanted in places(len(tree), draw):
            leaves, proof = tree.show(wanted)
            assert [one[0] for one in leaves] == wanted
            hashes = {index: hash_leaf(salt, content) for index, salt, content in leaves}
            rest = iter(proof)
            assert _root(len(tree), hashes, rest) == tree.root
            assert next(rest, None) is None
            if len(tree) > 1:
                moved = {index ^ 1: one for index, one in hashes.items()}
                assert len(wanted) == len(tree) or _other(len(tree), moved, proof) != tree.root


def _other(size: int, hashes: dict[int, bytes], proof: list[bytes]) -> bytes | None:
    try:
        return _root(size, hashes, iter(proof))
    except StopIteration:
        return None


def test_every_leaf_has_a_salt_of_its_own_also_the_blank_ones() -> None:
    """Equal contents have unequal hashes, so nobody who guesses one can check it, and two trees share nothing."""
    trees = [SaltedTree([b"yes"] * 33) for _ in range(2)]
    salts = [tree.salt(index) for tree in trees for index in range(len(tree))]
    assert len(tree_salt := set(salts)) == 128
    assert {len(salt) for salt in tree_salt} == {16}
    hashes = {hash_leaf(tree.salt(i), tree.contents[i]) for tree in trees for i in range(len(tree))}
    assert len(hashes) == 128
    _, proof = trees[0].show([0])
    guessed = {hash_leaf(bytes(16), b"yes"), hashlib.sha256(b"yes").digest(), hashlib.sha256(b"\0yes").digest()}
    assert not guessed & set(proof)


def test_a_tree_has_bounds() -> None:
    with pytest.raises(ValueError, match="at most"):
        SaltedTree([b""] * (MOST_LEAVES + 1), b"")
    with pytest.raises(ValueError, match="a salt for each"):
        SaltedTree([b"a"], b"short")
