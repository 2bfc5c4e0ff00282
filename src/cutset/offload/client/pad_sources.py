"""Who makes blocks of pads: this machine, or a pad server that gets the blocks' seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cutset.errors import IntegrityError
from cutset.kernels import native
from cutset.kernels.reference_field import P, Residues
from cutset.offload.arithmetic import residues
from cutset.offload.client.ledger import Block, Ledger
from cutset.offload.client.pad import PadPiece
from cutset.offload.client.private_memory import private_array

__all__ = ["LocalPads", "Made", "MultiplySeeds", "PadMatrix", "PadServer", "open_block"]

# multiply([(matrix, seed, rows), …]) gives R . W^T of each, uint32 (rows, outputs), R being the seed's residues.
MultiplySeeds = Callable[[list[tuple[int, bytes, int]]], Sequence[NDArray[np.uint32]]]

SLICE = 1 << 30  # products between two looks whether to give way: some milliseconds
REQUESTS = 64  # blocks that one call of a pad server may ask for


class PadMatrix(Protocol):
    """What makes pads of a matrix: the native LinearI8, or its twin. With a pad server alone, `residues` isn't used."""

    @property
    def depth(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    def residues(self, x: Residues, pool: native.Pool | None = None, out: Residues | None = None) -> Residues:
        """x . W^T mod P, (n, outputs), of residues x (n, depth)."""


@dataclass
class Made:
    """A block with its R (rows, depth) and R . W^T (rows, outputs)."""

    matrix: int
    block: Block
    r: Residues
    product: Residues

    def take(self, rows: int) -> PadPiece:
        """The next rows of the block. Raises what Block.take raises."""
        span = self.block.take(rows)
        part = slice(span.start, span.start + rows)
        return PadPiece(self.r[part], self.product[part], span)


def open_block(ledger: Ledger, rows: int, depth: int, *, kept: bool = False) -> tuple[Block, Residues]:
    """A new block and its R (rows, depth). `kept`: it isn't used at once, so it lies in memory that is locked."""
    block = ledger.open(rows)
    drawn = residues(ledger.seed(block.number), rows * depth).reshape(rows, depth)
    if not kept:
        return block, drawn
    r: Residues = private_array((rows, depth), np.uint32)
    r[:] = drawn
    drawn[:] = 0
    return block, r


class LocalPads:
    """Multiplies in the calling thread. `give_way()` is called every few milliseconds and gives False to stop."""

    def __init__(self, ledger: Ledger, matrices: Sequence[PadMatrix], give_way: Callable[[], bool]) -> None:
        self.ledger, self.matrices, self.give_way = ledger, matrices, give_way

    def make(self, wanted: list[tuple[int, int]]) -> list[Made]:
        """The first of the wanted blocks, which are matrices and rows; none if it was stopped."""
        index, rows = wanted[0]
        matrix = self.matrices[index]
        block, r = open_block(self.ledger, rows, matrix.depth, kept=True)
        product: Residues = private_array((rows, matrix.outputs), np.uint32)
        step = max(4, SLICE // (matrix.depth * matrix.outputs))
        for at in range(0, rows, step):
            matrix.residues(r[at : at + step], out=product[at : at + step])
            if not self.give_way():
                return []
        return [Made(index, block, r, product)]


class PadServer:
    """Sends seeds to a pad server, and draws the same residues here."""

    def __init__(self, ledger: Ledger, matrices: Sequence[PadMatrix], multiply: MultiplySeeds) -> None:
        self.ledger, self.matrices, self.multiply = ledger, matrices, multiply

    def make(self, wanted: list[tuple[int, int]]) -> list[Made]:
        """Some of the wanted blocks. IntegrityError for what can't be right; whether it is right, the checks see."""
        wanted = wanted[:REQUESTS]
        opened = [open_block(self.ledger, rows, self.matrices[index].depth, kept=True) for index, rows in wanted]
        seeds = [(i, self.ledger.seed(block.number), n) for (i, n), (block, _) in zip(wanted, opened, strict=True)]
        products = self.multiply(seeds)
        if len(products) != len(opened):
            raise IntegrityError(f"the pad server gave {len(products)} products for {len(opened)}; the session is over")
        made = []
        for (index, rows), (block, r), product in zip(wanted, opened, products, strict=True):
            shape = (rows, self.matrices[index].outputs)
            if product.shape != shape or product.dtype != np.uint32:
                found = f"{product.dtype} {product.shape}"
                raise IntegrityError(f"the pad server gave {found}, not uint32 {shape}; the session is over")
            kept: Residues = private_array(shape, np.uint32)
            kept[:] = product  # before it is looked at: it may lie where the server still writes
            if int(kept.max()) >= P:
                raise IntegrityError("the pad server gave a product that isn't of residues; the session is over")
            made.append(Made(index, block, r, kept))
        return made
