"""Pictures through a network whose products an accelerator multiplies without seeing them.

    with PrivateNetwork("alexnet-int8", offload="tcp://10.0.0.7:7000", mode="masked+verified") as network:
        outputs = network.run(picture)

Here the two jobs meet: `cutset.video` runs the network and knows nothing of accelerators, `cutset.offload` multiplies
and knows nothing of networks. A network is a directory that `cutset stream quantize` wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cutset.config import Settings, load_settings
from cutset.errors import ConfigError
from cutset.offload.convolutions import NetworkProduct, digest_of_products
from cutset.offload.modes import MODES, Mode
from cutset.video.quantised.integer_network import IntegerNetwork, is_integer_network, read_network

if TYPE_CHECKING:
    from cutset.cluster.values import Array
    from cutset.link.peer import Binding
    from cutset.offload.accelerator.accelerator import Accelerator, Quota
    from cutset.offload.client.picture_offload import PictureOffload

__all__ = ["PrivateNetwork", "network_digest", "open_integers", "open_network_accelerator", "products_of"]


def products_of(network: IntegerNetwork) -> list[NetworkProduct]:
    """The products of a network as an offload takes them."""
    return [NetworkProduct(one.number, one.name, one.shape, one.weight, one.scales, one.bits) for one in network.layers]


class PrivateNetwork:
    """A network in integers for pictures of one size. Whoever multiplies, its outputs have the same bits.

    With `settings.offload` its products go to that accelerator, and `settings.mode` says what is promised; in mode
    `local`, or without an accelerator, they are multiplied here. `caution` is what the user should know about the
    accelerator.
    """

    def __init__(
        self, directory: str | Path | IntegerNetwork, *, settings: Settings | None = None, **single: Any
    ) -> None:
        """`settings`, or single ones of `Settings`: offload, mode, key, accelerator_key, pads_from, threads, …

        Raises CheckpointError, ConfigError, LinkError, OffloadError.
        """
        if settings is not None and single:
            raise ConfigError("give either settings or single ones, not both")
        network = directory if isinstance(directory, IntegerNetwork) else open_integers(directory)
        self.network = network
        self.mode, own = _checked(settings or load_settings(single))
        self.offload: PictureOffload | None = None
        self.caution = ""
        # Only now: torch takes a second to load, and what can't be should be said before.
        from cutset.video.quantised.integer_stage import IntegerModel
        from cutset.video.quantised.picture_products import LocalProducts, PictureProducts

        products: PictureProducts
        if self.mode.remote:
            from cutset.offload.client.picture_offload import open_picture_offload

            products = self.offload = open_picture_offload(products_of(network), own, self.mode, _verify(own))
            self.caution = self.offload.caution
        else:
            products = LocalProducts(network.layers, own.thread_count)
        try:
            self.model = IntegerModel(network, products)
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of its pictures."""
        rows, columns = self.model.input.shape[-2:]
        return rows, columns

    def run(self, picture: Array) -> dict[str, Array]:
        """The outputs for a picture, uint8 (3, rows, columns) or (1, 3, rows, columns), by name.

        Raises IntegrityError where the accelerator lied; nothing of its answer is used.
        """
        return self.model.run(picture)

    def summary(self) -> str:
        """One line on what went where."""
        if self.offload is None:
            return f"mode local: {len(self.network.layers)} products a picture, all multiplied here"
        return self.offload.summary()

    def close(self) -> None:
        """Ends the session with the accelerator. A second call does nothing."""
        offload, self.offload = self.offload, None
        if offload is not None:
            offload.close()

    def __enter__(self) -> PrivateNetwork:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _checked(settings: Settings) -> tuple[Mode, Settings]:
    """The mode, and the settings with what is for language models alone left out. Raises ConfigError."""
    from cutset.offload.client.offload import check_settings

    own = replace(settings, backend="auto", dtype="auto", device="cpu", prefix_cache=None, pad_rows=False)
    mode = check_settings(own)
    return MODES["local"] if mode is None else mode, own


def _verify(settings: Settings) -> Callable[[bytes, Binding], bool] | None:
    """What says whether the accelerator's evidence is enough; None where none is asked for. Raises ConfigError."""
    if settings.offload_policy is None:
        return None
    from cutset.trust.evidence.link_evidence import verify_by

    return verify_by(settings.offload_policy)


def open_integers(directory: str | Path) -> IntegerNetwork:
    """The network of a directory. Raises CheckpointError for a damaged one, ConfigError for what is none."""
    if not is_integer_network(directory):
        raise ConfigError(
            f"{str(directory)[:200]} is not a network in integers: make one with `cutset stream quantize NET "
            "--calibrate VIDEO -o DIR`, and name DIR"
        )
    return read_network(Path(directory))


def network_digest(directory: str | Path) -> str:
    """What names the products of a network to both sides, in hexadecimal. Raises as `open_integers` does."""
    return digest_of_products(products_of(open_integers(directory)))


def open_network_accelerator(
    directory: str | Path,
    address: str,
    settings: Settings,
    *,
    quota: Quota | None = None,
    key: str | None = None,
    allow: str | None = None,
    users: Collection[int] = (),
    ring_files: bool = False,
    makes_pads: bool = True,
) -> Accelerator:
    """An accelerator for the products of a network; of the directory it uses nothing else. Raises CutsetError."""
    from cutset.offload.accelerator.accelerator import DEFAULT_QUOTA
    from cutset.offload.accelerator.loading import open_picture_accelerator

    given: Sequence[NetworkProduct] = products_of(open_integers(directory))
    return open_picture_accelerator(
        given,
        address,
        settings,
        quota=quota or DEFAULT_QUOTA,
        key=key,
        allow=allow,
        users=users,
        ring_files=ring_files,
        makes_pads=makes_pads,
    )
