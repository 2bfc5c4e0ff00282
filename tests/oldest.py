"""Prints the lowest versions that pyproject.toml allows to users, as constraints for pip: for `make test-oldest`.

The extra `dev` holds tools of this repository, which run with the versions of constraints.txt.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

TOOLS = ("dev",)
ROOT = Path(__file__).resolve().parent.parent
BOUND = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)(\[[^]]*\])?(>=|==)(?P<version>[0-9][0-9A-Za-z.]*?)(\.\*)?")


def lowest() -> dict[str, str]:
    """Each library with the highest of its lower bounds, since one environment holds all extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: needs for name, needs in project["optional-dependencies"].items() if name not in TOOLS}
    found: dict[str, str] = {}
    for text in [*project["dependencies"], *(text for extra in extras.values() for text in extra)]:
        bound = BOUND.fullmatch(text)
        if bound is None:
            raise SystemExit(f"pyproject.toml: {text!r} has no lower bound")
        name, version = bound["name"].lower(), bound["version"]
        found[name] = max(found.get(name, "0"), version, key=key)
    return found


def key(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


if __name__ == "__main__":
    for name, version in sorted(lowest().items()):
        print(f"{name}=={version}")
