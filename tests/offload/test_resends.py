"""A call that is sent again, because its answer takes long, isn't computed again; a device without room refuses."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset.errors import IntegrityError, OffloadError
from cutset.kernels.reference_field import residue_product
from cutset.offload.accelerator.products import NativeProducts
from cutset.offload.client.ping import self_test
from cutset.offload.client.session import Patience
from offload.crowd import WEIGHTS, product, rows, serving

IMPATIENT = Patience(total=3.0, resend=0.05, redial=0.01)


class Slow(NativeProducts):
    """Takes longer for a product than clients wait before they ask again."""

    def __init__(self) -> None:
        super().__init__(1)
        self.made = 0

    def residues(self, matrix: Any, x: Any, out: Any = None) -> Any:
        self.made += 1
        time.sleep(0.6)
        return super().residues(matrix, x, out)


@pytest.mark.parametrize("kind", ["inproc", "ipc"])
def test_slow_calls_under_a_short_timeout_finish(kind: str, tmp_path: Path) -> None:
    """Six times 0.6 s, where each call is sent a dozen times: computed each time, the second would be too late."""
    with serving(kind, tmp_path, products=Slow(), slow=True) as place:
        session = place.session("a", IMPATIENT)
        for _ in range(4):
            x = rows(2)
            np.testing.assert_array_equal(product(session, 0, x), residue_product(x, WEIGHTS[0]))
        found = session.pads([(0, bytes(32), 3)], [512])
        assert found[0].shape == (3, 512)
        assert session.resent > 10
        assert place.accelerator.products.made <= 7
        session.close()


class Full(NativeProducts):
    """A device whose memory is full."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__(1)
        self.error: type[Exception] | None = None
        self.kind = error

    def residues(self, matrix: Any, x: Any, out: Any = None) -> Any:
        if self.error is not None:
            raise self.error("out of memory\nTried to allocate 2 GiB")
        return super().residues(matrix, x, out)

    def put(self, matrix: Any, weight: Any) -> None:
        if self.error is not None:
            raise self.error("out of memory\nTried to allocate 2 GiB")
        super().put(matrix, weight)


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
@pytest.mark.parametrize("what", ["product", "pads", "self-test"])
def test_a_device_without_memory_refuses_that_request_alone(error: type[Exception], what: str, tmp_path: Path) -> None:
    products = Full(error)
    with serving("inproc", tmp_path, products=products) as place:
        session, x = place.session("a"), rows(2)
        ask = {
            "product": lambda: product(session, 0, x),
            "pads": lambda: session.pads([(0, bytes(32), 3)], [512]),
            "self-test": lambda: self_test(session),
        }[what]
        products.error = error
        for _ in range(3):
            with pytest.raises(OffloadError, match=r"refused: out of memory$"):
                ask()
        products.error = None
        ask()
        np.testing.assert_array_equal(product(session, 0, x), residue_product(x, WEIGHTS[0]))
        session.close()


@pytest.mark.parametrize("kind", ["inproc", "shm", "ipc", "tcp"])
def test_a_client_takes_no_more_than_it_asked_for(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of megabytes where kilobytes are due ends the session before anything is made of it."""
    monkeypatch.setenv("CUTSET_SHM_DIR", str(tmp_path))

    with serving(kind, tmp_path, slow=True) as place:
        send = place.accelerator._send

        def lies(link: Any, message: Any, arrays: Any = None) -> None:
            whole = [np.zeros((2000, 512), np.uint32)] if arrays else arrays
            send(link, message, whole)

        monkeypatch.setattr(place.accelerator, "_send", lies)
        session = place.session("a")
        with pytest.raises(IntegrityError, match="more than any answer"):
            product(session, 0, rows(1))
        session.close()
