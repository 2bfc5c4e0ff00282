"""Collateral of Intel's quotes, kept off-line: TCB information, identities, certificates and revocation lists.

A directory has one JSON file for each kind of platform, as `dcap-qvl` writes them. All of it is signed by Intel, and
the verifier checks that; here is only chosen which file fits a quote.
"""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutset.errors import ConfigError
from cutset.reading import read_bytes

if TYPE_CHECKING:
    from dcap_qvl import QuoteCollateralV3

__all__ = ["Collateral", "load_collateral"]

MOST_FILES, MOST_BYTES = 256, 1 << 20
IDS = {"sgx": "SGX", "tdx": "TDX"}


@dataclass(frozen=True, slots=True)
class Collateral:
    """One file. `issued`: when the older of its two documents was signed, in seconds since 1970."""

    path: Path
    value: QuoteCollateralV3
    issued: float


def load_collateral(folder: Path, kind: str, fmspc: str, *, chain: bool) -> Collateral:
    """What a directory has for platforms of this kind, the newest there is. `chain`: with a chip's certificates, for a
    quote that has none of its own; they would be taken in place of the quote's, which nobody would look at then. Raises
    ConfigError for none."""
    from dcap_qvl import QuoteCollateralV3

    found: list[Collateral] = []
    paths = sorted(folder.glob("*.json"))
    if len(paths) > MOST_FILES:
        raise ConfigError(f"{folder} has more than {MOST_FILES} files of collateral")
    for path in paths:
        data = read_bytes(path, MOST_BYTES, "collateral")
        try:
            content = json.loads(data)
            if not chain:
                content.pop("pck_certificate_chain", None)
            value = QuoteCollateralV3.from_json(json.dumps(content))
            tcb, identity = json.loads(value.tcb_info), json.loads(value.qe_identity)
            if tcb["id"] == IDS[kind] and str(tcb["fmspc"]).upper() == fmspc.upper():
                found.append(Collateral(path, value, min(_time(tcb["issueDate"]), _time(identity["issueDate"]))))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(f"{path} is no collateral: {str(error)[:200]}") from None
    if not found:
        raise ConfigError(f"{folder} has no collateral of {IDS[kind]} platforms {fmspc}: fetch it with dcap-qvl")
    return max(found, key=lambda one: one.issued)


def _time(text: Any) -> float:
    found = datetime.datetime.fromisoformat(str(text))
    return (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).timestamp()
