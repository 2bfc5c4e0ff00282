"""Policies: files that say which evidence is enough. What a policy doesn't say is refused.

A list of measurements is one that a quote's must be in; "any" in its place takes all, and has to be said. Registers
that are zero unless somebody uses them must be zero unless a policy says otherwise. Keys that aren't known are errors,
so a word that is misspelt can't allow anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from cutset.config import parse_toml, read_bounded
from cutset.errors import ConfigError

__all__ = [
    "MOST_POLICY",
    "EvidencePolicy",
    "IntelRules",
    "NvidiaRules",
    "ServerRules",
    "SgxRules",
    "SimulatorRules",
    "SnpRules",
    "TcbFloor",
    "TdxRules",
    "TlsRules",
    "allows",
    "load_policy",
]

MOST_POLICY = 256 << 10  # bytes
Listed = Annotated[str, msgspec.Meta(max_length=200)]
Texts = Annotated[list[Listed], msgspec.Meta(max_length=1000)]
Allowed = Texts | Literal["any"]
Number = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Days = Annotated[float, msgspec.Meta(gt=0, le=3650)]
# As Intel calls them; Revoked is none that a policy may allow.
STATUSES = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
)
# Bytes of each register, by its name.
SIZES = {
    **dict.fromkeys(("mr_enclave", "mr_signer"), 32),
    **dict.fromkeys(("mr_td", "rt_mr0", "rt_mr1", "rt_mr2", "rt_mr3", "mr_signer_seam"), 48),
    **dict.fromkeys(("mr_config_id", "mr_owner", "mr_owner_config", "mr_service_td"), 48),
    **dict.fromkeys(("id_key_digest", "author_key_digest"), 48),
    "host_data": 32,
    **dict.fromkeys(("manifests", "keys", "roots"), 32),
}


class _Rules(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What all tables have: no other keys than these."""


class TlsRules(_Rules, kw_only=True, frozen=True):
    """How the certificate itself is looked at. "evidence": its key is bound by the evidence, and neither its name nor
    who issued it matter. `keys`: SHA-256 of SubjectPublicKeyInfo; none: any that the evidence binds."""

    certificate: Literal["authority", "evidence"] = "authority"
    keys: Texts = []


class ServerRules(_Rules, kw_only=True, frozen=True):
    """What the server says of itself, which its quote is bound to."""

    manifests: Allowed = []
    modes: Allowed = []
    versions: Allowed = []


class IntelRules(_Rules, kw_only=True, frozen=True):
    """What SGX and TDX have in common. `collateral`: a directory with what `dcap-qvl` fetches, as JSON files."""

    collateral: str
    tcb_status: Texts = []
    advisories: Texts = []  # that are put up with
    least_tcb_evaluation: Annotated[int, msgspec.Meta(ge=0, le=1 << 31)] = 0
    most_collateral_days: Days = 30
    most_outdated_days: Annotated[float, msgspec.Meta(ge=0, le=3650)] = 0  # since newer versions are asked for
    dynamic_platform: bool = False
    cached_keys: bool = False
    smt: bool = False
    debug: bool = False


class SgxRules(IntelRules, kw_only=True, frozen=True):
    """`isv_svn`: the least. `provisioning`: enclaves with the provisioning key or the launch key."""

    mr_enclave: Allowed = []
    mr_signer: Allowed = []
    isv_prod_id: Number = 0
    isv_svn: Number | None = None
    provisioning: bool = False


class TdxRules(IntelRules, kw_only=True, frozen=True):
    """Measurements of a trust domain; the four RTMRs are what its firmware, kernel and programs were measured into."""

    mr_td: Allowed = []
    rt_mr0: Allowed = []
    rt_mr1: Allowed = []
    rt_mr2: Allowed = []
    rt_mr3: Allowed = []
    mr_signer_seam: Allowed = msgspec.field(default_factory=lambda: ["00" * 48])
    mr_config_id: Allowed = msgspec.field(default_factory=lambda: ["00" * 48])
    mr_owner: Allowed = msgspec.field(default_factory=lambda: ["00" * 48])
    mr_owner_config: Allowed = msgspec.field(default_factory=lambda: ["00" * 48])
    mr_service_td: Allowed = msgspec.field(default_factory=lambda: ["00" * 48])


class TcbFloor(_Rules, kw_only=True, frozen=True):
    """The least of each part of an AMD platform's version."""

    boot_loader: Annotated[int, msgspec.Meta(ge=0, le=255)]
    tee: Annotated[int, msgspec.Meta(ge=0, le=255)]
    snp: Annotated[int, msgspec.Meta(ge=0, le=255)]
    microcode: Annotated[int, msgspec.Meta(ge=0, le=255)]


class SnpRules(_Rules, kw_only=True, frozen=True):
    """`certificates`: a directory with the chip's VCEK, AMD's ASK and ARK (DER or PEM), and the ARK's list of what it
    has revoked. `roots`: SHA-256 of the ARKs' DER. `vmpl`: the highest."""

    certificates: str
    roots: Texts = []
    measurement: Allowed = []
    host_data: Allowed = msgspec.field(default_factory=lambda: ["00" * 32])
    id_key_digest: Allowed = msgspec.field(default_factory=lambda: ["00" * 48])
    author_key_digest: Allowed = msgspec.field(default_factory=lambda: ["00" * 48])
    tcb: TcbFloor
    vmpl: Annotated[int, msgspec.Meta(ge=0, le=3)] = 0
    revocation: bool = True  # a list must be there, and not too old
    debug: bool = False
    migration: bool = False
    smt: bool = False


class NvidiaRules(_Rules, kw_only=True, frozen=True):
    """Of GPUs, beside a quote. `roots`: SHA-256 of the roots' DER. `measurements`: for each index that is looked at,
    the values that are allowed. `least`: how many GPUs there must be."""

    roots: Texts = []
    drivers: Allowed = []
    vbios: Allowed = []
    measurements: dict[Annotated[str, msgspec.Meta(pattern=r"\A[1-9][0-9]{0,2}\Z")], Texts] | Literal["any"] = {}
    least: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1


class SimulatorRules(_Rules, kw_only=True, frozen=True):
    """`accept` has to say what such evidence is."""

    accept: Literal["NOT CONFIDENTIAL"]
    measurement: Allowed = []


class EvidencePolicy(_Rules, kw_only=True, frozen=True):
    """A whole file. `folder` is where it lies, which its paths are relative to."""

    version: Literal[1]
    server: ServerRules = ServerRules()
    tls: TlsRules = TlsRules()
    sgx: SgxRules | None = None
    tdx: TdxRules | None = None
    snp: SnpRules | None = None
    simulator: SimulatorRules | None = None
    nvidia: NvidiaRules | None = None

    @property
    def kinds(self) -> list[str]:
        """The kinds of evidence that it has a table for."""
        return [kind for kind in ("sgx", "tdx", "snp", "simulator") if getattr(self, kind) is not None]


def allows(allowed: list[str] | Literal["any"], value: str) -> bool:
    """Whether a measurement in hexadecimal, or a word, is one of these."""
    return allowed == "any" or value in allowed


def load_policy(path: Path) -> EvidencePolicy:
    """Raises ConfigError for a file that can't be read, isn't a policy, or allows more than a policy may."""
    content = parse_toml(read_bounded(path, MOST_POLICY), str(path))
    try:
        policy = msgspec.convert(content, type=EvidencePolicy)
        _check(policy)
        return _placed(policy, path.parent)
    except (msgspec.ValidationError, ConfigError) as error:
        raise ConfigError(f"{path} is no policy: {error}") from None


def _check(policy: EvidencePolicy) -> None:
    tables = [getattr(policy, kind) for kind in policy.kinds]
    devices = [] if policy.nvidia is None else [policy.nvidia]
    for table in (policy.server, policy.tls, *tables, *devices):
        for name in table.__struct_fields__:
            size = SIZES.get(name) or (name == "measurement" and (32 if table is policy.simulator else 48))
            if size:
                _check_hex(name, getattr(table, name), int(size))
    if not tables:
        raise ConfigError("it accepts no kind of evidence: give it a table [sgx], [tdx], [snp] or [simulator]")
    if policy.nvidia is not None and isinstance(policy.nvidia.measurements, dict):
        for index, values in policy.nvidia.measurements.items():
            _check_hex(f"measurement {index}", values, 48)
    for rules in (policy.sgx, policy.tdx):
        if rules is None:
            continue
        if rules.debug:
            raise ConfigError("debug can't be allowed: who starts a debug enclave reads all of it")
        if wrong := [status for status in rules.tcb_status if status not in STATUSES]:
            raise ConfigError(f"tcb_status {wrong[0]!r} can't be allowed; those there are: {', '.join(STATUSES)}")
    if policy.sgx is not None and policy.sgx.mr_enclave == "any":
        if policy.sgx.mr_signer == "any":
            raise ConfigError("[sgx] takes any enclave of anybody: list mr_enclave, or mr_signer")
        if policy.sgx.isv_svn is None:
            raise ConfigError("[sgx] takes any enclave of a signer: say isv_svn, the least that isn't too old")


def _check_hex(name: str, value: Any, size: int) -> None:
    for text in [] if value == "any" else value:
        if len(text) != 2 * size or text.strip("0123456789abcdef"):
            raise ConfigError(f"{name} {text[:40]!r} isn't one: write {2 * size} digits, 0 to 9 and a to f")


def _placed(policy: EvidencePolicy, folder: Path) -> EvidencePolicy:
    """The same with paths that no longer depend on where the file lies."""
    placed: dict[str, Any] = {}
    for kind, name in (("sgx", "collateral"), ("tdx", "collateral"), ("snp", "certificates")):
        rules = getattr(policy, kind)
        if rules is not None:
            placed[kind] = msgspec.structs.replace(rules, **{name: str(folder / getattr(rules, name))})
    return msgspec.structs.replace(policy, **placed)
