"""A look-up that reads all of a table: the rows are right, and so is what is read."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import cutset.kernels._native as native
from cutset.kernels import reference

from .comparing import ISAS, floats, nothing

PAGE = 4096


@pytest.fixture(params=ISAS, autouse=True)
def _isa(request: pytest.FixtureRequest) -> Iterator[None]:
    before = native.isa()
    assert native.select_isa(request.param)
    yield
    native.select_isa(before)


@pytest.mark.parametrize(("entries", "columns"), [(1, 1), (300, 7), (40, 64), (129, 100)])
@pytest.mark.parametrize("rows", [0, 1, 8, 9, 30])
def test_rows_are_those_of_the_table(entries: int, columns: int, rows: int) -> None:
    rng = np.random.default_rng(entries + rows)
    table, ids, out = (
        floats(rng, entries, columns),
        rng.integers(0, entries, rows).astype(np.int32),
        nothing(rows, columns),
    )
    table.reshape(-1)[0] = np.nan  # every bit of an entry goes along, and none of another one
    if rows > 1:
        ids[:2] = 0, entries - 1
    native.scan(table, ids, out)
    assert out.tobytes() == reference.embedding(table, ids).tobytes()


@pytest.mark.parametrize("bad", [-1, 3])
def test_an_id_that_is_no_row_is_refused(bad: int) -> None:
    with pytest.raises(ValueError, match="outside of the table"):
        native.scan(np.zeros((3, 2), np.float32), np.array([0, bad], np.int32), nothing(2, 2))


def pages_read(room: mmap.mmap, table: NDArray[np.float32], ids: NDArray[np.int32], scanned: bool) -> int:
    """How many pages of a table in memory of its own the processor has read, by the kernel's own account."""
    out = nothing(len(ids), table.shape[1])
    address = table.__array_interface__["data"][0]
    Path("/proc/self/clear_refs").write_text("1")
    (native.scan if scanned else native.embedding)(table, ids, out)
    maps = Path("/proc/self/smaps").read_text()
    _, _, mine = maps.partition(f"{address:x}-")
    assert mine
    return int(mine.partition("Referenced:")[2].split()[0]) * 1024 // PAGE


def test_every_page_is_read_whatever_is_wanted() -> None:
    entries = 64
    with mmap.mmap(-1, entries * PAGE) as room:
        table = np.frombuffer(room, np.float32).reshape(entries, PAGE // 4)
        table[:] = np.arange(entries, dtype=np.float32)[:, None]
        for wanted in ([0], [63], [5, 5, 17]):
            ids = np.array(wanted, np.int32)
            assert pages_read(room, table, ids, scanned=True) == entries
            assert pages_read(room, table, ids, scanned=False) < entries // 2  # so that it could be seen
        del table
