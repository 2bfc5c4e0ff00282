"""Real quotes, each with the rules that fit it, from the cache that `make quotes` fills."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from cutset.trust.evidence.layouts import trimmed
from cutset.trust.evidence.policy import SgxRules, SnpRules, TcbFloor, TdxRules
from real_quotes import QUOTES

ZERO48 = "00" * 48


@dataclass(frozen=True)
class Vector:
    """A quote, the rules that fit it, and a time at which they do, in seconds since 1970."""

    quote: bytes
    rules: SgxRules | TdxRules
    now: float


def _fields(name: str) -> dict[str, Any]:
    if name == "sgx_quote":
        return {
            "mr_enclave": ["33d8736db756ed4997e04ba358d27833188f1932ff7b1d156904d3f560452fbb"],
            "mr_signer": ["815f42f11cf64430c30bab7816ba596a1da0130c3b028b673133a66cf9a3e0e6"],
            "isv_svn": 0,
            "tcb_status": ["ConfigurationAndSWHardeningNeeded"],
            "advisories": ["INTEL-SA-00289", "INTEL-SA-00615"],
        }
    of_platform = {"tcb_status": ["UpToDate"], "dynamic_platform": True, "cached_keys": True, "smt": True}
    if name == "tdx_quote":
        return of_platform | {
            "mr_td": [
                "91eb2b44d141d4ece09f0c75c2c53d247a3c68edd7fafe8a3520c942a604a407de03ae6dc5f87f27428b2538873118b7"
            ],
            "rt_mr0": [
                "44c0197b39157fdd7a4dcc44767f9d6b0bb3977c7a8e347b8492f827fe9d9e5c48aca29b220b80b6a540cf994b9bc9c0"
            ],
            "rt_mr1": [
                "0084452c01668329d4bc06acdf58a7205c26743304509973949e5619bf81a6a7aea8c323c173019b3093d54e579e9378"
            ],
            "rt_mr2": [
                "d833feef2cd945148aa38ead2c53e9b7f138190aaaebfc551dccd829fc207aa3ba80b70870d7330733642e01d48c3132"
            ],
            "rt_mr3": [ZERO48],
        }
    return of_platform | dict.fromkeys(("mr_td", "rt_mr0", "rt_mr1", "rt_mr2", "rt_mr3", "mr_config_id"), "any")


@pytest.fixture(scope="session")
def vector(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Vector]:
    """A real quote by its name in dcap-qvl's source, a day after its collateral was signed."""

    def load(name: str) -> Vector:
        if not (QUOTES / name).is_file():
            pytest.skip("the real quotes are not in the cache: make quotes")
        kind = name.partition("_")[0]
        folder = tmp_path_factory.mktemp(name)
        shutil.copy(QUOTES / f"{name}_collateral.json", folder)
        collateral = json.loads((QUOTES / f"{name}_collateral.json").read_text(encoding="utf-8"))
        issued = datetime.datetime.fromisoformat(json.loads(collateral["tcb_info"])["issueDate"])
        rules: type[SgxRules] | type[TdxRules] = SgxRules if kind == "sgx" else TdxRules
        made = rules(collateral=str(folder), **_fields(name))
        return Vector(trimmed(kind, (QUOTES / name).read_bytes()), made, issued.timestamp() + 86400)

    return load


@pytest.fixture(scope="session")
def milan(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, SnpRules]:
    """A real report of an AMD Milan machine, whose guest may be debugged, and rules that let that pass."""
    if not (QUOTES / "attestation.bin").is_file():
        pytest.skip("the real quotes are not in the cache: make quotes")
    folder = tmp_path_factory.mktemp("milan")
    for path in QUOTES.glob("*.der"):
        shutil.copy(path, folder)
    report = (QUOTES / "attestation.bin").read_bytes()
    rules = SnpRules(
        certificates=str(folder),
        roots=["69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd"],
        measurement=[report[0x90:0xC0].hex()],
        host_data=[report[0xC0:0xE0].hex()],
        tcb=TcbFloor(boot_loader=0, tee=0, snp=0, microcode=0),
        revocation=False,
        debug=True,
        migration=True,
        smt=True,
    )
    return report, rules
