"""From a model and an address to an accelerator that serves."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cutset.config import Settings
from cutset.errors import ConfigError
from cutset.link import Timeouts, listen
from cutset.link.keys import Keys, listening_keys
from cutset.models.files.integer import Progress
from cutset.models.files.source import open_source
from cutset.models.registry import resolve
from cutset.offload.accelerator.accelerator import DEFAULT_QUOTA, Accelerator, Quota, limits_for
from cutset.offload.accelerator.convolution_products import ConvolutionProducts
from cutset.offload.accelerator.products import NativeProducts, self_test
from cutset.offload.accelerator.python_accelerator import PythonAccelerator
from cutset.offload.accelerator.ring_accelerator import new_accelerator
from cutset.offload.convolutions import NetworkProduct, digest_of_products
from cutset.offload.matrices import ModelDigest, each_matrix

if TYPE_CHECKING:
    from cutset.offload.accelerator.torch_products import TorchProducts

__all__ = ["open_accelerator", "open_picture_accelerator"]

MOST_MAPS = 64 << 20  # bytes of maps that a call may have, unless one alone has more


def open_accelerator(
    model: str,
    address: str,
    settings: Settings,
    *,
    quota: Quota = DEFAULT_QUOTA,
    key: str | None = None,
    allow: str | None = None,
    users: Collection[int] = (),
    ring_files: bool = False,
    makes_pads: bool = True,
    progress: Progress | None = None,
) -> Accelerator:
    """Loads the matrices of a model, and nothing else of it, and listens. `users`, `ring_files`: see `listen`.

    Raises ModelError, DeviceError, ConfigError or LinkError.
    """
    # Before the model, which takes long: whoever named a wrong file should know at once.
    keys, allowed = _keys(address, key, allow)
    source = open_source(resolve(model, settings).directory)
    products = _device(settings)
    digest, shapes = ModelDigest(), list[tuple[int, int]]()
    for matrix in each_matrix(source, progress):
        digest.add(matrix)
        products.put(matrix.number, matrix.weight)
        shapes.append((matrix.outputs, matrix.depth))
    source.forget()
    limits, first = limits_for(shapes, quota), Timeouts(first=quota.greeting)
    listener = listen(
        address, keys=keys, allow=allowed, users=users, ring_files=ring_files, timeouts=first, limits=limits
    )
    accelerator = new_accelerator(
        listener,
        products,
        shapes,
        digest.hex(),
        threads=settings.thread_count,
        quota=quota,
        makes_pads=makes_pads,
    )
    accelerator.handshake = accelerator.handshake.with_keys(keys)
    return accelerator


def open_picture_accelerator(
    given: Sequence[NetworkProduct],
    address: str,
    settings: Settings,
    *,
    quota: Quota = DEFAULT_QUOTA,
    key: str | None = None,
    allow: str | None = None,
    users: Collection[int] = (),
    ring_files: bool = False,
    makes_pads: bool = True,
) -> Accelerator:
    """The same for the products of a picture network, in their order. A row is a feature map of one picture."""
    keys, allowed = _keys(address, key, allow)
    products = _convolutions(_device(settings))
    for product in given:
        products.put_product(product)
    shapes = [(product.outputs, product.depth) for product in given]
    if not shapes:
        raise ConfigError("this network has no product that is worth sending: there is nothing to serve")
    widest = max(max(shape) for shape in shapes)
    quota = replace(quota, max_rows=max(1, min(quota.max_rows, MOST_MAPS // (4 * widest))))
    limits, first = limits_for(shapes, quota), Timeouts(first=quota.greeting)
    listener = listen(
        address, keys=keys, allow=allowed, users=users, ring_files=ring_files, timeouts=first, limits=limits
    )
    accelerator = PythonAccelerator(
        listener,
        products,
        shapes,
        digest_of_products(given),
        threads=settings.thread_count,
        quota=quota,
        makes_pads=makes_pads,
        costs=[product.shape.work for product in given],
    )
    accelerator.handshake = accelerator.handshake.with_keys(keys)
    return accelerator


def _keys(address: str, key: str | None, allow: str | None) -> tuple[Keys | None, Any]:
    if (key or allow) and not address.startswith("tcp://"):
        raise ConfigError(
            f"--key and --allow are for tcp, and {address} asks nobody for a key: leave them out"
            f"{' (--allow-user says who may connect)' if address.startswith('shm://') else ''}"
        )
    return listening_keys(address, key, allow, "clients")


def _convolutions(device: NativeProducts | TorchProducts) -> ConvolutionProducts:
    """Windows are taken where they are multiplied."""
    if isinstance(device, NativeProducts):
        return ConvolutionProducts(device)
    from cutset.offload.accelerator.torch_convolutions import TorchConvolutions

    return TorchConvolutions(device)


def _device(settings: Settings) -> NativeProducts | TorchProducts:
    """What multiplies, tried."""
    products: NativeProducts | TorchProducts
    if settings.device == "cpu":
        products = NativeProducts(settings.thread_count)
    else:
        from cutset.offload.accelerator.torch_products import TorchProducts

        products = TorchProducts(settings.device, settings.thread_count)
    self_test(products)
    return products
