"""Comparison of result files: ratios, never absolute figures."""

import math

import pytest

from cutset.compare.diff import compare
from cutset.compare.results import MachineInfo, Results, Row
from cutset.errors import ConfigError

MACHINE = MachineInfo("cpu", 2, 2, {})


def results(*rows):
    """Rows as (system, value) or (system, value, spread), of one workload in tok/s; or whole Rows."""
    made = []
    for row in rows:
        if not isinstance(row, Row):
            system, value, *spread = row
            row = Row("w", system, "decode", value, "tok/s", *spread)
        made.append(row)
    return Results("c", MACHINE, tuple(made))


def lines(old, new, tolerance=0.1):
    return [(x.system, x.against, x.verdict) for x in compare(results(*old), results(*new), tolerance).lines]


def test_a_slower_machine_is_no_regression():
    old, new = [("cutset", 100.0), ("rival", 50.0)], [("cutset", 10.0), ("rival", 5.0)]
    comparison = compare(results(*old), results(*new))
    assert not comparison.failed
    (line,) = comparison.lines
    assert (line.verdict, line.old, line.new, line.change) == ("same", 2.0, 2.0, 1.0)


def test_regression_and_improvement_where_more_is_better():
    old = [("cutset", 100.0), ("rival", 50.0)]
    assert lines(old, [("cutset", 80.0), ("rival", 50.0)]) == [("cutset", "rival", "regression")]
    assert lines(old, [("cutset", 120.0), ("rival", 50.0)]) == [("cutset", "rival", "improvement")]
    assert lines(old, [("cutset", 91.0), ("rival", 50.0)]) == [("cutset", "rival", "same")]
    assert lines(old, [("cutset", 91.0), ("rival", 50.0)], 0.05) == [("cutset", "rival", "regression")]
    # Faster than before, but the rival gained more: that is worse.
    assert lines(old, [("cutset", 110.0), ("rival", 80.0)]) == [("cutset", "rival", "regression")]


def test_regression_and_improvement_where_less_is_better():
    def seconds(ours, rival):
        return [Row("w", "cutset", "load", ours, "s"), Row("w", "rival", "load", rival, "s")]

    assert lines(seconds(1.0, 2.0), seconds(1.3, 2.0)) == [("cutset", "rival", "regression")]
    assert lines(seconds(1.0, 2.0), seconds(0.8, 2.0)) == [("cutset", "rival", "improvement")]
    assert lines(seconds(1.0, 2.0), seconds(1.05, 2.0)) == [("cutset", "rival", "same")]


def test_each_opponent_is_a_pair():
    old = [("cutset", 4.0), ("a", 2.0), ("b", 1.0)]
    new = [("cutset", 4.0), ("a", 2.0), ("b", 2.0)]
    assert lines(old, new) == [("cutset", "a", "same"), ("cutset", "b", "regression")]


def test_noise_within_the_spread():
    old, new = [("cutset", 100.0, 0.2), ("rival", 50.0, 0.0)], [("cutset", 75.0, 0.3), ("rival", 50.0)]
    (line,) = compare(results(*old), results(*new)).lines
    assert line.verdict == "same"
    assert line.allowed == pytest.approx(math.hypot(0.2, 0.3))
    assert lines(old, [("cutset", 60.0, 0.3), ("rival", 50.0)]) == [("cutset", "rival", "regression")]


def test_gone_and_new_rows():
    old = [("cutset", 1.0), ("cutset int8", 2.0), ("rival", 1.0)]
    assert lines(old, old[1:]) == [("cutset", "", "gone"), ("cutset int8", "rival", "same")]
    # An opponent that is gone takes its pairs with it, so it can't go unseen.
    assert lines(old, old[:2]) == [("rival", "", "gone")]
    comparison = compare(results(*old[1:]), results(*old))
    assert not comparison.failed
    assert comparison.count("new") == 1
    assert compare(results(*old), results()).count("gone") == 3


def test_own_systems_are_compared_with_the_slow_twin():
    old = [("cutset native", 10.0), ("cutset reference", 1.0), ("cutset torch", 5.0)]
    new = [("cutset native", 5.0), ("cutset reference", 1.0), ("cutset torch", 5.0)]
    assert lines(old, new) == [
        ("cutset native", "cutset reference", "regression"),
        ("cutset torch", "cutset reference", "same"),
    ]
    first = [("cutset one", 1.0), ("cutset two", 2.0)]
    assert lines(first, first) == [("cutset two", "cutset one", "same")]


def test_rows_that_cannot_be_compared_are_listed():
    alone = [("cutset", 100.0)]
    comparison = compare(results(*alone), results(("cutset", 1.0)))  # a hundred times slower says nothing by itself
    (line,) = comparison.lines
    assert (line.verdict, line.note) == ("not comparable", "no two systems to divide")
    assert not comparison.failed
    assert lines([("rival", 1.0)], [("rival", 1.0)]) == [("rival", "", "not comparable")]


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ((1.0, 0.0), (1.0, 1.0), "not comparable"),
        ((1.0, 1.0), (1.0, 0.0), "not comparable"),
        ((math.nan, 1.0), (1.0, 1.0), "not comparable"),
        ((1.0, 1.0), (1.0, math.nan), "not comparable"),
        ((-1.0, 1.0), (1.0, 1.0), "not comparable"),
        ((1.0, 1.0), (math.nan, 1.0), "regression"),
        ((1.0, 1.0), (-1.0, 1.0), "regression"),
        ((1.0, 1.0), (math.inf, 1.0), "regression"),
        ((1.0, 1.0), (0.0, 1.0), "regression"),
        ((0.0, 1.0), (0.0, 1.0), "same"),
        ((0.0, 1.0), (1.0, 1.0), "improvement"),
        ((1.0, 1.0), (1e300, 1e-300), "not comparable"),
    ],
)
def test_zero_and_not_a_number(old, new, verdict):
    rows = [[("cutset", ours), ("rival", rival)] for ours, rival in (old, new)]
    assert lines(*rows) == [("cutset", "rival", verdict)]


def test_an_error_that_was_zero_and_is_not_any_more():
    def errors(ours):
        return [Row("w", "cutset", "error", ours, "rel error"), Row("w", "rival", "error", 1e-2, "rel error")]

    assert lines(errors(0.0), errors(1e-9)) == [("cutset", "rival", "regression")]
    assert lines(errors(1e-9), errors(0.0)) == [("cutset", "rival", "improvement")]
    assert lines(errors(0.0), errors(0.0)) == [("cutset", "rival", "same")]


def test_units():
    one = [Row("w", "cutset", "load", 1.0, "s"), Row("w", "rival", "load", 2.0, "s")]
    milli = [Row("w", "cutset", "load", 1000.0, "ms"), Row("w", "rival", "load", 2000.0, "ms")]
    assert lines(one, milli) == [("cutset", "rival", "same")]  # a ratio has no unit
    mixed = [one[0], milli[1]]
    assert lines(mixed, mixed) == [("cutset", "rival", "not comparable")]
    strange = [Row("w", system, "m", 1.0, "furlong") for system in ("cutset", "rival")]
    with pytest.raises(ConfigError, match="unit 'furlong'"):
        lines(strange, strange)


@pytest.mark.parametrize("tolerance", [-0.1, math.nan, math.inf])
def test_tolerance(tolerance):
    with pytest.raises(ConfigError, match="the tolerance must be a finite number of 0 or more"):
        compare(results(), results(), tolerance)
