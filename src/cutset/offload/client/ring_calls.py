"""Calls in native code: whole steps of a decoder over a link in shared memory, without Python in between.

`cutset.offload.client.linears` is its slow twin, and finishes what stops here; the bytes on the link are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from cutset.config import usable_cores
from cutset.kernels import native
from cutset.link import RingLink
from cutset.offload.client.call_times import CallTimes
from cutset.offload.client.client_weights import ClientWeights
from cutset.offload.client.pad import Pad, PadPiece
from cutset.offload.client.pads import PadPool
from cutset.offload.client.session import Session
from cutset.offload.modes import Mode

__all__ = ["RingCalls", "RunEnd", "Stop"]

PATIENCE = 1.0  # seconds that native code waits for an answer; whether the other side lives is looked after here


class Stop(IntEnum):
    """How far native code got, as native/offload/client.h numbers it."""

    DONE = 0  # the step is done
    BEFORE = 1  # nothing was sent of the product that the step waits for
    NO_PAD = 2  # the same, since there aren't enough rows of pads
    UNANSWERED = 3  # it was sent, and no answer came for a while
    ODD = 4  # something else came than the usual answer
    BROKEN = 5  # the ring makes no sense any more
    LIED = 6  # the answer is wrong


@dataclass(frozen=True, slots=True)
class RunEnd:
    """Why a run ended, and at which call of the product that the step waits for: `count` rows from `first` on. The
    rows before are answered. `sent`: that call, where it was sent."""

    stop: Stop = Stop.BEFORE
    first: int = 0
    count: int = 0
    sent: native.SentCall | None = None

    @property
    def rows(self) -> slice:
        """The rows of the call."""
        return slice(self.first, self.first + self.count)


class RingCalls:
    """Steps over `session`, in native code. The caller holds the linears' lock.

    Pads are lent to native code by the block: they count as handed out from then on, whatever happens.
    """

    def __init__(
        self,
        core: native.Decoder,
        session: Session,
        weights: ClientWeights,
        mode: Mode,
        pool: native.Pool,
        pads: PadPool | None,
        awake: tuple[float, float],  # seconds: alone, and where others share the accelerator
        *,
        pad_rows: bool,
    ) -> None:
        matrices = [
            native.RemoteMatrix(
                site,
                layer,
                expert,
                number=number,
                bits=matrix.bits,
                depth=matrix.depth,
                scales=matrix.scales,
                bounds=matrix.bounds if mode.verified else None,
                secrets=None if matrix.check is None else matrix.check.secrets,
                projected=None if matrix.check is None else matrix.check.projected,
            )
            for (site, layer, expert), number in weights.numbers.items()
            for matrix in [weights.matrices[number]]
        ]
        awake = awake if usable_cores() > 1 else (0.0, 0.0)
        self._remote = native.RemoteLinears(core, pool, matrices, masked=mode.masked, pad_rows=pad_rows, awake=awake)
        self._session, self._pads = session, pads
        self._link: RingLink | None = None
        self._lent: dict[int, PadPiece] = {}  # that native code may use, by a name of its own
        self._names = 0

    def run(self, step: native.Step, times: CallTimes) -> RunEnd:
        """Answers products of a step until it is done, or something is out of the ordinary."""
        link = self._session.ring_link()
        rings = None if link is None else link.rings()
        if rings is None:
            return RunEnd()
        if self._pads is not None:
            self._pads.ledger.check_process()
        if link is not self._link:
            self._remote.attach(*rings)
            self._link = link
        row = 0
        while True:
            outcome = self._once(step, row, times)
            stop, row = Stop(outcome.stop), outcome.row
            if stop != Stop.NO_PAD:
                return RunEnd(stop, row, outcome.rows, outcome.sent)
            if not self._borrow(outcome.matrix, outcome.rows):
                return RunEnd(Stop.BEFORE, row, outcome.rows)

    def _once(self, step: native.Step, row: int, times: CallTimes) -> native.RunOutcome:
        """One run of native code; `row`: the first of the step's product that isn't answered yet."""
        session = self._session
        request = native.RunRequest(
            step,
            calls=session.calls,
            most_rows=session.capabilities.max_rows,
            row=row,
            patience=min(PATIENCE, session.patience.resend),
            count_cpu=times.count_cpu,
        )
        try:
            outcome = self._remote.run(request)
        finally:
            session.calls = max(session.calls, self._remote.calls)  # what was sent before an error counts too
        times.add(outcome)
        if self._pads is not None and (spent := outcome.spent):
            self._pads.spend(spent)
        return outcome

    def take(self, number: int, rows: int) -> list[PadPiece]:
        """Lent rows of a matrix for a call that isn't made here: as many as there are, at most `rows`."""
        rows = min(rows, self._remote.left(number))
        if not rows or self._pads is None:
            return []
        self._pads.spend({number: rows})
        return [self._piece(*piece) for piece in self._remote.take(number, rows)]

    def pad(self, sent: native.SentCall) -> Pad | None:
        """The pad that a call was masked with."""
        return None if self._pads is None else Pad([self._piece(*piece) for piece in sent.pad])

    def _piece(self, name: int, first: int, rows: int) -> PadPiece:
        return self._lent[name].part(first, rows)

    def _borrow(self, number: int, rows: int) -> bool:
        """True once so many rows of pads of a matrix are lent. A rest that is too small is for the slow twin to use."""
        if self._pads is None:
            return False
        while self._remote.left(number) < rows:
            if (lent := self._pads.lend(number)) is None:
                return False
            self._names += 1
            for name in self._remote.lend(number, self._names, lent.r, lent.product):
                del self._lent[name]
            self._lent[self._names] = lent
        return True
