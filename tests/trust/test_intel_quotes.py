"""Real quotes of SGX and TDX: accepted by the rules that fit them, and by nothing else; and an authority of our own."""

from __future__ import annotations

import base64
import datetime
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cutset.errors import ConfigError, CutsetError, EvidenceError
from cutset.trust.evidence.intel_quotes import verify_intel
from cutset.trust.evidence.layouts import report_data, trimmed
from cutset.trust.evidence.policy import SgxRules
from real_quotes import QUOTES
from tests.trust.conftest import Vector
from tests.trust.intel_pki import NOW, IntelLike

REAL = ("sgx_quote", "tdx_quote", "tdx_quote_td15ex")
Load = Callable[[str], Vector]


@pytest.mark.parametrize("name", REAL)
def test_a_real_quote_is_accepted_by_the_rules_that_fit_it(vector: Load, name: str) -> None:
    one = vector(name)
    found = verify_intel(one.quote, one.rules, one.now)
    kind = name.partition("_")[0]
    assert (found.kind, found.confidential) == (kind, True)
    assert found.report_data == report_data(kind, one.quote)
    if name == "sgx_quote":
        assert found.report_data.startswith(b"Hello, world!\0")
        assert found.status == "ConfigurationAndSWHardeningNeeded"
        assert found.advisories == ("INTEL-SA-00289", "INTEL-SA-00615")


OTHERS: list[tuple[str, str, Any]] = [
    ("sgx_quote", "mr_enclave", ["00" * 32]),
    ("sgx_quote", "mr_enclave", []),
    ("sgx_quote", "mr_signer", ["00" * 32]),
    ("sgx_quote", "isv_prod_id", 1),
    ("sgx_quote", "isv_svn", 1),
    ("sgx_quote", "tcb_status", ["UpToDate"]),
    ("sgx_quote", "tcb_status", []),
    ("sgx_quote", "advisories", ["INTEL-SA-00289"]),
    ("sgx_quote", "advisories", []),
    *((name, "least_tcb_evaluation", 99) for name in REAL),
    *((name, "most_collateral_days", 0.5) for name in REAL),
    *(("tdx_quote", name, ["11" * 48]) for name in ("mr_td", "rt_mr0", "rt_mr1", "rt_mr2", "rt_mr3")),
    *(("tdx_quote", name, []) for name in ("mr_td", "rt_mr0", "rt_mr1", "rt_mr2", "rt_mr3")),
    *(("tdx_quote", name, ["11" * 48]) for name in ("mr_config_id", "mr_owner", "mr_owner_config", "mr_signer_seam")),
    ("tdx_quote_td15ex", "mr_service_td", ["11" * 48]),
    ("tdx_quote_td15ex", "mr_config_id", ["00" * 48]),
    *(("tdx_quote", name, False) for name in ("dynamic_platform", "cached_keys", "smt")),
]


@pytest.mark.parametrize(("name", "field", "value"), OTHERS)
def test_rules_that_say_anything_else_refuse_it(vector: Load, name: str, field: str, value: Any) -> None:
    one = vector(name)
    with pytest.raises(EvidenceError):
        verify_intel(one.quote, msgspec.structs.replace(one.rules, **{field: value}), one.now)


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("days", [-400, 60, 4000])
def test_collateral_has_its_time(vector: Load, name: str, days: int) -> None:
    one = vector(name)
    rules = msgspec.structs.replace(one.rules, most_collateral_days=3650)
    with pytest.raises(EvidenceError, match=r"expired|future|Expired|isn't accepted"):
        verify_intel(one.quote, rules, one.now + days * 86400)


def test_a_platform_that_is_out_of_date(vector: Load) -> None:
    one = vector("tdx_quote_outdated")
    with pytest.raises(EvidenceError, match="TCB"):
        verify_intel(one.quote, one.rules, one.now)


def test_a_quote_of_the_other_kind(vector: Load) -> None:
    """Whose platform's collateral is not there, or where it is, isn't that of this kind."""
    sgx, tdx = vector("sgx_quote"), vector("tdx_quote")
    with pytest.raises(CutsetError):
        verify_intel(sgx.quote, tdx.rules, tdx.now)
    with pytest.raises(CutsetError):
        verify_intel(tdx.quote, sgx.rules, sgx.now)


def fields_of(quote: bytes) -> dict[str, range]:
    """Where everything lies that somebody has signed, and the signatures."""
    version = quote[0]
    found = {
        "version": range(2),
        "key type": range(2, 4),
        "kind of machine": range(4, 8),
        "qe svn": range(8, 10),
        "pce svn": range(10, 12),
        "vendor": range(12, 28),
        "user data": range(28, 48),
    }
    if version == 3:
        names = (
            *(("cpu svn", 16), ("misc select", 4), ("reserved 1", 28), ("attributes", 16), ("mr_enclave", 32)),
            *(
                ("reserved 2", 32),
                ("mr_signer", 32),
                ("reserved 3", 96),
                ("product", 2),
                ("svn", 2),
                ("reserved 4", 60),
            ),
            ("report data", 64),
        )
        at = 48
    else:
        names = (
            *(("tcb svn", 16), ("mr_seam", 48), ("mr_signer_seam", 48), ("seam attributes", 8), ("td attributes", 8)),
            *(("xfam", 8), ("mr_td", 48), ("mr_config_id", 48), ("mr_owner", 48), ("mr_owner_config", 48)),
            *(("rt_mr0", 48), ("rt_mr1", 48), ("rt_mr2", 48), ("rt_mr3", 48), ("report data", 64)),
        )
        at = 48 if version == 4 else 54
        if version == 5:
            found |= {"body type": range(48, 50), "body size": range(50, 54)}
    for name, size in names:
        found[name] = range(at, at + size)
        at += size
    if version == 5:
        end = 54 + int.from_bytes(quote[50:54], "little")
        found["rest of the body"] = range(at, end)
        at = end
    found["length"] = range(at, at + 4)
    found["signature"], found["attestation key"] = range(at + 4, at + 68), range(at + 68, at + 132)
    at += 132
    if version >= 4:
        found["outer type"], found["outer length"] = range(at, at + 2), range(at + 2, at + 6)
        at += 6
    found["qe report"], found["qe signature"] = range(at, at + 384), range(at + 384, at + 448)
    size = int.from_bytes(quote[at + 448 : at + 450], "little")
    found["qe data length"], found["qe data"] = range(at + 448, at + 450), range(at + 450, at + 450 + size)
    at += 450 + size
    found["chain type"], found["chain length"], found["chain"] = (
        range(at, at + 2),
        range(at + 2, at + 6),
        range(at + 6, len(quote)),
    )
    return found


@pytest.mark.parametrize("name", REAL)
def test_every_field_flipped_once(vector: Load, name: str) -> None:
    """The first, a middle and the last bit of each; one bit of every byte of measurements and report data."""
    one = vector(name)
    fields, whole = fields_of(one.quote), sorted({at for each in fields_of(one.quote).values() for at in each})
    assert whole == list(range(len(one.quote))), "a byte that belongs to no field"
    for field, places in fields.items():
        all_of_it = field.startswith(("mr_enclave", "mr_td", "report data", "length"))
        for at in places if all_of_it else {places[0], places[len(places) // 2], places[-1]}:
            bits = (at % 8,) if len(places) > 8 else range(8)
            for bit in bits:
                flipped = bytearray(one.quote)
                flipped[at] ^= 1 << bit
                refused(bytes(flipped), one, f"{field}, byte {at}, bit {bit}")


def refused(quote: bytes, one: Vector, what: str) -> None:
    try:
        verify_intel(quote, one.rules, one.now)
    except CutsetError:
        return
    pytest.fail(f"accepted: {what}")


def any_rules(one: Vector) -> Vector:
    """The same with every measurement allowed: what is refused then is refused by the signatures."""
    names = [
        name for name in ("mr_enclave", "mr_td", "rt_mr0", "rt_mr1", "rt_mr2", "rt_mr3") if hasattr(one.rules, name)
    ]
    return Vector(one.quote, msgspec.structs.replace(one.rules, **dict.fromkeys(names, "any")), one.now)


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Changed in one of the ways in which bytes are changed."""
    at, other = draw.randrange(len(data)), draw.randrange(len(data))
    size = draw.randrange(1, 65)
    match draw.randrange(7):
        case 0:
            return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
        case 1:
            return data[:at] + draw.randbytes(1) + data[at + 1 :]
        case 2:
            return data[:at] + data[at + size :]
        case 3:
            return data[:at] + draw.randbytes(size) + data[at:]
        case 4:
            return data[:at] + data[other : other + size] + data[at + size :]
        case 5:
            return data[:at]
        case _:
            return data + draw.randbytes(size)


@pytest.mark.parametrize("count", [900, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutations(vector: Load, count: int) -> None:
    draw = random.Random(18)
    vectors = [any_rules(vector(name)) for name in REAL]
    for number in range(count):
        one = vectors[number % len(vectors)]
        changed = mutated(one.quote, draw)
        if changed != one.quote:
            refused(changed, one, f"mutation {number}")


@pytest.mark.parametrize("name", REAL)
def test_bytes_behind_the_end_and_other_spellings(vector: Load, name: str) -> None:
    one = vector(name)
    for what, other in {
        "a zero behind": one.quote + b"\0",
        "a page of zeros behind": one.quote + bytes(4096),
        "a line end behind": one.quote + b"\n",
        "twice": one.quote * 2,
        "a byte before": b"\0" + one.quote,
        "hexadecimal": one.quote.hex().encode(),
        "base64": base64.b64encode(one.quote),
        "nothing": b"",
        "zeros": bytes(len(one.quote)),
        "line ends of another system": respelt(one.quote, lambda text: text.replace(b"\n", b"\r\n")),
        "certificates without line ends": respelt(one.quote, lambda text: text.replace(b"=\n-", b"=-")),
        "a blank between certificates": respelt(one.quote, lambda text: text.replace(b"-\n-", b"-\n\n-", 1)),
        "words before certificates": respelt(one.quote, lambda text: b"hello\n" + text),
        "a certificate more": respelt(one.quote, lambda text: text.rstrip(b"\0") + text),
        "two zeros behind certificates": respelt(one.quote, lambda text: text + b"\0"),
    }.items():
        refused(other, one, what)


def respelt(quote: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """The quote with its chain of certificates written in another way, and all lengths right."""
    fields = fields_of(quote)
    chain, length = fields["chain"], fields["length"]
    text = change(quote[chain.start :])
    more = len(text) - len(chain)
    made = bytearray(quote[: chain.start] + text)
    for name in ("length", "chain length", *(["outer length"] if "outer length" in fields else [])):
        at = fields[name].start
        made[at : at + 4] = (int.from_bytes(quote[at : at + 4], "little") + more).to_bytes(4, "little")
    assert length.stop == length.start + 4
    return bytes(made)


def test_zeros_that_a_kernel_left_are_cut_off_where_quotes_are_made() -> None:
    if not (QUOTES / "tdx_quote").is_file():
        pytest.skip("the real quotes are not in the cache: make quotes")
    whole = (QUOTES / "tdx_quote").read_bytes()
    short = trimmed("tdx", whole)
    assert whole == short + bytes(len(whole) - len(short))
    assert len(short) < len(whole)
    with pytest.raises(EvidenceError, match="behind its end"):
        trimmed("tdx", whole[:-1] + b"x")


MINE: dict[str, Any] = {"tcb_status": ["UpToDate"], "mr_enclave": ["11" * 32], "mr_signer": ["22" * 32], "isv_svn": 3}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "its platform out of date": ({"status": "OutOfDate"}, {}, "OutOfDate"),
    "allowed, but for too long": ({"status": "OutOfDate"}, {"tcb_status": ["OutOfDate"]}, "too old"),
    "hardening needed": ({"status": "SWHardeningNeeded"}, {}, "SWHardeningNeeded"),
    "configuration needed": ({"status": "ConfigurationNeeded"}, {}, "ConfigurationNeeded"),
    "its platform revoked": ({"status": "Revoked"}, {"tcb_status": ["Revoked"]}, "Revoked"),
    "its chip revoked": ({"revoke_pck": True}, {}, "certificate chain"),
    "its chips' authority revoked": ({"revoke_ca": True}, {}, "certificate chain"),
    "its chip's certificate expired": ({"pck_days": -1}, {}, "certificate chain"),
    "its quoting enclave out of date": ({"qe_status": "OutOfDate"}, {}, "OutOfDate"),
    "its quoting enclave revoked": ({"qe_status": "Revoked"}, {}, "Revoked"),
    "a quoting enclave of somebody else": ({"qe_signer": bytes(32)}, {}, "MRSIGNER"),
    "an advisory": ({"advisories": ["INTEL-SA-1"]}, {}, "INTEL-SA-1"),
    "one advisory more": ({"advisories": ["INTEL-SA-1", "INTEL-SA-2"]}, {"advisories": ["INTEL-SA-1"]}, "INTEL-SA-2"),
    "a debug enclave": ({"attributes": bytes.fromhex("0700000000000000e700000000000000")}, {}, "(?i)debug"),
    "not initialised": ({"attributes": bytes.fromhex("0400000000000000e700000000000000")}, {}, "debugging"),
    "the provisioning key": ({"attributes": bytes.fromhex("1500000000000000e700000000000000")}, {}, "provisioning"),
    "the launch key": ({"attributes": bytes.fromhex("2500000000000000e700000000000000")}, {}, "launch"),
    "an old version of it": ({"isv_svn": 2}, {}, "older"),
    "an old evaluation": ({}, {"least_tcb_evaluation": 18}, "below minimum"),
    "old collateral": ({"issued": NOW - datetime.timedelta(days=40)}, {"most_collateral_days": 100}, "expired"),
    "collateral older than is allowed": (
        {"issued": NOW - datetime.timedelta(days=9)},
        {"most_collateral_days": 8},
        "9 days",
    ),
    "collateral of the future": ({"issued": NOW + datetime.timedelta(days=1)}, {}, "future"),
}


def judge(folder: Path, made: IntelLike, rules: dict[str, Any], root: bytes | None = None) -> str:
    quote = made.quote()
    made.write(folder)
    found = SgxRules(collateral=str(folder), **(MINE | rules))
    return verify_intel(quote, found, NOW.timestamp(), root or made.root_der).status


@pytest.mark.parametrize("case", CASES)
def test_what_no_public_vector_has(tmp_path: Path, case: str) -> None:
    wrong, rules, match = CASES[case]
    with pytest.raises(EvidenceError, match=match):
        judge(tmp_path, IntelLike(**wrong), rules)


def test_what_is_right_of_it_is_accepted(tmp_path: Path) -> None:
    assert judge(tmp_path, IntelLike(), {}) == "UpToDate"
    assert judge(tmp_path, IntelLike(status="SWHardeningNeeded"), {"tcb_status": ["SWHardeningNeeded"]})
    known = {"tcb_status": ["OutOfDate"], "most_outdated_days": 3650}
    assert judge(tmp_path, IntelLike(status="OutOfDate"), known) == "OutOfDate"
    assert judge(tmp_path, IntelLike(advisories=["INTEL-SA-1"]), {"advisories": ["INTEL-SA-1"]}) == "UpToDate"


def test_an_authority_that_is_not_intels(tmp_path: Path) -> None:
    made = IntelLike()
    with pytest.raises(EvidenceError):
        judge(tmp_path, made, {}, root=IntelLike().root_der)
    quote = made.quote()
    with pytest.raises(EvidenceError):  # and by Intel's own root, which is what everything but tests takes
        verify_intel(quote, SgxRules(collateral=str(tmp_path), **MINE), NOW.timestamp())


def test_collateral_that_is_missing_or_none(tmp_path: Path) -> None:
    made = IntelLike()
    with pytest.raises(ConfigError, match="no collateral of SGX platforms"):
        judge(tmp_path, IntelLike(collateral_fmspc=bytes(6)), {})
    (tmp_path / "collateral.json").write_text("{}")
    with pytest.raises(ConfigError, match="is no collateral"):
        verify_intel(made.quote(), SgxRules(collateral=str(tmp_path), **MINE), NOW.timestamp(), made.root_der)
    (tmp_path / "collateral.json").unlink()
    with pytest.raises(ConfigError, match="has no collateral"):
        verify_intel(made.quote(), SgxRules(collateral=str(tmp_path), **MINE), NOW.timestamp(), made.root_der)


def test_the_newest_collateral_counts(tmp_path: Path) -> None:
    """An older file beside it can't bring back what has become known since."""
    made = IntelLike()
    quote = made.quote()
    made.issued = NOW - datetime.timedelta(days=20)
    made.write(tmp_path)
    (tmp_path / "collateral.json").rename(tmp_path / "a.json")
    made.issued, made.status = NOW - datetime.timedelta(days=1), "OutOfDate"
    made.write(tmp_path)
    with pytest.raises(EvidenceError, match="OutOfDate"):
        verify_intel(quote, SgxRules(collateral=str(tmp_path), **MINE), NOW.timestamp(), made.root_der)
