"""The hot call in native code: whole steps of a decoder over a link in shared memory, without Python in between.

`cutset.offload.client.linears` is its slow twin, and finishes what stops here; the bytes on the link are the same.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from numpy.typing import NDArray

from cutset.config import usable_cores
from cutset.kernels.native import extension
from cutset.offload.client.ledger import Span
from cutset.offload.client.pad import Pad
from cutset.offload.client.pads import PadPool
from cutset.offload.client.parts import Parts
from cutset.offload.client.session import Session
from cutset.offload.client.weights import ClientWeights
from cutset.offload.modes import Mode

__all__ = ["HotCalls", "Stop"]

PATIENCE = 1.0  # seconds that native code waits for an answer; whether the other side lives is looked after here
Lent = tuple[Any, Any, Span]  # R (n, depth), R . W^T (n, outputs), and which rows they are


class Stop(IntEnum):
    """How far native code got, as native/offload/client.h numbers it."""

    DONE = 0  # the step is done
    BEFORE = 1  # nothing was sent of the product that the step waits for
    NO_PAD = 2  # the same, since there aren't enough rows of pads
    UNANSWERED = 3  # it was sent, and no answer came for a while
    ODD = 4  # something else came than the usual answer
    BROKEN = 5  # the ring makes no sense any more
    LIED = 6  # the answer is wrong


class HotCalls:
    """Steps over `session`, in native code. The caller holds the linears' lock.

    Pads are lent to native code by the block: they count as handed out from then on, whatever happens.
    """

    def __init__(
        self,
        core: Any,  # native.Decoder
        session: Session,
        weights: ClientWeights,
        mode: Mode,
        pool: Any,
        pads: PadPool | None,
        awake: tuple[float, float],  # seconds: alone, and where others share the accelerator
        *,
        pad_rows: bool,
    ) -> None:
        self._session, self._pads = session, pads
        self._remote = extension().RemoteLinears(core, pool, masked=mode.masked, pad_rows=pad_rows)
        cores = usable_cores()
        self._remote.stay_awake(*(awake if cores > 1 else (0.0, 0.0)))
        for (site, layer, expert), number in weights.numbers.items():
            matrix = weights.matrices[number]
            self._remote.put(
                site,
                layer,
                expert,
                number=number,
                bits=matrix.bits,
                scales=matrix.scales,
                bounds=matrix.bounds if mode.verified else None,
                secrets=None if matrix.check is None else matrix.check.secrets,
                projected=None if matrix.check is None else matrix.check.projected,
                depth=matrix.depth,
            )
        self._link: Any = None
        self._lent: dict[int, Lent] = {}  # by a name of its own
        self._names: dict[int, list[int]] = {}  # of what was lent of a matrix and may be in use
        self._left: dict[int, int] = {}  # rows of it, as the pool of pads was last told
        self._next = 0

    def run(self, step: Any, parts: Parts) -> Stop:
        """Answers products of a native.Step until it is done, or something is out of the ordinary."""
        self._remote.row = 0
        ring = self._session.ring()
        if ring is None:
            return Stop.BEFORE
        if self._pads is not None:
            self._pads.ledger.check_process()
        link, sender, receiver = ring
        remote = self._remote
        if link is not self._link:
            remote.attach(sender, receiver)
            self._link = link
        remote.calls, remote.most_rows = self._session.calls, self._session.capabilities.max_rows
        remote.count_cpu = parts.count_cpu
        remote.patience = min(PATIENCE, self._session.patience.resend)
        while True:
            try:
                stop = Stop(step.run_by(remote))
            finally:
                self._session.calls = remote.calls
            parts.add(*remote.laps)
            calls, rows, up, down = remote.counters
            parts.calls, parts.rows = parts.calls + calls, parts.rows + rows
            parts.bytes_up, parts.bytes_down = parts.bytes_up + up, parts.bytes_down + down
            self._spend()
            if stop != Stop.NO_PAD:
                return stop
            if not self._borrow(remote.number, remote.wanted):
                return Stop.BEFORE

    @property
    def rows(self) -> slice:
        """Of the product that the step waits for: those of the call that was stopped at. Those before are answered."""
        return slice(self._remote.row, self._remote.row + self._remote.wanted)

    def take(self, number: int, rows: int) -> list[Lent]:
        """Lent rows of a matrix for a call that isn't made here: as many as there are, at most `rows`."""
        rows = min(rows, self._remote.left(number))
        taken = [self._piece(*piece) for piece in self._remote.take(number, rows)] if rows else []
        self._spend()
        return taken

    def sent(self) -> tuple[NDArray[Any] | None, NDArray[Any], NDArray[Any] | None, Pad | None]:
        """Of the call that was stopped at: its integers, if they were kept, their scales, what its check must give, and
        its pad."""
        q, scales, expected = self._remote.sent()
        if self._pads is None:
            return q, scales, expected, None
        return q, scales, expected, Pad([]).behind([self._piece(*piece) for piece in self._remote.pad])

    def record(self) -> tuple[int, int, int, int, int]:
        """What came from the ring and wasn't the usual answer."""
        record: tuple[int, int, int, int, int] = self._remote.record
        return record

    def answer(self) -> NDArray[Any]:
        """A copy of the answer that is wrong."""
        answer: NDArray[Any] = self._remote.answer()
        return answer

    def verdict(self) -> tuple[int, int, int]:
        """What is wrong with it, and in which row and column."""
        verdict: tuple[int, int, int] = self._remote.verdict
        return verdict

    def _piece(self, name: int, first: int, rows: int) -> Lent:
        r, product, span = self._lent[name]
        part = slice(first, first + rows)
        return r[part], product[part], Span(span.block, span.start + first, rows)

    def _borrow(self, number: int, rows: int) -> bool:
        """True once so many rows of pads of a matrix are lent. A rest that is too small is for the slow twin to use."""
        if self._pads is None:
            return False
        names, remote = self._names.setdefault(number, []), self._remote
        left = remote.left(number)
        while names and sum(self._lent[name][2].rows for name in names[1:]) >= left:  # the oldest is used up
            remote.let_go(names[0])
            del self._lent[names.pop(0)]
        while remote.left(number) < rows:
            if (lent := self._pads.lend(number)) is None:
                return False
            self._next += 1
            self._lent[self._next] = lent
            names.append(self._next)
            remote.lend(number, self._next, lent[0], lent[1])
            self._left[number] = remote.left(number)
        return True

    def _spend(self) -> None:
        """Tells the pool of pads how many of the lent rows were used."""
        if self._pads is None:
            return
        spent = {}
        for number, before in self._left.items():
            if (left := self._remote.left(number)) != before:
                spent[number], self._left[number] = before - left, left
        if spent:
            self._pads.spend(spent)
