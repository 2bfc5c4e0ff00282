"""One pad: the mask R of one set of bytes, and its product R . W^T."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cutset.errors import OffloadError
from cutset.kernels import native
from cutset.kernels.reference_field import Residues
from cutset.offload.client.ledger import PadSpan

__all__ = ["Pad", "PadPiece"]


class PadPiece(NamedTuple):
    """Rows of one block of pads: R (n, depth), R . W^T (n, outputs), and which rows they are."""

    r: Residues
    product: Residues
    span: PadSpan

    def part(self, first: int, rows: int) -> PadPiece:
        """`rows` of these rows, from `first` on."""
        part = slice(first, first + rows)
        return PadPiece(self.r[part], self.product[part], PadSpan(self.span.block, self.span.start + first, rows))


class Pad:
    """The pieces that mask one set of bytes, as they lay in their blocks. `number` is its own."""

    def __init__(self, pieces: Sequence[PadPiece], number: int = 0) -> None:
        self.pieces, self.number = tuple(pieces), number
        self.spans = tuple(piece.span for piece in pieces)
        self._bytes: NDArray[np.int16] | None = None
        self._dropped = False

    def __repr__(self) -> str:
        return f"Pad({self.number}, {self.spans})"

    @property
    def r(self) -> Residues:
        """(n, depth)"""
        return np.concatenate([piece.r for piece in self.pieces])

    @property
    def product(self) -> Residues:
        """(n, outputs)"""
        return np.concatenate([piece.product for piece in self.pieces])

    def behind(self, pieces: Sequence[PadPiece]) -> Pad:
        """This pad, not used yet, with these rows before it."""
        return Pad([*pieces, *self.pieces], self.number) if pieces else self

    def slices(self) -> Iterator[tuple[slice, PadPiece]]:
        """Each piece, and which rows of the pad it is."""
        first = 0
        for piece in self.pieces:
            yield slice(first, first + len(piece.r)), piece
            first += len(piece.r)

    def mask(self, q: NDArray[np.int16], out: Residues | None = None, pool: native.Pool | None = None) -> Residues:
        """(q + r) mod P. Again only for the very array of the first time, which can't be written from then on: who has
        to send again sends the same bytes, or takes another pad."""
        if self._dropped or (self._bytes is not None and self._bytes is not q):
            raise OffloadError(f"pad {self.number} was used already; a pad masks one set of bytes")
        q.flags.writeable = False
        self._bytes = q
        if out is None:
            out = np.empty(q.shape, np.uint32)
        for rows, piece in self.slices():
            native.mask(q[rows], piece.r, out[rows], pool)
        return out

    def drop(self) -> None:
        """Lets the memory go. After the mask, only finding out who lied needs r."""
        self.pieces, self._bytes, self._dropped = (), None, True
