"""What parties need where they are placed: processors, memory, and nodes that have something."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cutset.config import did_you_mean
from cutset.errors import ConfigError

__all__ = ["Needs", "describe_needs", "no_room", "parse_places"]

FORM = "NAME=RESOURCE:AMOUNT,… as stage0=gpu:1,node:edge"
RESOURCE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
NODE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
AMOUNT = re.compile(r"[0-9]{1,9}(\.[0-9]{1,4})?")
SIZE = re.compile(r"([0-9]{1,9})([KMGT]i?B)?")
POWERS = "_KMGT"


@dataclass(frozen=True)
class Needs:
    """What one party takes of its node. `node`: one that has this name, or a resource of this name; "": any."""

    cpus: float = 1.0
    memory: int = 0  # bytes; 0: none is reserved
    gpus: float = 0.0
    node: str = ""
    resources: Mapping[str, float] = field(default_factory=dict)  # others, by the names that the cluster gives them


def parse_places(texts: Sequence[str], names: Sequence[str], needs: Needs) -> dict[str, Needs]:
    """What each of the parties `names` takes: `needs`, with what the texts say of it, each `stage0=gpu:1,node:edge`.

    Raises ConfigError for a text that isn't one, a party that isn't there, or what stands there twice.
    """
    found = dict.fromkeys(names, needs)
    said: set[str] = set()
    for text in texts:
        name, equals, rest = text.partition("=")
        name = name.strip()
        if not equals or not rest.strip():
            raise ConfigError(f"--place {text[:80]!r}: write {FORM}")
        if name not in found:
            few = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
            raise ConfigError(f"--place: there is no {name[:60]!r}{did_you_mean(name, names)}; there are {few}")
        if name in said:
            raise ConfigError(f"--place names {name} twice: write all that it needs in one, with commas between")
        said.add(name)
        found[name] = _needs(found[name], rest, text)
    return found


def _needs(needs: Needs, rest: str, whole: str) -> Needs:
    seen: set[str] = set()
    for part in rest.split(","):
        what, colon, value = (word.strip() for word in part.partition(":"))
        key = what.lower() if what.lower() in ("cpu", "gpu", "memory", "node") else what
        if not colon or not value or not RESOURCE.fullmatch(what):
            raise ConfigError(f"--place {whole[:80]!r}: {part.strip()[:60]!r} is no RESOURCE:AMOUNT; write {FORM}")
        if key in seen:
            raise ConfigError(f"--place {whole[:80]!r}: {what} stands there twice")
        seen.add(key)
        if key == "node":
            if not NODE.fullmatch(value):
                raise ConfigError(f"--place {whole[:80]!r}: {value[:60]!r} is no name of a node, nor its address")
            needs = replace(needs, node=value)
        elif key == "memory":
            needs = replace(needs, memory=_bytes(value, whole))
        else:
            if not AMOUNT.fullmatch(value) or not float(value):
                raise ConfigError(f"--place {whole[:80]!r}: {what} needs an amount above 0, not {value[:40]!r}")
            amount = float(value)
            if amount > 1 and not amount.is_integer():
                raise ConfigError(f"--place {whole[:80]!r}: {what} may be a fraction of 1, or a whole number")
            if key == "cpu":
                needs = replace(needs, cpus=amount)
            elif key == "gpu":
                needs = replace(needs, gpus=amount)
            else:
                needs = replace(needs, resources={**needs.resources, what: amount})
    return needs


def _bytes(text: str, whole: str) -> int:
    match = SIZE.fullmatch(text)
    if match is None or not int(match[1]):
        raise ConfigError(f"--place {whole[:80]!r}: memory needs a size, as 512MiB or 4GiB, not {text[:40]!r}")
    unit = match[2] or ""
    base: int = 1024 if "i" in unit else 1000
    power: int = base ** POWERS.index(unit[:1] or "_")
    return int(match[1]) * power


def describe_needs(needs: Needs) -> str:
    """In words, for messages: `1 CPU, 512 MiB`."""
    parts = [f"{needs.cpus:g} CPU"]
    if needs.gpus:
        parts.append(f"{needs.gpus:g} GPU")
    if needs.memory:
        parts.append(f"{needs.memory / 2**20:,.0f} MiB")
    parts += [f"{amount:g} {name}" for name, amount in needs.resources.items()]
    if needs.node:
        parts.append(f"node {needs.node}")
    return ", ".join(parts)


def no_room(
    needs: Iterable[Needs], where: str, free: str, fewer: str = "--stages, --replicas, --workers, --threads, --place"
) -> str:
    """The line for a cluster that has no room for all of them; `fewer`: flags that ask for less."""
    kinds: dict[str, int] = {}
    for one in needs:
        words = describe_needs(one)
        kinds[words] = kinds.get(words, 0) + 1
    wanted = " and ".join(f"{count} × ({words})" for words, count in kinds.items())
    return (
        f"{where} has no room for the plan: it needs {wanted}; free: {free}. Free some, start nodes with `ray start "
        f"--address=…`, or ask for fewer or smaller parties ({fewer})"
    )
