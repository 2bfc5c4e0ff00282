"""From a reply to an output: right replies, and every kind of wrong one, on every instruction set."""

import numpy as np
import pytest

from cutset.kernels import _native as native
from cutset.kernels import reference_field as field
from cutset.kernels.reference_field import HALF, P

POOL = native.Pool(2)
SHAPES = [(1, 1), (3, 5), (2, 16), (5, 33), (9, 1024), (70, 1100), (130, 600), (2, 2300)]


@pytest.fixture(params=native.available_isas(), autouse=True)
def isa(request):
    before = native.isa()
    assert native.select_isa(request.param)
    yield request.param
    native.select_isa(before)


class Case:
    """A right reply, with z at the bounds and at the field's ends here and there."""

    def __init__(self, n, outputs, *, masked=True, checks=2, bounded=True, seed=0):
        rng = np.random.default_rng(seed + 7 * n + outputs)
        self.shape = (n, outputs)
        self.bounds = rng.integers(0, 4096 * 127, outputs).astype(np.int32)
        self.bounds[rng.random(outputs) < 0.1] = 0
        self.top = 2047
        self.limit = np.minimum(self.bounds.astype(np.int64) * self.top, HALF) if bounded else np.full(outputs, HALF)
        self.z = np.rint((rng.random(self.shape) * 2 - 1) * self.limit).astype(np.int64)
        edge = rng.random(self.shape)
        self.z = np.where(edge < 0.1, self.limit, np.where(edge > 0.9, -self.limit, self.z))
        self.scales = rng.random(n, np.float32), rng.standard_normal(outputs, np.float32)
        self.pad = rng.choice(np.array([0, 1, HALF, HALF + 1, P - 1], np.uint32), self.shape)
        self.pad = np.where(rng.random(self.shape) < 0.5, self.pad, rng.integers(0, P, self.shape, np.uint32))
        self.masked, self.checks, self.bounded = masked, checks, bounded
        self.secrets = rng.integers(0, P, (max(checks, 1), outputs), np.uint32)
        self.secrets[:, rng.random(outputs) < 0.1] = P - 1
        self.expected = field.dots((self.z % P).astype(np.uint32), self.secrets)

    def reply(self):
        if self.masked:
            return ((self.z + self.pad) % P).astype(np.uint32)
        return self.z.astype(np.int32)

    def options(self):
        options = {}
        if self.masked:
            options["pad"] = self.pad
        if self.bounded:
            options |= {"bounds": self.bounds, "top": self.top}
        if self.checks:
            options |= {"secrets": self.secrets, "expected": self.expected}
        return options

    def run(self, reply, pool=POOL):
        """The native result and output, which are the twin's, within an output between two guards."""
        outputs = self.shape[1]
        room = np.full((self.shape[0] + 2, outputs), np.nan, np.float32)
        room[0] = room[-1] = 77
        verdict = native.settle(reply, *self.scales, room[1:-1], pool=pool, **self.options())
        twin = np.full(self.shape, np.nan, np.float32)
        assert verdict == field.settle(reply, *self.scales, twin, **self.options())
        assert np.array_equal(room[1:-1], twin)
        assert (room[[0, -1]] == 77).all()
        return verdict


@pytest.mark.parametrize(("n", "outputs"), SHAPES)
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("checks", [0, 1, 2])
def test_right_replies(n, outputs, masked, checks):
    for bounded in (True, False):
        case = Case(n, outputs, masked=masked, checks=checks, bounded=bounded)
        for pool in (None, POOL):
            assert case.run(case.reply(), pool) == (0, -1, -1)


@pytest.mark.parametrize(("n", "outputs"), SHAPES)
def test_one_wrong_element(n, outputs):
    case = Case(n, outputs)
    case.z //= 2
    case.expected = field.dots((case.z % P).astype(np.uint32), case.secrets)
    rng = np.random.default_rng(1)
    for _ in range(6):
        row, column = int(rng.integers(n)), int(rng.integers(outputs))
        limit, reply = int(case.limit[column]), case.reply().astype(np.int64)
        if limit > 2:  # else one more is out of bounds already
            reply[row, column] = (reply[row, column] + 1) % P
            assert case.run(reply.astype(np.uint32)) == (3, row, -1)
        for z in (limit + 1, -limit - 1) if limit < HALF else ():
            reply[row, column] = (z + int(case.pad[row, column])) % P
            assert case.run(reply.astype(np.uint32)) == (2, row, column)
        for foreign in (P, P + 1, 2**31, 2**32 - 1):
            reply[row, column] = foreign
            assert case.run(reply.astype(np.uint32)) == (1, row, column)


def test_p_added_is_a_lie():
    """The same number mod P, but not canonical."""
    case = Case(3, 40)
    reply = case.reply()
    row, column = np.argwhere(reply < 2**31)[11]
    reply[row, column] += np.uint32(P)
    assert case.run(reply) == (1, row, column)


def test_the_first_of_several_faults_is_named():
    case = Case(130, 2300)
    right = case.reply()
    reply = right.copy()
    reply[100, 3] = P
    assert case.run(reply) == (1, 100, 3)
    reply[90, 2200] = P
    assert case.run(reply) == (1, 90, 2200)
    free = int(np.flatnonzero((case.limit > 9) & (case.limit < HALF))[0])
    reply[90, free] = (case.limit[free] + 1 + int(case.pad[90, free])) % P
    assert case.run(reply) == (2, 90, free)
    reply[40, free] = (int(case.pad[40, free]) + (0 if case.z[40, free] else 1)) % P
    assert case.run(reply) == (3, 40, -1)
    assert case.run(right) == (0, -1, -1)


def test_each_check_counts():
    for wrong in (0, 1):
        case = Case(70, 300)
        case.expected[66, wrong] = (int(case.expected[66, wrong]) + 1) % P
        assert case.run(case.reply()) == (3, 66, -1)


def test_a_wrong_pad_is_found():
    case = Case(3, 50)
    reply = case.reply()
    column = int(np.flatnonzero((case.limit > 9) & (case.limit < HALF))[0])
    case.pad[1, column] = (int(case.pad[1, column]) + (1 if case.z[1, column] > 0 else P - 1)) % P
    assert case.run(reply) == (3, 1, -1)


@pytest.mark.parametrize("z", [-(2**31), 2**31 - 1, HALF + 1, -HALF - 1])
def test_integers_outside_of_the_field_are_out_of_bounds(z):
    for n, bounded in ((40, True), (16, False), (3, False)):
        case = Case(2, n, masked=False, bounded=bounded)
        reply = case.reply()
        reply[1, n - 1] = z
        assert case.run(reply) == (2, 1, n - 1)


def test_no_rows_and_bounds_that_overflow():
    case = Case(0, 8)
    assert case.run(np.empty((0, 8), np.uint32)) == (0, -1, -1)
    case = Case(2, 40)
    case.bounds[:] = 2**31 - 1
    assert case.run(case.reply()) == (0, -1, -1)
    case.bounds[:] = -1
    assert case.run(case.reply())[0] == 2


def test_what_does_not_fit_is_refused():
    case = Case(3, 40)
    reply, out = case.reply(), np.zeros((3, 40), np.float32)
    rows, columns = case.scales
    refused = [
        ("reply must be of type int32", (reply, rows, columns, out), {}),
        ("reply must be of type uint32", (reply.view(np.int32), rows, columns, out), {"pad": case.pad}),
        ("pad must have shape", (reply, rows, columns, out), {"pad": case.pad[:2]}),
        ("row_scales must have 3", (reply, rows[:2], columns, out), {"pad": case.pad}),
        ("output_scales must have 40", (reply, rows, rows, out), {"pad": case.pad}),
        ("out must have shape", (reply, rows, columns, out[:2]), {"pad": case.pad}),
        ("bounds must have 40", (reply, rows, columns, out), {"pad": case.pad, "bounds": case.bounds[:3]}),
        ("go together", (reply, rows, columns, out), {"pad": case.pad, "secrets": case.secrets}),
        ("one row or two", (reply, rows, columns, out), case.options() | {"secrets": np.ones((3, 40), np.uint32)}),
        ("expected must have shape", (reply, rows, columns, out), case.options() | {"expected": case.expected[:2]}),
        ("overlap", (reply, rows, columns, reply.view(np.float32)), {"pad": case.pad}),
    ]
    for message, arguments, options in refused:
        with pytest.raises(ValueError, match=message):
            native.settle(*arguments, **options)
