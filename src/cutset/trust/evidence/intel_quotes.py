"""Verifies quotes of SGX and TDX by `dcap-qvl`, against collateral that is kept off-line, by a policy's rules."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cutset.errors import ConfigError, EvidenceError
from cutset.trust.evidence.collateral import load_collateral
from cutset.trust.evidence.layouts import check_exact
from cutset.trust.evidence.policy import IntelRules, SgxRules, TdxRules, allows
from cutset.trust.evidence.verified import VerifiedQuote

if TYPE_CHECKING:
    from dcap_qvl import QuoteVerifier

__all__ = ["verify_intel"]

DAY = 86400.0
# Flags of an enclave's attributes, in their first byte.
INITIALISED, DEBUG, MODE64, PROVISION_KEY, LAUNCH_KEY = 0x01, 0x02, 0x04, 0x10, 0x20
TDX_REGISTERS = (
    *("mr_td", "rt_mr0", "rt_mr1", "rt_mr2", "rt_mr3"),
    *("mr_signer_seam", "mr_config_id", "mr_owner", "mr_owner_config", "mr_service_td"),
)


def verify_intel(quote: bytes, rules: SgxRules | TdxRules, now: float, root: bytes | None = None) -> VerifiedQuote:
    """What a quote says, if it is genuine and the rules allow it. `root`: another authority than Intel's own, DER.
    Raises EvidenceError where it isn't, ConfigError where collateral is missing."""
    kind: Literal["sgx", "tdx"] = "sgx" if isinstance(rules, SgxRules) else "tdx"
    check_exact(quote)
    claims, issued = _claims(quote, kind, rules, now, root)
    if now - issued > rules.most_collateral_days * DAY:
        raise EvidenceError(
            f"the collateral for its quote is {(now - issued) / DAY:.0f} days old; the policy allows "
            f"{rules.most_collateral_days:g}: fetch it again"
        )
    tcb = claims["tcb"]
    status, advisories = str(tcb["status"]), [str(one) for one in tcb["advisory_ids"]]
    if status not in rules.tcb_status:  # the verifier has said so before; a policy doesn't hang on one check
        raise EvidenceError(f"its platform's TCB status is {status}, which the policy doesn't allow")
    if wrong := [one for one in advisories if one not in rules.advisories]:
        raise EvidenceError(f"advisories hold for its platform that the policy doesn't put up with: {', '.join(wrong)}")
    [(_, report)] = claims["report"].items()
    shown = _sgx(report, rules) if isinstance(rules, SgxRules) else _tdx(report, rules)
    return VerifiedQuote(kind, bytes.fromhex(shown.pop("report_data")), shown, status, tuple(advisories), True)


def _claims(
    quote: bytes, kind: Literal["sgx", "tdx"], rules: IntelRules, now: float, root: bytes | None
) -> tuple[dict[str, Any], float]:
    try:
        import dcap_qvl
    except ModuleNotFoundError:
        raise ConfigError("evidence of SGX and TDX needs a package more: pip install 'cutset[trust]'") from None
    seconds = int(now)
    try:
        parsed = dcap_qvl.parse_quote(quote)
        fmspc, chain = parsed.fmspc(), parsed.cert_chain_pem_bytes()
    except BaseException as error:
        raise _unreadable(error) from None
    collateral = load_collateral(Path(rules.collateral), kind, fmspc, chain=chain is None)
    wanted = dcap_qvl.QuotePolicy.strict(seconds)
    for status in rules.tcb_status:
        wanted = wanted.allow_status(status)
    wanted = wanted.allow_dynamic_platform(rules.dynamic_platform).allow_cached_keys(rules.cached_keys)
    wanted = wanted.allow_smt(rules.smt).min_tcb_eval_data_number(rules.least_tcb_evaluation)
    grace = int(rules.most_outdated_days * DAY)
    wanted = wanted.platform_grace_period(grace).qe_grace_period(grace)
    verifier: QuoteVerifier = dcap_qvl.QuoteVerifier(root)
    try:
        text = verifier.verify_with_policy(quote, collateral.value, seconds, wanted).to_json()
    except BaseException as error:
        raise _unreadable(error) from None
    claims: dict[str, Any] = json.loads(text)
    if claims["tee_type"] != {"sgx": 0x00, "tdx": 0x81}[kind]:
        raise EvidenceError(f"its quote isn't one of {kind}")
    return claims, collateral.issued


def _unreadable(error: BaseException) -> BaseException:
    """What the verifier says of a quote, as an error of ours; a panic of its code is none of Python's exceptions."""
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        return EvidenceError(f"its quote isn't accepted: {str(error)[:300]}")
    return error


def _sgx(report: Mapping[str, Any], rules: SgxRules) -> dict[str, str]:
    flags = bytes.fromhex(report["attributes"])[0]
    if flags & DEBUG or not flags & INITIALISED or not flags & MODE64:
        raise EvidenceError("its enclave is one for debugging, or not one of 64 bits")
    if flags & (PROVISION_KEY | LAUNCH_KEY) and not rules.provisioning:
        raise EvidenceError("its enclave may use the provisioning or launch key, which the policy doesn't allow")
    for name in ("mr_enclave", "mr_signer"):
        if not allows(getattr(rules, name), report[name]):
            raise EvidenceError(f"its {name} {report[name]} isn't one that the policy allows")
    if report["isv_prod_id"] != rules.isv_prod_id:
        raise EvidenceError(f"its isv_prod_id is {report['isv_prod_id']}, not the policy's {rules.isv_prod_id}")
    if report["isv_svn"] < (rules.isv_svn or 0):
        raise EvidenceError(f"its isv_svn {report['isv_svn']} is older than the policy's {rules.isv_svn}")
    names = ("mr_enclave", "mr_signer", "isv_prod_id", "isv_svn", "attributes", "report_data")
    return {name: str(report[name]) for name in names}


def _tdx(report: Mapping[str, Any], rules: TdxRules) -> dict[str, str]:
    fields = _flat(report)
    if bytes.fromhex(fields["td_attributes"])[0]:
        raise EvidenceError("its trust domain is one for debugging or profiling")
    found = {name: fields[name] for name in TDX_REGISTERS if name in fields}
    for name, value in found.items():
        if not allows(getattr(rules, name), value):
            raise EvidenceError(f"its {name} {value} isn't one that the policy allows")
    return {name: str(fields[name]) for name in (*found, "td_attributes", "xfam", "mr_seam", "report_data")}


def _flat(report: Mapping[str, Any]) -> dict[str, Any]:
    """Newer reports have the older one in `base`."""
    base = report.get("base")
    return {**(_flat(base) if isinstance(base, dict) else {}), **{k: v for k, v in report.items() if k != "base"}}
