"""Receipts: what verifies, what doesn't, and what is shown of them."""

from __future__ import annotations

import base64
import hashlib
import stat
from pathlib import Path
from typing import Any

import pytest

from cutset.errors import ConfigError
from cutset.link.keys import load_keys, new_keys, save_keys
from cutset.trust.canonical import encode
from cutset.trust.receipt import Receipt, parse_part
from cutset.trust.signing_key import ReceiptEvidence, Signer, SigningKey, own_signing_key
from cutset.trust.verify_receipt import DOMAIN, InvalidReceipt, decode, verify
from tests.receipts.conftest import OFFLOAD, PADS, RUN, Make


def refused(data: bytes, key: bytes | None) -> bool:
    try:
        verify(data, key)
    except InvalidReceipt:
        return True
    return False


def resigned(data: bytes, key: SigningKey, **changed: Any) -> bytes:
    """The same receipt with another statement, signed as it should be."""
    envelope = decode(data)
    statement = encode(decode(envelope["statement"]) | {"key": key.public} | changed)
    return encode(envelope | {"statement": statement, "signature": key.sign(DOMAIN + statement)})


def test_a_receipt_says_what_was_signed(make: Make, signer: Signer) -> None:
    found = verify(make(), signer.key.public)
    assert found.complete
    assert found.signer == signer.key.public
    bound = hashlib.sha512(b"cutset receipt key 1\0" + signer.key.public).digest()
    assert found.evidence == b"quote of " + bound
    assert found.statement["evidence"] == ["simulator", hashlib.sha256(b"quote of " + bound).digest()]
    assert found.statement["offload"] == OFFLOAD
    assert found.statement["run"] == RUN
    assert found.shown["prompt:0"] == {0: [97, b"a"], 1: [98, b"b"]}
    assert found.shown["answer:0"] == {0: [99, b"c"], 1: [100, b"d"], 2: [101, b"e"], 3: None}
    assert found.shown["details"] == {0: ["text:0", "cde"], 1: ["stop", ["x"]]} | dict.fromkeys(range(2, 8))


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_no_bit_can_be_flipped(make: Make, signer: Signer, step: int) -> None:
    data = make()
    for at in range(0, 8 * len(data), step):
        changed = bytearray(data)
        changed[at // 8] ^= 1 << at % 8
        assert refused(bytes(changed), signer.key.public), at
        # Whoever takes any key takes none that this makes up either.
        assert at % 25 or refused(bytes(changed), None), at


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_no_bit_of_its_text_can_be_flipped(make: Make, signer: Signer, end: bytes) -> None:
    for prompt in ("ab", "abc", "abcd"):  # ends of each kind
        data = base64.b64encode(make((prompt,), ("c",), details={})) + end
        assert verify(data, signer.key.public).complete
        for at in [*range(0, 8 * len(data), 23), *range(8 * len(data) - 64, 8 * len(data))]:
            changed = bytearray(data)
            changed[at // 8] ^= 1 << at % 8
            assert refused(bytes(changed), signer.key.public), at
        for more in (b"\n", b" ", b"=", b"A", b"\r\n"):
            assert refused(data + b"\n" + more, signer.key.public)
        assert refused(b" " + data, signer.key.public)


def test_no_bit_of_a_part_can_be_flipped(make: Make, signer: Signer) -> None:
    data = Receipt(make(answers=("cdefgh",))).show(["answer:2-3"])
    assert verify(data, signer.key.public).shown == {"answer:0": {2: [101, b"e"], 3: [102, b"f"]}}
    begin = data.index(b"shown")
    assert begin < data.index(decode(data)["statement"])  # keys come by their length
    shown = encode(decode(data)["shown"])
    begin = data.index(shown)
    for at in range(8 * begin, 8 * (begin + len(shown))):
        changed = bytearray(data)
        changed[at // 8] ^= 1 << at % 8
        assert refused(bytes(changed), signer.key.public), at


def test_bytes_cut_off_or_added(make: Make, signer: Signer) -> None:
    data = make()
    for size in range(len(data)):
        assert refused(data[:size], signer.key.public)
    for more in (b"\0", b"\xf6", data):
        assert refused(data + more, signer.key.public)
        assert refused(more + data, signer.key.public)


def test_parts_of_other_receipts_do_not_fit(make: Make, signer: Signer) -> None:
    """Even where both say the same of the same tokens."""
    one, other = (decode(make()) for _ in range(2))
    for name in one:
        swapped = encode(one | {name: other[name]})
        assert refused(swapped, signer.key.public) == (one[name] != other[name]), name
    for at in range(3):
        shown = [*one["shown"][:at], other["shown"][at], *one["shown"][at + 1 :]]
        assert refused(encode(one | {"shown": shown}), signer.key.public)
        leaves = [other["shown"][at][1][0], *one["shown"][at][1][1:]]
        row = [one["shown"][at][0], leaves, []]
        assert refused(encode(one | {"shown": [row]}), signer.key.public)


def test_parts_do_not_move_within_a_receipt(make: Make, signer: Signer) -> None:
    envelope = decode(make(("ab", "ab"), ("ab", "ab")))
    shown = envelope["shown"]
    for a, b in ((0, 1), (2, 3), (0, 2)):
        moved = list(shown)
        moved[a], moved[b] = [shown[a][0], *shown[b][1:]], [shown[b][0], *shown[a][1:]]
        assert refused(encode(envelope | {"shown": moved}), signer.key.public)
    swapped = [[0, *shown[0][1][1][1:]], [1, *shown[0][1][0][1:]]]
    assert refused(encode(envelope | {"shown": [[shown[0][0], swapped, []]]}), signer.key.public)
    for wrong in (
        [shown[1], shown[0]],
        [shown[0], shown[0]],
        [["prompt:2", *shown[0][1:]]],
        [[shown[0][0], [], [envelope["signature"][:32]]]],
        [[shown[0][0], shown[0][1], [bytes(32)]]],
        [[shown[0][0], shown[0][1][::-1], []]],
        [[shown[0][0], [shown[0][1][0]], []]],
        [[shown[0][0], [*shown[0][1], [2, bytes(16), b"\xf6"]], []]],
        ["prompt:0"],
        [[]],
    ):
        assert refused(encode(envelope | {"shown": wrong}), signer.key.public)


def test_another_signer(make: Make, signer: Signer) -> None:
    stranger = SigningKey.new()
    data = make()
    forged = resigned(data, stranger)
    assert verify(forged, stranger.public).complete
    assert verify(forged, None).signer == stranger.public  # whom nobody asked for
    assert refused(forged, signer.key.public)
    assert refused(make(by=Signer(stranger)), signer.key.public)
    assert refused(data, stranger.public)
    envelope = decode(data)
    for signature in (bytes(64), stranger.sign(DOMAIN + envelope["statement"]), stranger.sign(envelope["statement"])):
        assert refused(encode(envelope | {"signature": signature}), signer.key.public)
    undomained = signer.key.sign(envelope["statement"])  # a signature for another purpose
    assert refused(encode(envelope | {"signature": undomained}), signer.key.public)


def test_evidence_belongs_to_the_key(make: Make, signer: Signer) -> None:
    envelope = decode(make())
    other = ReceiptEvidence("simulator", b"quote of another key")
    assert refused(encode(envelope | {"evidence": other.blob}), signer.key.public)
    assert verify(encode(envelope | {"evidence": None}), signer.key.public).evidence is None
    plain = Signer(signer.key)
    bare = decode(make(by=plain))
    assert bare["evidence"] is None
    assert decode(bare["statement"])["evidence"] is None
    assert refused(encode(bare | {"evidence": other.blob}), signer.key.public)


@pytest.mark.parametrize(
    "changed",
    [
        {"type": "cutset receipt 2"},
        {"began": 3_000},
        {"began": -1},
        {"began": 1.5},
        {"began": True},
        {"seed": -(1 << 63) - 1},
        {"seed": None},
        {"more": 1},
        {"id": bytes(15)},
        {"mode": 1},
        {"mode": "x" * 5000},
        {"sampling": {"stop": "x"}},
        {"sampling": []},
        {"run": RUN | {"code": b""}},
        {"run": RUN | {"more": 1}},
        {"offload": {}},
        {"offload": OFFLOAD | {"products": -1}},
        {"offload": OFFLOAD | {"pads": PADS | {"rows": [9, 3]}}},
        {"offload": OFFLOAD | {"pads": PADS | {"blocks": [9, 3]}}},
        {"offload": OFFLOAD | {"pads": PADS | {"blocks": [9]}}},
        {"prompts": []},
        {"prompts": [[3, bytes(32)]]},
        {"prompts": [[0, bytes(32)]]},
        {"prompts": [[1 << 23, bytes(32)]]},
        {"prompts": [[2, bytes(31)]]},
        {"answers": [[1, 0, "stop", 4, bytes(32)]]},
        {"answers": [[0, 0, "stop", 1, bytes(32)], [0, 0, "stop", 1, bytes(32)]]},
        {"answers": [[0, 0, "stop", 4]]},
        {"details": [2]},
        {"evidence": ["simulator"]},
        {"evidence": ["simulator", bytes(32)]},
    ],
    ids=str,
)
def test_a_statement_is_checked_even_if_it_is_signed(changed: dict[str, Any], make: Make, signer: Signer) -> None:
    """Whoever signs nonsense has no receipt."""
    assert refused(resigned(make(), signer.key, **changed), signer.key.public)
    envelope = decode(make())
    for name in envelope:
        assert refused(encode({key: one for key, one in envelope.items() if key != name}), signer.key.public)
    for statement in (b"", b"\xa0", b"\x80", envelope["statement"] + b"\0"):
        wrong = envelope | {"statement": statement, "signature": signer.key.sign(DOMAIN + statement)}
        assert refused(encode(wrong), signer.key.public)


def test_a_run_that_failed_says_so(make: Make, signer: Signer) -> None:
    found = verify(make(outcome="integrity", offload=OFFLOAD | {"failures": 1}), signer.key.public)
    assert not found.complete
    assert found.statement["offload"]["failures"] == 1


# ---- parts


def test_a_part_shows_itself_and_nothing_else(make: Make, signer: Signer) -> None:
    secret = "the answer is forty-two"
    whole = make(("prompt",), (secret,), details={"text:0": secret, "stop": ["quux"]})
    receipt = Receipt(whole, signer.key.public)
    part = receipt.show(["4-9"])
    found = verify(part, signer.key.public)
    assert list(found.shown) == ["answer:0"]
    assert b"".join(one[1] for one in found.shown["answer:0"].values()) == b"answer"
    hidden = [leaf for row in decode(whole)["shown"] for leaf in row[1] if leaf[1] not in part]
    assert len(hidden) == 8 + 32 - 6 + 8
    for _, salt, _ in hidden:
        assert salt not in part
    for text in (secret.encode(), b"quux", b"forty"):
        assert text not in part
    assert len(receipt.show(["0"])) == len(Receipt(make(("a",), (secret,))).show(["1"]))
    assert verify(receipt.bare, signer.key.public).shown == {}
    assert Receipt(part).bare == receipt.bare
    assert {Receipt(one).digest for one in (whole, part, receipt.bare)} == {receipt.digest}
    assert Receipt(make()).digest != receipt.digest


def test_parts_of_several_trees(make: Make, signer: Signer) -> None:
    receipt = Receipt(make(("abc", "de"), ("f", "gh")))
    found = verify(receipt.show(["details:stop", "answer:1:0-1", "prompt:1:1", "prompt:0", "0"]), signer.key.public)
    assert list(found.shown) == ["prompt:0", "prompt:1", "answer:0", "answer:1", "details"]
    assert found.shown["prompt:1"] == {1: [101, b"e"]}
    assert found.shown["answer:1"] == {0: [103, b"g"], 1: [104, b"h"]}
    assert found.shown["details"] == {1: ["stop", ["x"]]}


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ("4", "has 4 leaves"),
        ("0-4", "has 4 leaves"),
        ("3-2", "write 3-5"),
        ("answer:7:0", "has no 'answer:7'"),
        ("prompt:1:0", "has no 'prompt:1'"),
        ("details:secret", "no detail 'secret'"),
        ("-1", "write 3-5"),
        ("x", "write 3-5"),
        ("", "write 3-5"),
        ("9" * 30, "write 3-5"),
        ("answer:1", "has 4 leaves|write"),
    ],
)
def test_parts_that_are_not_there(part: str, why: str, make: Make) -> None:
    if part == "answer:1":
        assert parse_part(part) == ("answer:0", range(1, 2))
        return
    with pytest.raises(ConfigError, match=why):
        Receipt(make()).show([part])


def test_a_part_of_a_part_cannot_be_made(make: Make) -> None:
    part = Receipt(make()).show(["1"])
    with pytest.raises(ConfigError, match="doesn't show all of answer:0"):
        Receipt(part).show(["1"])
    with pytest.raises(ConfigError, match="doesn't show all"):
        Receipt(part).whole("prompt:0")


# ---- keys


def test_a_signing_key_is_its_owner_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = SigningKey.new()
    secret, public = key.save("me", tmp_path)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert SigningKey.load(secret).public == key.public
    assert public.read_text().split()[0] == key.public.hex()
    assert key.public.hex() in repr(key)
    private = next(line.split()[1] for line in secret.read_text().splitlines() if line.startswith("secret"))
    assert private not in repr(key)
    assert private not in repr(Signer(key))
    with pytest.raises(ConfigError, match="is there already"):
        SigningKey.new().save("me", tmp_path)
    for mode in (0o640, 0o604, 0o660):
        secret.chmod(mode)
        with pytest.raises(ConfigError, match="can be read by others"):
            SigningKey.load(secret)
    secret.chmod(0o600)
    with pytest.raises(ConfigError, match="no key that signs"):
        SigningKey.load(save_keys(new_keys(), "link", tmp_path)[0])
    with pytest.raises(ConfigError, match="don't belong together"):
        load_keys(secret)
    for text in ("", "secret 00", secret.read_text().replace("public", "publik")):
        path = tmp_path / "wrong.key"
        path.write_text(text)
        path.chmod(0o600)
        with pytest.raises(ConfigError, match="holds no key pair"):
            SigningKey.load(path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    own, where = own_signing_key()
    assert own_signing_key()[0].public == own.public
    assert stat.S_IMODE(where.stat().st_mode) == 0o600
