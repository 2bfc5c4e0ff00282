"""One pad: the mask R of one set of bytes, and its product R . W^T."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import OffloadError
from cutset.kernels.native import extension
from cutset.kernels.reference_field import Residues
from cutset.offload.client.ledger import Span

__all__ = ["Pad"]


class Pad:
    """The residues R and R . W^T for one set of bytes, in pieces as they lay in their blocks. `number` is its own."""

    def __init__(
        self, pieces: Sequence[tuple[Residues, Residues]], number: int = 0, spans: tuple[Span, ...] = ()
    ) -> None:
        self.pieces, self.number, self.spans = tuple(pieces), number, spans
        self._bytes: NDArray[np.int16] | None = None
        self._dropped = False

    def __repr__(self) -> str:
        return f"Pad({self.number}, {self.spans})"

    @property
    def r(self) -> Residues:
        """(n, depth)"""
        return np.concatenate([r for r, _ in self.pieces])

    @property
    def product(self) -> Residues:
        """(n, outputs)"""
        return np.concatenate([product for _, product in self.pieces])

    def behind(self, pieces: Sequence[tuple[Residues, Residues, Span]]) -> Pad:
        """This pad, not used yet, with these rows before it."""
        if not pieces:
            return self
        before = [(r, product) for r, product, _ in pieces]
        return Pad([*before, *self.pieces], self.number, (*(span for _, _, span in pieces), *self.spans))

    def slices(self) -> Iterator[tuple[slice, Residues, Residues]]:
        """The rows of each piece, its R and its R . W^T."""
        first = 0
        for r, product in self.pieces:
            yield slice(first, first + len(r)), r, product
            first += len(r)

    def mask(self, q: NDArray[np.int16], out: Residues | None = None, pool: Any = None) -> Residues:
        """(q + r) mod P. Again only for the very array of the first time, which can't be written from then on: who has
        to send again sends the same bytes, or takes another pad."""
        if self._dropped or (self._bytes is not None and self._bytes is not q):
            raise OffloadError(f"pad {self.number} was used already; a pad masks one set of bytes")
        q.flags.writeable = False
        self._bytes = q
        if out is None:
            out = np.empty(q.shape, np.uint32)
        for rows, r, _ in self.slices():
            extension().mask(q[rows], r, out[rows], pool)
        return out

    def drop(self) -> None:
        """Lets the memory go. After the mask, only finding out who lied needs r."""
        self.pieces, self._bytes, self._dropped = (), None, True
