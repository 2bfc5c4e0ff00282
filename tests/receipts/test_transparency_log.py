"""The log of receipts: what is in it stays there, and whoever kept a head can see it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from cutset.errors import ConfigError
from cutset.trust import transparency_log
from cutset.trust.canonical import encode
from cutset.trust.signing_key import SigningKey
from cutset.trust.transparency_log import LogHead, TransparencyLog, check_proof, read_head
from cutset.trust.verify_receipt import InvalidReceipt, decode

ENTRIES = [bytes([index]) * 32 for index in range(64)]


@pytest.fixture
def key() -> SigningKey:
    return SigningKey.new()


@pytest.fixture
def log(tmp_path: Path) -> TransparencyLog:
    return TransparencyLog(tmp_path / "log")


def refused(*given: bytes | LogHead | None) -> bool:
    try:
        check_proof(*given)
    except InvalidReceipt:
        return True
    return False


def test_it_grows_and_proves_it(log: TransparencyLog, key: SigningKey) -> None:
    heads = list[LogHead]()
    for index, entry in enumerate(ENTRIES):
        places, head = log.append([entry], key)
        assert places == [index]
        assert read_head(log.head_path, key.public) == head
        heads.append(head)
        for old in heads[:: max(1, index // 4)]:
            proof = log.prove(ENTRIES[index // 2], key.public, old)
            assert check_proof(proof, ENTRIES[index // 2], key.public, old) == (index // 2, head)
    assert len({head.root for head in heads}) == 64
    assert {head.log for head in heads} == {heads[0].log}


def test_what_is_there_is_not_added_again(log: TransparencyLog, key: SigningKey) -> None:
    assert log.append(ENTRIES[:3], key)[0] == [0, 1, 2]
    places, head = log.append([ENTRIES[1], ENTRIES[5], ENTRIES[5], ENTRIES[0]], key)
    assert (places, head.size) == ([1, 3, 3, 0], 4)
    assert log.path.stat().st_size == 32 * 5


def test_no_bit_of_a_proof_can_be_flipped(log: TransparencyLog, key: SigningKey) -> None:
    _, old = log.append(ENTRIES[:3], key)
    log.append(ENTRIES[3:7], key)
    proof = log.prove(ENTRIES[4], key.public, old)
    assert check_proof(proof, ENTRIES[4], key.public, old)[0] == 4
    for at in range(8 * len(proof)):
        changed = bytearray(proof)
        changed[at // 8] ^= 1 << at % 8
        assert refused(bytes(changed), ENTRIES[4], key.public, old), at
    assert refused(proof, ENTRIES[5], key.public, old)
    assert refused(proof, ENTRIES[4], SigningKey.new().public, old)
    assert refused(proof + b"\0", ENTRIES[4], key.public, old)
    assert refused(log.prove(ENTRIES[4], key.public), ENTRIES[4], key.public, old)
    for name, value in (("index", -1), ("index", 1 << 63), ("path", [1]), ("growth", bytes(32)), ("since", 2)):
        assert refused(encode(decode(proof) | {name: value}), ENTRIES[4], key.public, old)


def test_another_log_of_the_same_key_is_another_one(log: TransparencyLog, key: SigningKey, tmp_path: Path) -> None:
    other = TransparencyLog(tmp_path / "other")
    _, old = log.append(ENTRIES[:2], key)
    other.append(ENTRIES[:4], key)
    with pytest.raises(ConfigError, match="another log"):
        other.prove(ENTRIES[3], key.public, old)
    (_, mine), proof = log.append(ENTRIES[:4], key), other.prove(ENTRIES[3], key.public)
    assert check_proof(proof, ENTRIES[3], key.public)[1].root == mine.root
    assert refused(proof, ENTRIES[3], key.public, mine)


@pytest.mark.parametrize("how", ["changed", "taken out", "cut off", "swapped", "no log", "head gone", "head changed"])
def test_a_log_that_was_changed_gets_nothing_more(
    how: str, log: TransparencyLog, key: SigningKey, tmp_path: Path
) -> None:
    _, old = log.append(ENTRIES[:5], key)
    data = bytearray(log.path.read_bytes())
    if how == "changed":
        data[100] ^= 1
    elif how == "taken out":
        del data[64:96]
    elif how == "cut off":
        del data[-5:]
    elif how == "swapped":
        data[32:64], data[64:96] = data[64:96], data[32:64]
    elif how == "no log":
        data[3] ^= 1
    elif how == "head gone":
        log.head_path.unlink()
    else:
        head = bytearray(log.head_path.read_bytes())
        head[40] ^= 1
        log.head_path.write_bytes(head)
    log.path.write_bytes(data)
    with pytest.raises(ConfigError):
        log.append(ENTRIES[5:6], key)
    with pytest.raises(ConfigError):
        log.prove(ENTRIES[4], key.public, old)
    assert log.path.read_bytes() == data


def test_whoever_rewrites_history_and_signs_it_is_found_by_an_old_head(log: TransparencyLog, key: SigningKey) -> None:
    """The log's own operator, too."""
    _, old = log.append(ENTRIES[:5], key)
    data = bytearray(log.path.read_bytes())
    data[100] ^= 1
    log.path.write_bytes(data)
    log.head_path.unlink()
    name = bytes(data[16:32])
    entries = [bytes(data[at : at + 32]) for at in range(32, len(data), 32)]
    log.path.write_bytes(data[:32])
    _, head = log.append(entries, key)
    assert head.log == name
    proof = log.prove(ENTRIES[0], key.public)
    assert check_proof(proof, ENTRIES[0], key.public)[1] == head
    with pytest.raises(ConfigError):
        log.prove(ENTRIES[0], key.public, old)
    assert refused(proof, ENTRIES[0], key.public, old)
    assert refused(encode(decode(proof) | {"since": 5}), ENTRIES[0], key.public, old)


def test_what_is_not_there(log: TransparencyLog, key: SigningKey, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be opened"):
        log.prove(ENTRIES[0], key.public)
    log.append(ENTRIES[:1], key)
    with pytest.raises(ConfigError, match="append it first"):
        log.prove(ENTRIES[1], key.public)
    with pytest.raises(ConfigError, match="wasn't signed by this key"):
        log.append(ENTRIES[1:2], SigningKey.new())
    with pytest.raises(ConfigError, match="can't be opened"):
        TransparencyLog(tmp_path).append(ENTRIES[:1], key)


def test_a_full_disk_leaves_it_as_it_was(
    log: TransparencyLog, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = os.pwrite

    def half(descriptor: int, data: bytes, at: int) -> int:
        if len(data) < 40:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(descriptor, data[: len(data) - 7], at)

    for entries in (ENTRIES[:0], ENTRIES[:3]):  # when it is begun, and later
        if entries:
            log.append(entries, key)
        size = 32 * (1 + len(entries)) if entries else 0
        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", half)
            with pytest.raises(ConfigError, match="can't be written: No space"):
                log.append(ENTRIES[3:9], key)
        assert log.path.stat().st_size == size
    assert log.append(ENTRIES[3:9], key)[1].size == 9


@pytest.mark.parametrize("entries", [0, 3])
def test_it_goes_on_after_a_crash(
    entries: int, log: TransparencyLog, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its entries and their head, and in the middle of an entry."""
    if entries:
        log.append(ENTRIES[:entries], key)
    signed = transparency_log.write_atomically

    def crash(path: Path, data: bytes) -> Any:
        if LogHead.of(data, key.public).size > entries:
            raise KeyboardInterrupt
        signed(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(transparency_log, "write_atomically", crash)
        with pytest.raises(KeyboardInterrupt):
            log.append(ENTRIES[10:12], key)
    with log.path.open("ab") as file:
        file.write(b"half of an entry")
    places, head = log.append([ENTRIES[20]], key)
    assert (places, head.size) == ([entries + 2], entries + 3)
    assert log.path.stat().st_size == 32 * (1 + head.size)
    assert check_proof(log.prove(ENTRIES[11], key.public), ENTRIES[11], key.public) == (entries + 1, head)


def test_one_that_was_emptied_is_not_begun_anew(log: TransparencyLog, key: SigningKey) -> None:
    log.append(ENTRIES[:3], key)
    log.path.write_bytes(b"")
    with pytest.raises(ConfigError, match="entries were removed"):
        log.append(ENTRIES[:3], key)
    assert not log.path.stat().st_size
