"""The historical schemes compute what they should, and every attack breaks its scheme."""

import numpy as np
import pytest

from attacks.careless import FieldClient, P, PowerOfTwoClient, Refused, matmul
from attacks.historical import GaussianPad, MaskBesideValue, ScalarMatmul, Server, TokenMixing, TrustingClient
from attacks.setting import make_setting
from attacks.suite import ATTACKS


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_the_attack_succeeds_on_the_old_scheme(attack):
    outcome = attack.old()
    assert outcome.succeeded, outcome.figure
    assert attack.idea.endswith(".")


# Without these, a scheme might be easy to break because it is not the scheme.


def test_the_old_client_is_right_when_its_server_is_honest():
    for seed in range(3):
        setting = make_setting(seed)
        assert TrustingClient(setting).answer(Server(setting), setting.ids) == setting.answer()
    assert len({make_setting(seed).answer() for seed in range(8)}) > 4


def test_the_old_masks_come_off():
    setting = make_setting()
    rows, weight = setting.inputs()[1], setting.weights[1]
    pads, mixing, beside = GaussianPad(setting), TokenMixing(len(setting.ids)), MaskBesideValue()
    hidden = pads.hide(1, rows)
    assert np.abs(hidden - rows).max() > 1
    np.testing.assert_allclose(pads.recover(1, rows, hidden @ weight.T), rows @ weight.T, atol=1e-9)
    np.testing.assert_allclose(mixing.recover(mixing.hide(rows) @ weight.T), rows @ weight.T, atol=1e-9)
    masked, mask = beside.hide(rows)
    np.testing.assert_allclose(beside.recover(masked @ weight.T, mask @ weight.T), rows @ weight.T, atol=1e-9)
    matmul_scheme = ScalarMatmul()
    product = matmul_scheme.hide(setting.queries[0]) @ matmul_scheme.hide(setting.keys[0]).T
    np.testing.assert_allclose(matmul_scheme.recover(product), setting.queries[0] @ setting.keys[0].T, atol=1e-9)


@pytest.mark.parametrize("kind", [FieldClient, PowerOfTwoClient])
def test_the_careless_clients_are_right_and_find_the_plain_lie(kind):
    rng = np.random.default_rng(0)
    weight, rows = rng.integers(-127, 128, (24, 16)), rng.integers(-2047, 2048, (8, 16))
    rows[0], rows[1] = 2047, -2047
    client = kind(weight)

    def honest(masked):
        return matmul(masked, weight, client.modulus)

    def lie(masked):
        reply = honest(masked)
        reply[3, 5] = (reply[3, 5] + 1) % P
        return reply

    np.testing.assert_array_equal(client.multiply(rows, honest), rows @ weight.T)
    with pytest.raises(Refused):
        client.multiply(rows, lie)
