"""From settings to a picture network whose products are multiplied elsewhere."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cutset.config import Settings
from cutset.errors import OffloadError
from cutset.link.peer import Binding
from cutset.models.run.native import thread_pool
from cutset.offload.client.offload import Parties, caution, connected, makes_own_pads
from cutset.offload.client.private_memory import keep_out
from cutset.offload.client.remote_convolutions import OffloadConvolutions, load_products
from cutset.offload.convolutions import NetworkProduct
from cutset.offload.modes import Mode

__all__ = ["PictureOffload", "open_picture_offload"]

BLOCK_PICTURES = 1  # that a block of pads is for: a map has so many elements that a block needn't have more


@dataclass(frozen=True, slots=True)
class PictureOffload:
    """A picture network's products, and who multiplies them."""

    mode: Mode
    convolutions: OffloadConvolutions
    parties: Parties
    caution: str = ""  # what the user should know about this accelerator; commands print it

    def multiply(self, number: int, q: NDArray[np.int16], scale: float) -> NDArray[np.float32]:
        """See `OffloadConvolutions.multiply`."""
        return self.convolutions.multiply(number, q, scale)

    def summary(self) -> str:
        """One line: the mode that was kept, what went over the link, and where pads came from."""
        times, pads = self.convolutions.times, self.parties.pads
        said = f"mode {self.mode.name}: {times.calls} products by {self.parties.session.address}"
        said += f", {times.bytes_up / 1e6:.1f} MB up, {times.bytes_down / 1e6:.1f} MB down"
        if self.mode.verified:
            said += f", {self.convolutions.checks_passed} checked"
        if pads is not None:
            counted = pads.counters()
            said += f"; {counted.used} pads, {counted.made} made ahead, {counted.inline} inline"
        return said

    def close(self) -> None:
        """Ends the sessions and the making of pads."""
        self.convolutions.close()
        self.parties.close()


def open_picture_offload(
    products: Sequence[NetworkProduct],
    settings: Settings,
    mode: Mode,
    verify: Callable[[bytes, Binding], bool] | None = None,
) -> PictureOffload:
    """Connects and compares the networks. `verify`: the accelerator must show evidence, and it says whether that is
    enough; see Handshake.

    Raises LinkError where nobody answers, OffloadError where the mode can't be kept, or nothing would be sent.
    """
    if not products:
        raise OffloadError("this network has no product that is worth sending; leave out --private")
    if mode.masked:
        keep_out()
    pool = thread_pool(settings.thread_count)
    if mode.name == "plain":
        said = f"mode plain: whoever runs {settings.offload} sees every picture, and can change what comes of it"
        warnings.warn(said, stacklevel=2)
    weights = load_products(products, mode, pool, pack=makes_own_pads(settings, mode))
    parties = connected(weights, settings, mode, BLOCK_PICTURES, verify)
    convolutions = OffloadConvolutions(parties.session, weights, mode, pool, parties.pads)
    return PictureOffload(mode, convolutions, parties, caution(mode, parties.session))
