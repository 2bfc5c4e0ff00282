"""From a model and an address to an accelerator that serves."""

from __future__ import annotations

from collections.abc import Collection

from cutset.config import Settings
from cutset.errors import ConfigError
from cutset.link import Timeouts, listen
from cutset.link.keys import listening_keys
from cutset.models.files.integer import Progress
from cutset.models.files.source import open_source
from cutset.models.registry import resolve
from cutset.offload.accelerator.accelerator import DEFAULT_QUOTA, Accelerator, Quota, limits_for
from cutset.offload.accelerator.products import NativeProducts, Products, self_test
from cutset.offload.accelerator.ring_accelerator import new_accelerator
from cutset.offload.matrices import ModelDigest, each_matrix

__all__ = ["open_accelerator"]


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
    if (key or allow) and not address.startswith("tcp://"):
        raise ConfigError(
            f"--key and --allow are for tcp, and {address} asks nobody for a key: leave them out"
            f"{' (--allow-user says who may connect)' if address.startswith('shm://') else ''}"
        )
    # Before the model, which takes long: whoever named a wrong file should know at once.
    keys, allowed = listening_keys(address, key, allow, "clients")
    source = open_source(resolve(model, settings).directory)
    products: Products
    if settings.device == "cpu":
        products = NativeProducts(settings.thread_count)
    else:
        from cutset.offload.accelerator.torch_products import TorchProducts

        products = TorchProducts(settings.device, settings.thread_count)
    self_test(products)
    digest, shapes = ModelDigest(), list[tuple[int, int]]()
    for matrix in each_matrix(source, progress):
        digest.add(matrix)
        products.put(matrix.number, matrix.weight)
        shapes.append((matrix.outputs, matrix.depth))
    source.forget()
    listener = listen(
        address,
        keys=keys,
        allow=allowed,
        users=users,
        ring_files=ring_files,
        timeouts=Timeouts(first=quota.greeting),
        limits=limits_for(shapes, quota),
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
