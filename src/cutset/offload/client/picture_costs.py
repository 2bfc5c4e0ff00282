"""What a picture network's products cost here: multiplied, or as the client of somebody who multiplies them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cutset.kernels import native
from cutset.kernels.convolution import ConvolutionI8
from cutset.kernels.reference_field import Residues
from cutset.offload.arithmetic import SEED_BYTES, residues
from cutset.offload.client.remote_convolutions import load_products
from cutset.offload.convolutions import NetworkProduct
from cutset.offload.modes import MODES

__all__ = ["PictureCosts", "picture_costs"]


@dataclass(slots=True)
class PictureCosts:
    """CPU seconds a picture: `local` to multiply here, `client` to mask, check, unmask and scale them, `pads` to
    make what that takes, ahead of time. What links and waiting take isn't in it."""

    local: float = 0.0
    client: float = 0.0
    pads: float = 0.0

    @property
    def words(self) -> str:
        """One line: what wins."""
        said = f"{self.local * 1e3:.1f} ms of CPU a picture to multiply here, {self.client * 1e3:.1f} ms as a masked"
        said += f" client, and {self.pads * 1e3:.1f} ms ahead of time for pads, unless a second party makes them"
        if self.client >= self.local:
            return f"{said}: mode local wins"
        return f"{said}: local wins where that comes to less than links and pads cost"


def picture_costs(products: Sequence[NetworkProduct], threads: int = 1) -> PictureCosts:
    """Does for made-up maps what either would do, and measures it."""
    pool = native.Pool(threads)
    parts = [_costs(replace(product, number=0), pool) for product in products]
    return PictureCosts(*(sum(getattr(one, name) for one in parts) for name in ("local", "client", "pads")))


def _costs(product: NetworkProduct, pool: native.Pool) -> PictureCosts:
    [matrix] = load_products([product], MODES["masked+verified"], pool, pack=True).matrices
    packed, check = matrix.packed, matrix.check
    if not isinstance(packed, ConvolutionI8) or check is None:
        raise RuntimeError("a masked client keeps weights and secrets")
    shape = matrix.positions, len(matrix.scales)
    q = np.random.default_rng(0).integers(-matrix.top, matrix.top + 1, (1, matrix.depth)).astype(np.int16)
    scales, out = np.ones(shape[0], np.float32), np.empty(shape, np.float32)
    seed = os.urandom(SEED_BYTES)

    def local() -> None:
        sums = packed.integers(q, matrix.bits, pool).reshape(shape)
        native.settle(sums, scales, matrix.scales, out, pool=pool)

    def made() -> tuple[Residues, Residues]:
        r = residues(seed, matrix.depth).reshape(1, -1)
        return r, packed.residues(r, pool).reshape(shape)

    r, pad = made()
    reply = packed.residues(native.mask(q, r, pool=pool), pool).reshape(shape)

    def client() -> None:
        native.mask(q, r, pool=pool)
        code, _, _ = native.settle(
            reply,
            scales,
            matrix.scales,
            out,
            pad=pad,
            bounds=matrix.bounds,
            top=matrix.top,
            secrets=check.secrets,
            expected=check.expected(q, pool),
            pool=pool,
        )
        if code:
            raise RuntimeError("a right product failed its check")

    return PictureCosts(_seconds(local), _seconds(client), _seconds(made))


def _seconds(work: Callable[[], object]) -> float:
    """Of CPU, the second time: the first one brings what is read into caches."""
    work()
    begun = time.process_time()
    work()
    return time.process_time() - begun
