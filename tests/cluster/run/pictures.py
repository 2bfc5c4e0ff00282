"""Pictures and networks for the tests of running: small, and every picture another result."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cutset.video.result import Result
from cutset.video.torch_model import TorchModel
from video.networks import Skips, filled


class Camera(nn.Module):
    """8-bit pictures into the network with skips and a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Skips()

    def forward(self, pictures: Tensor) -> Tensor:
        result: Tensor = self.inner(pictures.float() / 255 - 0.4)
        return result


def small_network() -> nn.Module:
    return filled(Camera())


def moving(count: int, height: int = 12, width: int = 14, seed: int = 0) -> list[NDArray[Any]]:
    """A still background on which a patch moves; (1, 3, height, width) uint8."""
    rng = np.random.default_rng(seed)
    background = rng.integers(0, 256, (1, 3, height, width), dtype=np.uint8)
    found = []
    for i in range(count):
        picture = background.copy()
        y, x = (3 * i) % (height - 4), (5 * i) % (width - 4)
        picture[:, :, y : y + 4, x : x + 4] = rng.integers(0, 256, (1, 3, 4, 4), dtype=np.uint8)
        found.append(picture)
    return found


@cache
def small_model(height: int = 12, width: int = 14) -> TorchModel:
    return TorchModel.of(small_network(), (1, 3, height, width))


def expected(pictures: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """What the small network gives, computed here in one piece."""
    module = small_network()
    with torch.no_grad():
        found = [module(torch.from_numpy(p)).numpy() for p in pictures]
    assert len({f.tobytes() for f in found}) == len({p.tobytes() for p in pictures}), "results that look alike"
    return found


def same(results: Sequence[Result], wanted: Sequence[NDArray[Any]]) -> None:
    """Every picture's result, in order, to the bit."""
    assert [r.picture for r in results] == list(range(len(wanted)))
    for result, output in zip(results, wanted, strict=True):
        assert not result.dropped, result.dropped
        assert np.array_equal(result.output, output), f"picture {result.picture} is wrong"
