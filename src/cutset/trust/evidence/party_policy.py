"""A policy that goes along with parties which are started on other machines, with the files that it names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cutset.cluster.launch.party_evidence import PartyEvidence
from cutset.config import parse_toml
from cutset.errors import ConfigError
from cutset.reading import read_bytes
from cutset.trust.evidence.policy import MOST_POLICY, load_policy

__all__ = ["party_evidence"]

MOST_CARRIED = 4 << 20  # bytes of all files: collateral of a kind of platform has some 50 KiB
MOST_FILES = 256
NAME = "policy.toml"
NAMED = (("sgx", "collateral"), ("tdx", "collateral"), ("snp", "certificates"))  # tables and keys: directories


def party_evidence(kind: str, flag: str = "", policy: Path | None = None, *, carried: bool = False) -> PartyEvidence:
    """What parties show of this `kind`, and by which `policy` each asks the next one, which their command takes by this
    `flag`. `carried`: they may be on other machines, so the policy's file, and what is in the directories that it names
    beside it, go along as they are now; those that it names by an absolute path must be there. Raises ConfigError."""
    files: dict[str, bytes] = {}
    if carried and policy is not None:
        for name, path in _places(policy):
            files[name] = read_bytes(path, MOST_POLICY if name == NAME else MOST_CARRIED, "file of a policy")
            if len(files) > MOST_FILES or sum(map(len, files.values())) > MOST_CARRIED:
                raise ConfigError(
                    f"{policy} names more than {MOST_FILES} files, or {MOST_CARRIED >> 20} MiB, which can't go along "
                    "with it: leave collateral of other platforms out"
                )
    return PartyEvidence(kind, flag, policy, NAME, files)


def _places(policy: Path) -> Iterator[tuple[str, Path]]:
    """The policy as NAME, and the files in the directories that it names beside it, by their paths there."""
    load_policy(policy)
    yield NAME, policy
    content = parse_toml(read_bytes(policy, MOST_POLICY, "policy").decode(), str(policy))
    for folder in sorted({Path(content[table][key]) for table, key in NAMED if table in content}):
        if folder.is_absolute():
            continue
        if ".." in folder.parts or not folder.parts:
            raise ConfigError(
                f"{policy} names {folder}, which can't go along with it: put it into a directory beside the policy, or "
                "name it by an absolute path that all machines have"
            )
        for path in sorted((policy.parent / folder).glob("*")):
            if path.is_file() and not path.name.startswith("."):
                yield (folder / path.name).as_posix(), path
