"""The products of a decoder, multiplied by an accelerator: quantise, mask, send, receive, unmask, check.

Stands where `native.LocalLinears` stands in a local run, and gives the same bits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import IntegrityError, OffloadError
from cutset.kernels import native
from cutset.link import Frame
from cutset.models.spec import Site
from cutset.offload.arithmetic import INTEGERS, RESIDUES, SUMS
from cutset.offload.client.call_times import CallTimes
from cutset.offload.client.client_weights import ClientMatrix, ClientWeights
from cutset.offload.client.pad import Pad
from cutset.offload.client.pads import PadPool
from cutset.offload.client.ring_calls import RingCalls, RunEnd, Stop
from cutset.offload.client.session import Session, multiply
from cutset.offload.messages import Company, Product
from cutset.offload.modes import Mode

__all__ = ["AskedProduct", "OffloadLinears", "bucket"]

Floats = NDArray[np.float32]
ALONE = 64  # calls without company after which a client takes itself to be alone
AWAKE, BRIEFLY = 0.0005, 0.00002  # seconds: longer than most products take, and hardly any
WRONG_ANSWERS = {
    1: "a value that is no residue",
    2: "a value beyond what its column can reach",
    3: "a product that fails the check",
}


def bucket(rows: int) -> int:
    """The next power of two: what `pad_rows` shows instead of the number of rows."""
    return 1 << (rows - 1).bit_length()


@dataclass(slots=True)
class AskedProduct:
    """A call that was sent: its integers q (n, depth), their scales (n,), and its pad if it has one. Of a convolution
    there is a scale for each position that a row makes."""

    matrix: ClientMatrix
    q: NDArray[np.int16]
    scales: Floats
    pad: Pad | None
    expected: NDArray[np.uint32] | None = None  # what the check must give, where that is known already

    @property
    def rows(self) -> int:
        return len(self.q)

    @property
    def due(self) -> int:
        """Bytes of the answer's array."""
        return 4 * self.rows * self.matrix.outputs


class OffloadLinears:
    """cutset.models.run.native.SplitLinears over a Session. One call at a time; callers wait for each other.

    `run` answers whole steps. On a link in shared memory native code does that (ring_calls.py); what is out of the
    ordinary is done here.
    """

    def __init__(
        self,
        session: Session,
        weights: ClientWeights,
        mode: Mode,
        pool: native.Pool,
        pads: PadPool | None = None,  # in masked modes
        *,
        pad_rows: bool = False,
    ) -> None:
        if mode.masked != (pads is not None):
            raise OffloadError("masked modes need pads, the others have no use for them")
        self.session, self.weights, self.mode, self.pads, self.pad_rows = session, weights, mode, pads, pad_rows
        self.times = CallTimes()
        self.checks_passed = self.checks_failed = 0  # products, and replies that were none
        # Called with the name, the first integers and what is sent instead; for whoever wants to show it.
        self.watch: Callable[[str, list[int], list[int]], None] | None = None
        self.ring_calls: RingCalls | None = None  # None: every call is made here
        self._pool = pool
        self._lock = threading.Lock()
        self._alone = ALONE  # calls since others were seen
        session.stay_awake(AWAKE)

    def __call__(self, site: Site, layer: int, expert: int, rows: Floats, out: Floats) -> None:
        """rows (n, depth) to out (n, outputs). Raises IntegrityError for a wrong product, LinkError without answer."""
        with self._lock, nullcontext() if self.pads is None else self.pads.busy():
            self._call(site, layer, expert, rows, out)

    def run(self, step: native.Step) -> None:
        """Answers all products of a step. Raises what a call raises."""
        with self._lock, nullcontext() if self.pads is None else self.pads.busy():
            while step.waiting is not None:
                end = RunEnd()
                if self.ring_calls is not None and self.watch is None:
                    before = self.times.calls
                    end = self.ring_calls.run(step, self.times)
                    if self.mode.verified:  # native code counts the calls whose answers it found good
                        self.checks_passed += self.times.calls - before
                if end.stop == Stop.DONE:
                    return
                site, layer, expert, rows = step.waiting
                out, rest = step.output, end.rows.start
                if end.sent is not None:
                    self._finish(
                        end.stop, end.sent, self.weights.of(site, layer, expert), rows[end.rows], out[end.rows]
                    )
                    rest = end.rows.stop
                if rest < self._total(len(rows)) or end.sent is None:
                    self._call(site, layer, expert, rows, out, rest)
                self.times.lap("other")
                step.resume()
                self._decoded(step.waiting[0] if step.waiting is not None else None)

    def use_rings(self, core: native.Decoder) -> None:
        """From now on steps of this decoder are answered by native code where the link is in shared memory."""
        self.ring_calls = RingCalls(
            core,
            self.session,
            self.weights,
            self.mode,
            self._pool,
            self.pads,
            (AWAKE, BRIEFLY),
            pad_rows=self.pad_rows,
        )

    def _total(self, rows: int) -> int:
        """Rows of a product as they are sent. They are rounded up once, before anything is split: the accelerator
        chooses how many it takes, and would count the calls."""
        return bucket(rows) if self.pad_rows else rows

    def _call(self, site: Site, layer: int, expert: int, rows: Floats, out: Floats, begin: int = 0) -> None:
        """A product from the row `begin` on, which counts rows as they are sent."""
        # What ran since the last call is the decoder's part of the layer, or the engine between two steps.
        self._decoded(site)
        matrix = self.weights.of(site, layer, expert)
        most, total = self.session.most_rows(matrix.outputs, matrix.depth), self._total(len(rows))
        if self.pad_rows:  # rows of zeros, which go the same way as all others and which a mask makes look like them
            most = bucket(most + 1) // 2
            padded: Floats = np.zeros((total, matrix.depth), dtype=np.float32)
            padded[: len(rows)] = rows
            rows = padded
        for first in range(begin, total, most):
            part = slice(first, first + most)
            self._multiply(matrix, rows[part], out[part])

    def _decoded(self, site: Site | None) -> None:
        """What passed since the last lap is the decoder's work before this site's product."""
        self.times.lap("attention" if site == "o" else "other")

    def _multiply(self, matrix: ClientMatrix, rows: Floats, out: Floats) -> None:
        """Sends rows, of which `out` may have fewer, and even none."""
        times, sent = self.times, len(rows)
        q, scales = native.quantize_rows(rows, matrix.bits, self._pool)
        times.lap("quantise")
        pad = None
        if self.pads is not None:
            lent = [] if self.ring_calls is None else self.ring_calls.take(matrix.number, sent)
            missing = sent - sum(piece.span.rows for piece in lent)
            pad = self.pads.take(matrix.number, missing, self._pool) if missing else Pad([])
            pad = pad.behind(lent)
            times.lap("mask")
        self._ask(AskedProduct(matrix, q, scales, pad), out)

    def _ask(self, asked: AskedProduct, out: Floats) -> None:
        """Sends a call and takes its answer."""
        self.session.send(multiply(asked.matrix.number), self._layout(asked), self._filler(asked), due=asked.due)
        self.times.lap("send")
        self._receive(asked, out)

    def _layout(self, asked: AskedProduct) -> list[tuple[np.dtype[Any], tuple[int, ...]]]:
        return [(INTEGERS if asked.pad is None else RESIDUES, asked.q.shape)]

    def _filler(self, asked: AskedProduct) -> Callable[[list[NDArray[Any]]], None]:
        """Writes what is sent; the same bytes each time."""

        def fill(arrays: list[NDArray[Any]]) -> None:
            self.times.lap("serialise")
            if asked.pad is None:
                arrays[0][...] = asked.q
            else:
                asked.pad.mask(asked.q, arrays[0], self._pool)
            if self.watch is not None:
                self.watch(asked.matrix.name, asked.q[0, :8].tolist(), arrays[0][0, :8].tolist())
            self.times.lap("mask" if asked.pad is not None else "send")

        return fill

    def _finish(self, stop: Stop, sent: native.SentCall, matrix: ClientMatrix, rows: Floats, out: Floats) -> None:
        """A call that native code has sent and couldn't finish."""
        if self.ring_calls is None:
            raise RuntimeError("no call was sent by native code")
        q, scales = sent.q, sent.scales
        if q is None:  # the integers are in the ring alone, where others may write; the same rows give the same again
            q, scales = native.quantize_rows(rows, matrix.bits, self._pool)
        asked = AskedProduct(matrix, q, scales, self.ring_calls.pad(sent), sent.expected)
        if (reply := sent.reply) is not None:
            raise self._lied(asked, reply, *sent.fault)
        record = sent.record if stop == Stop.ODD else None
        again = multiply(matrix.number), self._layout(asked), self._filler(asked), record
        self.session.adopt(*again, broken=stop == Stop.BROKEN, due=asked.due)
        self.times.lap("send")
        self._receive(asked, out)

    def _receive(self, asked: AskedProduct, out: Floats) -> None:
        """Takes the answer of a call. `out` may have fewer rows than were sent, and even none."""
        times, pool, matrix, pad = self.times, self._pool, asked.matrix, asked.pad
        check, expected = matrix.check, asked.expected
        if check is not None and expected is None:
            expected = check.expected(asked.q, pool)  # while the other side multiplies
            times.lap("check")
        message, frame = self.session.receive()
        waited = times.lap("wait")
        reply = self._reply(matrix, message, frame, asked.rows)
        if isinstance(message, Product):
            self._others(message.shared != Company.ALONE)
            times.move("wait", "accelerator", max(0.0, min(waited, message.seconds)))
        whole = np.empty((asked.rows, matrix.outputs), dtype=np.float32) if self.pad_rows else out
        n, width = matrix.positions, len(matrix.scales)
        reply = reply.reshape(-1, width)  # by position, where a row makes several
        masks: list[tuple[slice, NDArray[np.uint32] | None]] = [(slice(0, n * asked.rows), None)]
        if pad is not None:
            masks = [
                (slice(n * part.start, n * part.stop), piece.product.reshape(-1, width)) for part, piece in pad.slices()
            ]
        for part, mask in masks:
            code, row, column = native.settle(
                reply[part],
                asked.scales[part],
                matrix.scales,
                whole[part],
                pad=mask,
                bounds=matrix.bounds if self.mode.verified else None,
                top=matrix.top,
                secrets=None if check is None else check.secrets,
                expected=None if expected is None else expected[part],
                pool=pool,
            )
            if code:
                raise self._lied(asked, np.array(reply).reshape(asked.rows, -1), code, row + part.start, column)
        self.checks_passed += self.mode.verified
        if pad is not None:
            pad.drop()
        if whole is not out:
            out[...] = whole[: len(out)]
        times.lap("unmask")
        frame.release()
        times.calls += 1
        times.rows += asked.rows
        times.bytes_up += asked.q.size * (INTEGERS if pad is None else RESIDUES).itemsize
        times.bytes_down += asked.rows * matrix.outputs * 4
        times.lap("serialise")

    def _others(self, seen: bool) -> None:
        """Whether other clients share the accelerator: then cores are wanted, and waiting here stays asleep."""
        self._alone = 0 if seen else self._alone + 1
        if self._alone in (0, ALONE):
            self.session.stay_awake(BRIEFLY if seen else AWAKE)

    def _reply(self, matrix: ClientMatrix, message: object, frame: Frame, rows: int) -> NDArray[Any]:
        """The one array of an answer, of the shape and type that was asked for."""
        wanted = RESIDUES if self.mode.masked else SUMS
        arrays = frame.arrays
        if not isinstance(message, Product) or len(arrays) != 1:
            raise self.session.broke(f"answered {matrix.name} with something that is no product")
        if arrays[0].dtype != wanted or arrays[0].shape != (rows, matrix.outputs):
            raise self.session.broke(
                f"answered {matrix.name} with {arrays[0].dtype} {arrays[0].shape}, not "
                f"{wanted} {(rows, matrix.outputs)}"
            )
        return arrays[0]

    def _lied(
        self, asked: AskedProduct, reply: NDArray[np.integer], code: int, row: int, column: int
    ) -> IntegrityError:
        """Says who gave a wrong product, and ends the session."""
        self.checks_failed += 1
        matrix, pad = asked.matrix, asked.pad
        where = f"row {row}" + (f", column {column}" if column >= 0 else "")
        what = f"gave {WRONG_ANSWERS[code]} for {matrix.name} ({where})"
        if pad is None or matrix.check is None:
            return self.session.broke(what)
        sent = native.mask(asked.q, pad.r, pool=self._pool)
        blame = matrix.check.blame(sent, reply, pad.r, pad.product, self._pool)
        if not blame.pad_server:
            return self.session.broke(what)
        return self.session.fail(
            IntegrityError(
                f"the {blame} {what}. Nothing of it was used and the session is over: "
                "find out why, or make pads here (leave out --pads-from)"
            )
        )

    def renew(self) -> None:
        """As Session.renew, between two calls."""
        with self._lock:
            self.session.renew()

    def close(self) -> None:
        """Ends the session and the making of pads."""
        self.session.close()
        self.ring_calls = None
        if self.pads is not None:
            self.pads.close()
