"""A policy to begin with: it says what there is to be said, and accepts nothing yet."""

from __future__ import annotations

from collections.abc import Sequence

from cutset.trust.evidence.simulated_quote import NOT_CONFIDENTIAL

__all__ = ["TEMPLATE_KINDS", "policy_template"]

HEAD = """\
# Which evidence is enough before a request is sent. What isn't said here is refused; check this file with
# `cutset trust policy FILE`. Lists may be "any", which has to be said.
version = 1

[server]
# Digests of the files it has loaded: `cutset trust policy --model NAME=PATH` computes one.
manifests = {manifests}
# none: nothing goes elsewhere; stages; replicas; local, masked+verified, …: of a private offload.
# Over links: accelerator, stage, replica, worker.
modes = ["none"]
versions = {versions}

[tls]
certificate = "authority"  # "evidence": a certificate of one's own will do, its key is bound by the evidence
keys = []                  # SHA-256 of keys (SubjectPublicKeyInfo); empty: any that the evidence binds
"""
INTEL = """\
collateral = "collateral"       # a directory with the JSON files that dcap-qvl fetches; they are only read here
tcb_status = ["UpToDate"]
advisories = []                 # INTEL-SA-… that you put up with
least_tcb_evaluation = 0        # a number that Intel raises with each round of advisories
most_collateral_days = 30
most_outdated_days = 0          # with OutOfDate in tcb_status: since the platform's own versions were current
dynamic_platform = false
cached_keys = false
smt = false
debug = false
"""
TABLES = {
    "sgx": f"""
[sgx]
mr_enclave = []
mr_signer = []
isv_prod_id = 0
isv_svn = 0                     # the least
provisioning = false
{INTEL}""",
    "tdx": f"""
[tdx]
mr_td = []
rt_mr0 = []
rt_mr1 = []
rt_mr2 = []
rt_mr3 = []
# mr_config_id, mr_owner, mr_owner_config, mr_service_td, mr_signer_seam: zero unless said
{INTEL}""",
    "snp": """
[snp]
certificates = "certificates"   # a directory with VCEK, ASK, ARK and the ARK's revocation list (DER or PEM)
roots = []                      # SHA-256 of the ARK's DER
measurement = []
# host_data, id_key_digest, author_key_digest: zero unless said
tcb = { boot_loader = 255, tee = 255, snp = 255, microcode = 255 }  # the least of each
vmpl = 0
revocation = true
debug = false
migration = false
smt = false
""",
    "simulator": f"""
[simulator]
accept = "{NOT_CONFIDENTIAL}"     # for rehearsals: such evidence proves nothing
measurement = []
""",
}
DEVICES = {
    "nvidia": """
[nvidia]                        # GPUs, beside the quote of the program that asks them
roots = []                      # SHA-256 of the root's DER
drivers = []                    # as 550.90.07
vbios = []                      # as 96.00.9F.00.01
least = 1
# What isn't said here isn't looked at; 1 = ["..."] is the first measurement's list of values.
measurements = {}
""",
}
TEMPLATE_KINDS = tuple(TABLES)


def policy_template(kinds: Sequence[str], manifests: Sequence[str] = (), versions: Sequence[str] = ()) -> str:
    """The text of a policy with a table for each of these kinds."""

    def listed(values: Sequence[str]) -> str:
        return "[" + ", ".join(f'"{value}"' for value in values) + "]"

    head = HEAD.format(manifests=listed(manifests), versions=listed(versions))
    return head + "".join((TABLES | DEVICES)[kind] for kind in kinds)
