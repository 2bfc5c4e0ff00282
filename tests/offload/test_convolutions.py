"""A picture network's products over an accelerator: every mode has the bits of numpy, and a lie is found."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from attacks.proxy import Middle, Proxy, Sent
from attacks.statistics import failures, repeats
from cutset.errors import IntegrityError, OffloadError
from cutset.kernels.reference_convolution import integer_convolution, residue_convolution
from cutset.kernels.reference_field import P
from cutset.offload.accelerator.clients import Quota
from cutset.offload.client.convolution_check import ConvolutionCheck
from cutset.offload.client.ledger import PadSpan
from cutset.offload.client.pad import Pad
from cutset.offload.client.pads import PadPool
from cutset.offload.client.picture_costs import PictureCosts, picture_costs
from cutset.offload.convolutions import NetworkProduct, digest_of_products
from cutset.offload.messages import Multiply, Product
from offload.pictures import SHAPES, accelerator, client, maps, products

MODES = ("plain", "verified", "masked", "masked+verified")


def wanted(given: NetworkProduct, q: Any, scale: float) -> Any:
    """By numpy alone."""
    sums = integer_convolution(q.reshape(1, -1), given.weight, given.shape).reshape(-1, given.shape.outputs)
    return sums.astype(np.float32) * (np.float32(scale) * given.scales)


@pytest.fixture(scope="module")
def served() -> Iterator[Any]:
    with accelerator(products()) as found:
        yield found


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_the_bits_of_the_twin(mode: str, served: Any) -> None:
    given = products()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="mode plain")
        with client(given, served.listener.address, mode, pads="inline") as offload:
            for seed in range(2):
                for one in given:
                    q = maps(one, seed=seed)[0]
                    found = offload.multiply(one.number, q, 0.125)
                    np.testing.assert_array_equal(found, wanted(one, q, 0.125), one.name)
            assert offload.convolutions.checks_passed == (2 * len(given) if "verified" in mode else 0)
            assert f"mode {mode}: {2 * len(given)} products" in offload.summary()


def test_pads_that_were_made_ahead_and_a_pad_server_give_the_same(served: Any) -> None:
    given = products()
    with accelerator(given) as other:
        for more in ({}, {"pads_from": other.listener.address, "pads_same_host": True}):
            with client(given, served.listener.address, "masked+verified", **more) as offload:
                assert offload.parties.pads is not None
                offload.parties.pads.fill(2)
                for one in given:
                    q = maps(one)[0]
                    np.testing.assert_array_equal(offload.multiply(one.number, q, 1.0), wanted(one, q, 1.0))
                assert offload.parties.pads.counters().inline == 0
        assert other.totals()["pads"] >= 2 * len(given)


def test_a_pad_server_that_takes_few_rows_is_asked_for_few(served: Any) -> None:
    """A map of a large picture is so wide that few are taken at once."""
    given = products()
    with accelerator(given, quota=Quota(max_rows=2)) as other:
        more = {"pads_from": other.listener.address, "pads_same_host": True}
        with client(given, served.listener.address, "masked+verified", **more) as offload:
            assert offload.parties.pads is not None
            offload.parties.pads.fill(3)
            np.testing.assert_array_equal(
                offload.multiply(0, maps(given[0])[0], 1.0), wanted(given[0], maps(given[0])[0], 1.0)
            )
        assert other.totals()["refused"] == 0


def test_a_pad_is_used_for_one_picture(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A map takes a row of pads that no other had, of a block with a seed of its own."""
    given, spans = products(), list[PadSpan]()
    take = PadPool.take

    def taken(*what: Any) -> Pad:
        pad = take(*what)
        spans.extend(pad.spans)
        return pad

    monkeypatch.setattr(PadPool, "take", taken)
    for more in ({"pads": "inline"}, {}):
        with client(given, served.listener.address, "masked+verified", **more) as offload:
            spans.clear()
            for _ in range(3):
                offload.multiply(0, maps(given[0])[0], 1.0)
            assert len(set(spans)) == len({span.block for span in spans}) == 3


class Liar(Middle):
    """Changes one answer."""

    def __init__(self, lie: Callable[[Any], Any]) -> None:
        super().__init__()
        self.lie, self.told = lie, 0

    def reply(self, asked: Sent, answer: Sent) -> list[Sent]:
        if isinstance(answer.message, Product) and not self.told:
            self.told += 1
            return [Sent(answer.message, tuple(self.lie(np.array(array)) for array in answer.arrays))]
        return [answer]


def lied(given: list[NetworkProduct], address: str, mode: str, number: int, lie: Callable[[Any], Any]) -> Any:
    """What a client makes of an answer that was changed, and what was sent after it."""
    middle = Liar(lie)
    proxy = Proxy(address, middle)
    try:
        with client(given, proxy.address, mode, pads="inline") as offload:
            q = maps(given[number])[0]
            try:
                found = offload.multiply(number, q, 1.0)
            except IntegrityError as error:
                with pytest.raises(IntegrityError):
                    offload.multiply(number, q, 1.0)
                assert sum(isinstance(sent.message, Multiply) for sent in middle.wire) == 1
                return error
            return found
    finally:
        proxy.close()


@pytest.mark.parametrize("number", range(len(SHAPES)))
@pytest.mark.parametrize("place", [0, -1, "middle"])
@pytest.mark.parametrize("mode", ["verified", "masked+verified"])
def test_one_wrong_element_is_found(number: int, place: int | str, mode: str, served: Any) -> None:
    def lie(array: Any) -> Any:
        at = array.size // 2 if place == "middle" else place
        array.reshape(-1)[at] = (int(array.reshape(-1)[at]) + 1) % P
        return array

    error = lied(products(), served.listener.address, mode, number, lie)
    assert isinstance(error, IntegrityError)
    assert f"layer{number}" in str(error)


@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_a_wrong_channel_and_a_shifted_map_are_found(number: int, served: Any) -> None:
    """Channels that are swapped, a map that is moved by a position, an answer for a picture that was moved."""
    width, positions = SHAPES[number].outputs, SHAPES[number].positions
    lies: list[Callable[[Any], Any]] = [
        lambda array: np.roll(array.reshape(positions, width), 1, axis=1).reshape(1, -1),
        lambda array: np.roll(array.reshape(positions, width), 1, axis=0).reshape(1, -1),
        lambda array: array[:, ::-1].copy(),
        lambda array: np.where(np.arange(array.size) % width == 0, 0, array).astype(array.dtype).reshape(1, -1),
    ]
    for lie in lies:
        assert isinstance(lied(products(), served.listener.address, "masked+verified", number, lie), IntegrityError)


def test_nobody_finds_a_lie_without_checks(served: Any) -> None:
    """The lies are real ones."""

    def lie(array: Any) -> Any:
        array[0, 5] = (int(array[0, 5]) + 1) % P
        return array

    given = products()
    found = lied(given, served.listener.address, "masked", 0, lie)
    right = wanted(given[0], maps(given[0])[0], 1.0)
    assert (found != right).sum() == 1


def test_a_residue_beyond_p_and_another_shape_are_lies(served: Any) -> None:
    lies: list[Callable[[Any], Any]] = [
        lambda array: np.where(array == array.min(), P, array).astype(np.uint32),
        lambda array: array[:, :-1].copy(),
        lambda array: np.concatenate([array, array]),
        lambda array: array.astype(np.int32),
    ]
    for lie in lies:
        assert isinstance(lied(products(), served.listener.address, "masked+verified", 1, lie), IntegrityError)


def test_what_leaves_is_uniform_and_never_the_same() -> None:
    """On [0, p), of black pictures; what is sent for one has nothing in common with what is sent for the next."""
    given = products()
    middle = Middle()
    with accelerator(given) as served:
        proxy = Proxy(served.listener.address, middle)
        try:
            with client(given, proxy.address, "masked+verified", pads="inline") as offload:
                for _ in range(40):
                    for one in given:
                        offload.multiply(one.number, np.zeros(one.depth, np.int16), 1.0)
        finally:
            proxy.close()
    sent = [one.arrays[0] for one in middle.wire if isinstance(one.message, Multiply)]
    assert sum(array.size for array in sent) > 50_000
    assert {array.dtype for array in sent} == {np.dtype(np.uint32)}
    assert not failures(sent)
    half = len(sent) // 2
    same, allowed = repeats(sent[:half], sent[half:])
    assert same <= allowed


def test_the_statistics_refuse_maps_in_clear(served: Any) -> None:
    given, middle = products(), Middle()
    proxy = Proxy(served.listener.address, middle)
    try:
        with client(given, proxy.address, "verified") as offload:
            for seed in range(20):
                for one in given:
                    offload.multiply(one.number, maps(one, seed=seed)[0], 1.0)
    finally:
        proxy.close()
    sent = [one.arrays[0] for one in middle.wire if isinstance(one.message, Multiply)]
    assert failures([(array.astype(np.int64) % P).astype(np.uint32) for array in sent])


def test_the_check_is_of_every_position_and_channel() -> None:
    """A wrong residue anywhere changes what is compared; and a right product passes, of integers and residues."""
    for one in products():
        check = ConvolutionCheck(one.weight, one.shape)
        x = np.random.default_rng(8).integers(0, P, (2, one.depth), np.uint32)
        right = residue_convolution(x, one.weight, one.shape)
        assert check.right(x, right)
        assert check.right(maps(one, 2), integer_convolution(maps(one, 2), one.weight, one.shape))
        for at in range(0, right.size, max(1, right.size // 50)):
            wrong = right.copy()
            wrong.reshape(-1)[at] = (int(wrong.reshape(-1)[at]) + 1) % P
            assert not check.right(x, wrong)
        assert not np.array_equal(check.secrets, ConvolutionCheck(one.weight, one.shape).secrets)


def test_other_weights_and_other_windows_are_another_network(served: Any) -> None:
    given = products()
    other = given[0].weight.copy()
    other[0, 0] ^= 1
    changed = NetworkProduct(0, "layer0", given[0].shape, other, given[0].scales, given[0].bits)
    with (
        pytest.raises(OffloadError, match="model"),
        client([changed, *given[1:]], served.listener.address, "masked"),
    ):
        pass
    turned = products((*SHAPES[:4], type(SHAPES[4])(7, 6, 16, 12), SHAPES[5]))
    assert turned[4].weight.tobytes() == given[4].weight.tobytes()
    assert digest_of_products(turned) != digest_of_products(given)


def test_integers_beyond_their_bits_are_refused_here(served: Any) -> None:
    """Sums would leave the field, and who multiplies would be blamed."""
    given = products()
    with client(given, served.listener.address, "masked+verified", pads="inline") as offload:
        q = maps(given[0])[0]
        least = np.where(q == q.max(), -32768, q).astype(np.int16)  # which has no size in 16 bits
        for wrong in (q[1:], q.astype(np.int32), np.where(q == q.max(), q.max() + 1, q).astype(np.int16), least):
            with pytest.raises(OffloadError, match="layer0 takes"):
                offload.multiply(0, wrong, 1.0)
        assert offload.convolutions.times.calls == 0


def test_sums_that_could_leave_the_field_are_refused() -> None:
    one = products()[0]
    wide = NetworkProduct(0, one.name, one.shape, one.weight, one.scales, 13)
    with pytest.raises(OffloadError, match="overflow"), client([wide], "inproc://nobody", "masked"):
        pass


def test_a_call_of_several_maps_or_of_another_shape_is_refused(served: Any) -> None:
    given = products()
    with client(given, served.listener.address, "masked+verified", pads="inline") as offload:
        session = offload.convolutions.session
        x = np.zeros((3, given[0].depth), np.uint32)
        message, frame = session.call(lambda call: Multiply(call, 0), [x], due=12 * given[0].outputs)
        assert isinstance(message, Product)
        assert frame.arrays[0].shape == (3, given[0].outputs)
        frame.release()
        for wrong in (x[:, 1:].copy(), x.reshape(-1), x.astype(np.float32)):
            with pytest.raises(OffloadError, match="takes one array"):
                session.call(lambda call: Multiply(call, 0), [wrong])


@pytest.mark.parametrize("way", ["int8", "float64"])
def test_a_device_of_torch_multiplies_exactly(way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where windows are taken on the device."""
    pytest.importorskip("torch")
    from cutset.offload.accelerator import torch_convolutions
    from cutset.offload.accelerator.torch_products import TorchProducts

    device = torch_convolutions.TorchConvolutions(TorchProducts("cpu", 1, way))
    for piece in (1, 1 << 20):
        monkeypatch.setattr(torch_convolutions, "PIECE", piece)
        for one in products():
            device.put_product(one)
            x = np.random.default_rng(6).integers(0, P, (2, one.depth), np.uint32)
            x[0, ::2] = P - 1
            np.testing.assert_array_equal(device.residues(one.number, x), residue_convolution(x, one.weight, one.shape))
            q = maps(one, 2)
            out = np.empty((2, one.outputs), np.int32)
            assert device.integers(one.number, q, out) is out
            np.testing.assert_array_equal(out, integer_convolution(q, one.weight, one.shape))
            with pytest.raises(ValueError, match="residues"):
                device.residues(one.number, np.full_like(x, P))
            with pytest.raises(ValueError, match="between"):
                device.integers(one.number, np.full_like(q, 32767))
            device.drop(one.number)
            with pytest.raises(KeyError):
                device.residues(one.number, x)


def test_what_a_client_costs_is_measured() -> None:
    costs = picture_costs(products(), 1)
    assert min(costs.local, costs.client, costs.pads) > 0
    assert "as a masked client" in costs.words
    assert PictureCosts(1.0, 2.0, 3.0).words.endswith("mode local wins")
