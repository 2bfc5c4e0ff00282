"""The block pool: every block is free or held, the oldest goes first, and nothing leaks whatever is done."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from cutset.engine.blocks import BlockPool, child_digest, root_digest


def tokens(number: int) -> bytes:
    return number.to_bytes(4, "little")


def digest(number: int) -> bytes:
    return child_digest(root_digest(None), tokens(number))


def test_allocates_each_block_once() -> None:
    pool = BlockPool(4)
    assert sorted(pool.allocate(3) + pool.allocate(1)) == [0, 1, 2, 3]
    assert pool.free == 0
    with pytest.raises(ValueError, match="1 blocks wanted, 0 are free"):
        pool.allocate(1)


def test_release_twice_is_an_error() -> None:
    pool = BlockPool(2)
    held = pool.allocate(1)
    pool.release(held)
    with pytest.raises(ValueError, match="nobody holds it"):
        pool.release(held)


def test_found_after_release_until_it_is_needed() -> None:
    pool = BlockPool(2)
    [block] = pool.allocate(1)
    assert pool.find(digest(1), tokens(1)) is None
    pool.publish(block, digest(1), tokens(1))
    pool.release([block])
    assert pool.find(digest(1), tokens(1)) == block
    pool.allocate(1)  # the other one, which holds nothing
    assert pool.find(digest(1), tokens(1)) == block
    assert pool.allocate(1) == [block]
    assert pool.find(digest(1), tokens(1)) is None


def test_a_digest_is_not_enough() -> None:
    pool = BlockPool(1)
    [block] = pool.allocate(1)
    pool.publish(block, digest(1), tokens(1))
    assert pool.find(digest(1), tokens(2)) is None


def test_the_end_of_a_sequence_goes_before_its_beginning_and_the_oldest_first() -> None:
    pool = BlockPool(4)
    first, second = pool.allocate(2), pool.allocate(2)
    for block in first + second:
        pool.publish(block, digest(block), tokens(block))
    pool.release(second)
    pool.release(first)
    assert pool.allocate(4) == [*reversed(second), *reversed(first)]


def test_a_shared_block_is_young_again() -> None:
    pool = BlockPool(2)
    first, second = pool.allocate(2)
    for block in (first, second):
        pool.publish(block, digest(block), tokens(block))
        pool.release([block])
    pool.share([first])
    assert pool.free == 1
    pool.release([first])
    assert pool.allocate(2) == [second, first]


def test_what_cannot_be_found_is_used_first() -> None:
    pool = BlockPool(3)
    table = pool.allocate(3)
    for block in table[:2]:
        pool.publish(block, digest(block), tokens(block))
    pool.release(table[:2])
    pool.release(table[2:])
    assert pool.allocate(1) == [table[2]]


def test_published_again_after_it_was_forgotten() -> None:
    pool = BlockPool(1)
    for _ in range(3):
        [block] = pool.allocate(1)
        assert pool.find(digest(1), tokens(1)) is None
        pool.publish(block, digest(1), tokens(1))
        assert pool.find(digest(1), tokens(1)) == block
        pool.release([block])


def test_equal_content_is_published_once() -> None:
    pool = BlockPool(2)
    first, second = pool.allocate(2)
    pool.publish(first, digest(1), tokens(1))
    pool.publish(second, digest(1), tokens(1))
    assert pool.find(digest(1), tokens(1)) == first
    pool.release([second])
    assert pool.allocate(1) == [second]
    assert pool.find(digest(1), tokens(1)) == first


def test_digests_tell_salts_parents_and_tokens_apart() -> None:
    roots = [root_digest(salt) for salt in (None, "", "a", "shared")]
    children = [child_digest(root, tokens(number)) for root in roots for number in (1, 2)]
    assert len({*roots, *children}) == 12


class Pool(RuleBasedStateMachine):
    """Random operations beside a model that knows only who holds what."""

    tables = Bundle("tables")

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(8)
        self.held: Counter[int] = Counter()
        self.known: dict[int, int] = {}  # published number -> block
        self.next = 0

    @rule(target=tables, count=st.integers(0, 4))
    def allocate(self, count: int) -> list[int]:
        if count > self.pool.free:
            with pytest.raises(ValueError):
                self.pool.allocate(count)
            return []
        taken = self.pool.allocate(count)
        assert all(self.held[block] == 0 for block in taken)
        self.held.update(taken)
        self.known = {number: block for number, block in self.known.items() if block not in taken}
        return taken

    @rule(table=tables, number=st.integers(0, 5))
    def publish(self, table: list[int], number: int) -> None:
        for block in table[:1]:
            if self.held[block]:
                self.pool.publish(block, digest(number), tokens(number))
                if number not in self.known and block not in self.known.values():
                    self.known[number] = block

    @precondition(lambda self: self.known)
    @rule(target=tables, number=st.integers(0, 5))
    def share(self, number: int) -> list[int]:
        block = self.pool.find(digest(number), tokens(number))
        assert block == self.known.get(number)
        if block is None:
            return []
        self.pool.share([block])
        self.held[block] += 1
        return [block]

    @rule(table=consumes(tables))
    def release(self, table: list[int]) -> None:
        self.pool.release(table)
        self.held.subtract(table)

    @invariant()
    def free_is_what_nobody_holds(self) -> None:
        assert self.pool.free == 8 - sum(1 for block in range(8) if self.held[block] > 0)
        assert all(self.pool.is_free(block) == (self.held[block] == 0) for block in range(8))


TestPool = Pool.TestCase
