"""Evidence in receipts: what the stand-alone verifier says of it, and what a policy does."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import pytest

from cutset.cli import main as cutset
from cutset.cli import trust_verify
from cutset.trust.canonical import encode
from cutset.trust.evidence.providers import SimulatorProvider
from cutset.trust.evidence.simulated_quote import SimulatedEnclave
from cutset.trust.signing_key import ReceiptEvidence, Signer, SigningKey, bound_data, evidence_by
from cutset.trust.verify_receipt import InvalidReceipt, decode, main, verify
from tests.receipts.conftest import Make


def placed(kind: str, data: bytes) -> bytes:
    """What begins as a quote of this kind does, and carries these bytes where one does."""
    fronts = {
        "sgx 3": (bytes([3, 0, 2, 0]), 0, 368),
        "sgx 4": (bytes([4, 0, 2, 0]), 0, 368),
        "sgx 5": (bytes([5, 0, 2, 0]), 0, 374),
        "tdx 4": (bytes([4, 0, 2, 0]), 0x81, 568),
        "tdx 5": (bytes([5, 0, 2, 0]), 0x81, 574),
        "snp": (bytes([2, 0, 0, 0]), 0, 80),
    }
    if kind == "simulator":
        return SimulatedEnclave(b"x").quote(data)
    front, machine, at = fronts[kind]
    return (front + bytes([machine])).ljust(at, b"\0") + data + b"\x11" * 700


@pytest.mark.parametrize("kind", ["sgx 3", "sgx 4", "sgx 5", "tdx 4", "tdx 5", "snp", "simulator"])
def test_a_quote_of_another_key_is_found(
    kind: str, make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the hash lies is looked up, and the rest isn't judged: it says so."""
    name, key, file = kind.split()[0], SigningKey.new(), tmp_path / "receipt"
    data = hashlib.sha512(b"cutset receipt key 1\0" + key.public).digest()
    right = make(by=Signer(key, ReceiptEvidence(name, placed(kind, data))))
    assert verify(right, key.public).evidence is not None
    file.write_bytes(right)
    assert main([str(file), "--any-key"]) == 0
    said = capsys.readouterr().out
    assert f"evidence   of kind {name}" in said
    assert "its quote carries this key's hash; whether the quote is genuine is NOT checked here" in said
    assert ("NOT CONFIDENTIAL" in said) == (name == "simulator")
    # Bytes of a name, a bit of the hash, another key's: all of them signed as they should be.
    other = hashlib.sha512(b"cutset receipt key 1\0" + SigningKey.new().public).digest()
    for wrong in (bytes(64), data[:-1] + bytes([data[-1] ^ 1]), other, hashlib.sha512(key.public).digest()):
        made = make(by=Signer(key, ReceiptEvidence(name, placed(kind, wrong))))
        with pytest.raises(InvalidReceipt, match="bound to another key"):
            verify(made, key.public)
        file.write_bytes(made)
        assert main([str(file), "--any-key"]) == 1
        assert "bound to another key" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "quote"),
    [
        ("sgx", b"\3\0" + bytes(300)),
        ("sgx", b"\6\0" + bytes(700)),
        ("sgx", bytes([4, 0, 2, 0, 0x81]) + bytes(700)),
        ("tdx", bytes([4, 0, 2, 0, 0]) + bytes(700)),
        ("tdx", bytes([3, 0, 2, 0, 0x81]) + bytes(700)),
        ("snp", bytes(100)),
        ("simulator", b"quote"),
        ("nvidia\x1b[2J", bytes(2000)),
    ],
)
def test_what_is_not_known_is_not_called_bound(
    kind: str, quote: bytes, make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "receipt"
    file.write_bytes(make(by=Signer(SigningKey.new(), ReceiptEvidence(kind, quote))))
    assert main([str(file), "--any-key"]) == 0
    said = capsys.readouterr().out
    assert "the key is NOT SHOWN to be bound" in said
    assert "carries this key's hash" not in said
    assert "\x1b" not in said


def test_evidence_that_is_left_out_is_named(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "receipt"
    for data, words in (
        (encode(decode(make()) | {"evidence": None}), "of kind simulator (NOT CONFIDENTIAL"),
        (make(by=Signer(SigningKey.new())), "none: nothing says where the key lives"),
    ):
        file.write_bytes(data)
        assert main([str(file), "--any-key"]) == 0
        said = capsys.readouterr().out
        assert words in said
        assert "carries this key's hash" not in said


POLICY = """
version = 1
[simulator]
accept = "NOT CONFIDENTIAL"
measurement = ["{}"]
"""


def test_a_policy_decides_of_the_quote(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    provider, key = SimulatorProvider(), SigningKey.new()
    good, other, file = tmp_path / "good.toml", tmp_path / "other.toml", tmp_path / "receipt"
    good.write_text(POLICY.format(provider.measurement.hex()))
    other.write_text(POLICY.format(SimulatorProvider(b"other").measurement.hex()))
    right = make(by=Signer.of(key, evidence_by(provider)))
    asked = ["trust", "verify", str(file), "--any-key", "--policy"]

    def said(data: bytes, policy: Path) -> tuple[int, str]:
        file.write_bytes(data)
        code, captured = cutset([*asked, str(policy)]), capsys.readouterr()
        return code, captured.out + captured.err

    code, words = said(right, good)
    assert code == 0
    assert f"its evidence of kind simulator is enough: measurement {provider.measurement.hex()}" in words
    assert "NOT CONFIDENTIAL: a simulator's evidence proves nothing" in words
    assert "GPU" not in words
    assert said(make(by=Signer.of(key, evidence_by(provider)), outcome="integrity"), good)[0] == 3
    gpus = tmp_path / "gpus.toml"
    gpus.write_text(good.read_text() + "[nvidia]\n")
    code, words = said(right, gpus)
    assert code == 0
    assert "of GPUs nothing is known" in words, "though the policy has rules for them"
    code, words = said(right, other)
    assert code == 1
    assert "NOT enough: its measurement" in words
    for evidence, match in (
        (None, "it shows none"),
        (ReceiptEvidence("simulator", b"no quote"), "isn't one of the simulator"),
        (ReceiptEvidence("tdx", placed("snp", bytes(64))), "is of kind tdx, and the policy accepts only simulator"),
        (ReceiptEvidence("x\x1b[2J", b"x"), "accepts only simulator"),
    ):
        code, words = said(make(by=Signer(key, evidence)), good)
        assert (code, match in words, "\x1b" in words) == (1, True, False)
    quote = bytearray(provider.quote(bound_data(key.public)))
    quote[-1] ^= 1
    assert said(make(by=Signer(key, ReceiptEvidence("simulator", bytes(quote)))), good)[0] == 1
    assert said(right + b"x", good)[0] == 1
    assert cutset(["trust", "verify", "-", "--any-key", "--policy", str(good)]) == 2


def test_evidence_is_that_of_the_receipt_that_was_checked(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another one that is put there meanwhile, with good evidence for a key of its own, doesn't count."""
    provider, policy, file = SimulatorProvider(), tmp_path / "policy.toml", tmp_path / "receipt"
    policy.write_text(POLICY.format(provider.measurement.hex()))
    mine, other = SigningKey.new(), SigningKey.new()
    file.write_bytes(make(by=Signer(mine)))
    verify_files = trust_verify.verify_files

    def swapped(args: argparse.Namespace) -> int:
        code = verify_files(args)
        file.write_bytes(make(by=Signer.of(other, evidence_by(provider))))
        return code

    monkeypatch.setattr(trust_verify, "verify_files", swapped)
    assert cutset(["trust", "verify", str(file), "--key", mine.public.hex(), "--policy", str(policy)]) == 2
    captured = capsys.readouterr()
    assert "signed by another key" in captured.err
    assert "is enough" not in captured.out
