"""Which evidence parties show that are started for a run, and which they want of the next one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cutset.errors import ConfigError

__all__ = ["FILES", "PartyEvidence", "check_evidence", "has_keys"]

FILES = "{files}"  # in a party's command: the directory on its node in which the files of its order lie


@dataclass(frozen=True)
class PartyEvidence:
    """`kind`: what they show, one of EVIDENCE_KINDS. `policy`: what they want of the next one, which their command
    takes by this `flag`; None for parties that hand nothing on. `files`: the policy (as `name`) and what it names, for
    parties on other machines: content by the path below FILES."""

    kind: str
    flag: str = ""
    policy: Path | None = None
    name: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)

    def words(self, *, elsewhere: bool = False) -> list[str]:
        """Flags of a party on this machine, or `elsewhere`. One that doesn't get the files there finds no policy at
        its place, and doesn't start."""
        found = ["--evidence", self.kind]
        if self.policy is None:
            return found
        place = f"{FILES}/{self.name}" if elsewhere else str(self.policy.absolute())
        return [*found, self.flag, place]


def has_keys(address: str) -> bool:
    """Whether links to this address prove keys, which evidence is bound to."""
    return not address.startswith(("ipc://", "shm://"))


def check_evidence(what: str, policy: Path | None, kind: str, addresses: Collection[str]) -> None:
    """Raises ConfigError where parties can't be asked by a policy, or what they show is asked for by nobody.

    `what`: a stage, worker or replica, which flags are named after. `policy` and `kind`: what the flags say.
    `addresses`: of those that somebody else starts; none where they are started for the run.
    """
    if kind and addresses:
        raise ConfigError(
            f"--{what}-evidence is of what is started here: start those at addresses with --evidence {kind}"
        )
    if policy is None:
        if kind:
            raise ConfigError(f"--{what}-evidence {kind}: nobody asks for it; say with --{what}-policy what is enough")
        return
    if not addresses and not kind:
        raise ConfigError(
            f"--{what}-policy: processes on this machine, or that Ray starts, show what --{what}-evidence says: give "
            "that too, as tdx"
        )
    if bare := next((address for address in addresses if not has_keys(address)), None):
        raise ConfigError(
            f"--{what}-policy is for links over tcp: evidence is bound to the keys of a link, and {bare} has none"
        )
