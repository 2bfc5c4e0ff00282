"""Networks of the zoo over an accelerator: every mode has the bits of `local`, and `local` is near floats."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from cutset.private_pictures import PrivateNetwork, products_of
from cutset.video.quantised.integer_network import IntegerNetwork
from cutset.video.quantised.quantising import quantise_network
from cutset.video.torch_model import TorchModel
from cutset.video.zoo import build
from offload.pictures import accelerator
from video.quantised.integer_networks import pictures

ZOO = [
    ("alexnet", 96),
    ("resnet18", 64),
    ("vgg16", 64),
    ("resnet50", 96),
    ("googlenet", 64),
    ("mobilenet_v3_small", 96),
    ("efficientnet_b0", 64),
    ("convnext_tiny", 64),
]


def in_every_mode(model: TorchModel, network: IntegerNetwork, given: list[Any]) -> None:
    with PrivateNetwork(network, threads=1) as local:
        wanted = [local.run(picture) for picture in given]
    for right, floats in zip(wanted, map(model.run, given), strict=True):
        for key, value in floats.items():
            assert np.abs(right[key] - value).max() < 0.05 * np.abs(value).max()
    with accelerator(products_of(network)) as served, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="mode plain")
        for mode in ("plain", "verified", "masked", "masked+verified"):
            more: dict[str, Any] = {"offload": served.listener.address, "mode": mode, "pads": "inline", "pads_mib": 512}
            with PrivateNetwork(network, threads=1, **more) as private:
                for picture, right in zip(given, wanted, strict=True):
                    for key, value in private.run(picture).items():
                        np.testing.assert_array_equal(value, right[key])
                assert private.offload is not None
                assert private.offload.convolutions.times.calls == 2 * len(network.layers)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), ZOO)
def test_networks_of_the_zoo(name: str, size: int) -> None:
    model, given = TorchModel.of(build(name), (1, 3, size, size)), pictures(2, size=(size, size))
    in_every_mode(model, quantise_network(model, given, name), given)
