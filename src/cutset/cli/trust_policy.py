"""`cutset trust policy`: writes a template of a policy, checks one, or says what a model's files are called in one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cutset.cli.options import output_path
from cutset.cli.output import say
from cutset.errors import ConfigError

if TYPE_CHECKING:
    from cutset.trust.evidence.policy import EvidencePolicy

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "write a policy to begin with, or check one"
DESCRIPTION = "A policy says which evidence is enough. Everything is off that it doesn't say."
KINDS = ("sgx", "tdx", "snp", "nvidia", "simulator")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="a policy to check")
    parser.add_argument("-o", "--output", type=output_path, metavar="FILE", help="write a template to FILE")
    parser.add_argument(
        "--kind", action="append", choices=KINDS, default=[], help="of evidence, for the template; several times"
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="what a server calls a model, and its files here: print their digest, and put it into the template",
    )


def run(args: argparse.Namespace) -> int:
    if (args.file is None) == (args.output is None) and not (args.model and args.file is None):
        raise ConfigError("name a policy to check, or -o FILE for a template")
    if args.file is not None:
        if args.model or args.kind:
            raise ConfigError("--model and --kind are for a template: -o FILE")
        from cutset.trust.evidence.policy import load_policy

        for line in accepted(load_policy(args.file)):
            say(line)
        return 0
    manifests = [_digest(args.model)] if args.model else []
    for digest in manifests:
        print(f"{digest}  the manifest of {', '.join(args.model)}")
    if args.output is not None:
        from cutset.files import write_atomically
        from cutset.trust.evidence.policy_template import policy_template
        from cutset.version import software

        write_atomically(args.output, policy_template(args.kind or KINDS[:3], manifests, [software()]))
        print(f"{args.output}: accepts nothing yet; list what you accept, then check it")
    return 0


def _digest(texts: list[str]) -> str:
    from cutset.trust.evidence.served_files import manifest_digest, served_files

    models = {}
    for text in texts:
        name, equals, where = text.partition("=")
        if not (name and equals and where):
            raise ConfigError(f"--model {text[:100]!r}: write NAME=PATH, by the name that the server has for it")
        models[name] = Path(where)
    return manifest_digest(served_files(models)).hex()


def accepted(policy: EvidencePolicy) -> list[str]:
    """What a policy accepts, in lines for people."""
    lines = []
    for kind in (*policy.kinds, *(["nvidia"] if policy.nvidia is not None else [])):
        rules = getattr(policy, kind)
        empty = [
            name for name in rules.__struct_fields__ if getattr(rules, name) in ([], {}) and name not in ("advisories",)
        ]
        state = f"nothing yet: {', '.join(empty)} are empty" if empty else "accepted"
        lines.append(f"{kind}: {state}" + ("; NOT CONFIDENTIAL" if kind == "simulator" else ""))
    for name in ("manifests", "modes", "versions"):
        allowed = getattr(policy.server, name)
        lines.append(
            f"{name}: {allowed if isinstance(allowed, str) else ', '.join(allowed) or 'none, so nothing fits'}"
        )
    lines.append(f"the certificate is judged by the {policy.tls.certificate}")
    return lines
