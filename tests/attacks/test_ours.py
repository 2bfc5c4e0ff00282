"""Every attack fails on the real client, and what leaves it in a masked answer is uniform."""

import msgspec
import numpy as np
import pytest

from attacks import ours
from attacks.proxy import Middle, Sent
from attacks.setting import Outcome
from attacks.statistics import TESTS, failures
from attacks.suite import ATTACKS
from cutset.errors import IntegrityError
from cutset.link.peer import read_about
from cutset.offload.client import ledger, pad_sources
from cutset.offload.client.linears import OffloadLinears
from cutset.offload.client.ring_calls import RingCalls, Stop
from cutset.offload.messages import Capabilities, Hello, Multiply, Product, Welcome, encode

PROMPT = ours.PROMPT


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_the_attack_fails_on_ours(attack):
    outcome = attack.ours()
    assert not outcome.succeeded, outcome.figure


@pytest.fixture
def native(monkeypatch, tmp_path):
    """The client makes its calls in native code; gives how many steps it made so."""
    ours.capture.cache_clear()
    monkeypatch.setattr(ours, "LINK", "shm")
    monkeypatch.setenv("CUTSET_SHM_DIR", str(tmp_path))
    steps = []
    run = RingCalls.run

    def counted(*given):
        end = run(*given)
        steps.append(end.stop)
        return end

    monkeypatch.setattr(RingCalls, "run", counted)
    yield steps
    ours.capture.cache_clear()


NEEDS_A_WATCHER = "known plaintext"


@pytest.mark.parametrize(
    "attack", [attack for attack in ATTACKS if attack.name != NEEDS_A_WATCHER], ids=lambda attack: attack.name
)
def test_the_attack_fails_on_native_calls(attack, native):
    outcome = attack.ours()
    assert not outcome.succeeded, outcome.figure
    assert set(native) & {Stop.DONE, Stop.LIED, Stop.ODD}


def test_native_calls_through_an_honest_man_in_the_middle(native):
    found = ours.run()
    assert found.tokens == ours.right()
    assert {sent.arrays[0].dtype for sent in found.products} == {np.dtype(np.uint32)}
    assert native.count(Stop.DONE) >= ours.TOKENS - 2  # an answer that takes long on a busy machine ends one


def test_a_liar_deceives_native_calls_without_checks(native):
    class Loud(Middle):
        def reply(self, asked: Sent, answer: Sent) -> list[Sent]:
            if isinstance(answer.message, Product):
                return [Sent(answer.message, (np.roll(answer.arrays[0], 1, axis=1),))]
            return [answer]

    assert ours.run(Loud(), mode="masked").tokens not in ((), ours.right())
    assert isinstance(ours.run(Loud()).error, IntegrityError)


def test_a_client_that_goes_on_after_a_lie_is_a_hole(monkeypatch):
    """It raises the right error and says nothing, but asks something before."""
    lied = OffloadLinears._lied

    def goes_on(self, *what):
        self.session.counters()
        return lied(self, *what)

    monkeypatch.setattr(OffloadLinears, "_lied", goes_on)
    assert ours.tamper_one_element() == Outcome(True, "1 more messages were sent after the lie")


# Without these the attacks might fail because nothing goes through the man in the middle.


def test_an_honest_man_in_the_middle_changes_nothing():
    found = ours.capture()
    assert found.error is None
    assert found.tokens == ours.right()
    assert isinstance(found.wire[0].message, Hello)
    steps = {sent.arrays[0].shape[0] for sent in found.products}
    assert steps == {len(found.prompt), 1}  # the prompt's rows, then one a token: what shapes tell
    assert len(found.products) % ours.TOKENS == 0


def test_the_same_statistics_refuse_what_is_sent_in_clear():
    found = ours.run(mode="verified")
    assert found.tokens == ours.right()
    rows = [sent.arrays[0] for sent in found.products]
    assert {array.dtype for array in rows} == {np.dtype(np.int16)}
    assert failures([(array.astype(np.int64) % ours.P).astype(np.uint32) for array in rows])


def test_enough_is_captured_for_the_statistics():
    sizes = sum(rows.size for rows in ours.residues(ours.capture()))
    assert sizes > 50_000
    assert len(TESTS) * 1e-7 < 1e-6


def test_a_liar_deceives_a_mode_without_checks():
    """The lies are real ones: where nobody checks, they change what is said, or what is computed."""

    class Loud(Middle):
        def reply(self, asked: Sent, answer: Sent) -> list[Sent]:
            if isinstance(answer.message, Product):
                return [Sent(answer.message, (np.roll(answer.arrays[0], 1, axis=1),))]
            return [answer]

    found = ours.run(Loud(), mode="masked")
    assert found.error is None
    assert found.tokens != ours.right()
    assert isinstance(ours.run(Loud()).error, IntegrityError)


@pytest.fixture
def forgetful():
    """Forgets what was captured, before and after."""
    ours.capture.cache_clear()
    yield
    ours.capture.cache_clear()


@pytest.mark.usefixtures("forgetful")
def test_a_client_whose_masks_repeat_is_found(monkeypatch):
    """A client with the mistake that the historical ones made: the attacks that look for it find it."""
    monkeypatch.setattr(ledger, "seed_of", lambda master, number: number.to_bytes(32, "little"))
    assert ours.mask_reuse().succeeded


@pytest.mark.usefixtures("forgetful")
def test_a_client_whose_masks_are_small_is_found(monkeypatch):
    honest = pad_sources.residues
    monkeypatch.setattr(pad_sources, "residues", lambda *args: honest(*args) >> 4)
    assert ours.noise_is_no_pad().succeeded


class TakesFew(Middle):
    """Says that it takes a few rows at once, to count them by the calls."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def reply(self, asked: Sent, answer: Sent) -> list[Sent]:
        if isinstance(answer.message, Welcome):
            about = msgspec.structs.replace(read_about(answer.message, Capabilities), max_rows=self.most)
            return [Sent(msgspec.structs.replace(answer.message, about=encode(about)), ())]
        return [answer]


@pytest.mark.parametrize("most", [1, 3, 8, 4096])
def test_padded_rows_hide_their_number_from_whoever_takes_few(most):
    found = [ours.run(TakesFew(most), pad_rows=True, prompt=prompt) for prompt in (PROMPT, PROMPT[:-12], PROMPT[:-24])]
    lengths = [len(each.prompt) for each in found]
    assert len(set(lengths)) == 3
    assert {8 < length <= 16 for length in lengths} == {True}
    assert found[0].tokens == ours.right()
    shapes = [[sent.arrays[0].shape for sent in each.products] for each in found]
    assert shapes[0] == shapes[1] == shapes[2]


def test_nothing_is_sent_after_a_lie():
    class Lies(Middle):
        def reply(self, asked: Sent, answer: Sent) -> list[Sent]:
            if isinstance(asked.message, Multiply) and asked.message.matrix == 2:
                return [Sent(answer.message, (answer.arrays[0] ^ 1,))]
            return [answer]

    found = ours.run(Lies())
    assert isinstance(found.error, IntegrityError)
    assert [sent.message.matrix for sent in found.products] == [0, 1, 2]
    assert found.tokens == ()


@pytest.mark.parametrize("attack", [ours.tamper_one_element, ours.add_p])
def test_every_element_is_looked_at(attack, monkeypatch):
    """The first and the last element, at the first and the last matrix of a step."""
    for place in (0, -1):
        monkeypatch.setattr(
            ours,
            "_one",
            lambda change, where=None, place=place: lambda array: _at(array, place, change),
        )
        outcome = attack()
        assert not outcome.succeeded, outcome.figure


def _at(array, place, change):
    changed = array.reshape(-1).copy()
    changed[place] = change(int(changed[place]))
    return changed.reshape(array.shape)


def test_a_dropped_answer_is_asked_for_with_the_same_bytes():
    class Drops(Middle):
        dropped = 0

        def reply(self, asked: Sent, answer: Sent) -> list[Sent]:
            if isinstance(asked.message, Multiply) and not self.dropped:
                self.dropped += 1
                return []
            return [answer]

    middle = Drops()
    found = ours.run(middle)
    assert middle.dropped == 1
    assert found.tokens == ours.right()
    first, again = found.products[:2]
    assert first.message == again.message
    np.testing.assert_array_equal(first.arrays[0], again.arrays[0])
