"""Items under one number from their source to their result, however often they are sent."""

from __future__ import annotations

import numpy as np

from cutset.cluster.coordinator.items import Item, Items
from cutset.cluster.inputs import SourceItem


def taken(items: Items, *names: tuple[int, int]) -> list[Item]:
    found = [Item(source, number, SourceItem(np.zeros(1)), 0.0, float(number)) for source, number in names]
    for item in found:
        items.take(item)
    return found


def test_an_item_is_sent_again_under_its_number_after_it_was_lost() -> None:
    items = Items()
    first, second, other = taken(items, (0, 0), (0, 1), (1, 0))
    for item in (first, second, other):
        items.send(item, 3, 1.0)
    assert items.in_flight == 3
    assert items.ended(3, 0, 1) is second
    assert items.waiting() == [second]
    items.send(second, 3, 2.0)
    assert (second.attempts, items.in_flight, items.oldest_plan()) == (2, 3, 3)
    assert items.ended(2, 0, 0) is first, "of an earlier plan"
    assert first.in_flight, "by this one it still is"
    items.requeue()
    assert items.waiting() == [first, other, second]
    assert items.oldest_plan() is None


def test_an_item_that_was_given_up_counts_as_in_flight_until_it_comes_back() -> None:
    items = Items()
    [late, next_one] = taken(items, (0, 0), (0, 1))
    items.send(late, 1, 1.0)
    items.send(next_one, 2, 1.0)
    items.finish(late, {}, "too late", 1, 5.0)
    assert [item.number for item in items.deliver()] == [0]
    assert late.result is not None
    assert (late.result.number, late.result.attempts, late.result.sent) == (0, 1, 1.0)
    assert (len(items), items.in_flight, items.oldest_plan(), items.oldest(0)) == (1, 2, 1, 1)
    assert items.ended(2, 0, 0) is None, "another plan's"
    assert items.in_flight == 2
    assert items.ended(1, 0, 0) is None, "it was delivered"
    assert (items.in_flight, items.oldest_plan()) == (1, 2)


def test_results_are_delivered_in_the_order_of_each_source() -> None:
    items = Items()
    a, b, c = taken(items, (0, 0), (0, 1), (1, 0))
    items.finish(b, {}, "", 1, 1.0)
    items.finish(c, {}, "", 1, 1.0)
    assert list(items.deliver()) == [c]
    items.finish(a, {}, "", 1, 2.0)
    assert list(items.deliver()) == [a, b]
    assert len(items) == 0
