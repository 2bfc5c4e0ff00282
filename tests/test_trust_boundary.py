"""The client of an offload and its accelerator share no code that only one of them may have.

The accelerator is trusted with nothing: it has no business in the client's masks, seeds, checks and secrets. And what
the client trusts mustn't hang on what an accelerator runs. Both may look at cutset.offload itself, and below.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import cutset

OFFLOAD = Path(cutset.__file__).parent / "offload"
SIDES = ("client", "accelerator")


def modules(package: Path) -> dict[str, Path]:
    """The modules of a package of cutset.offload, by name."""
    root = OFFLOAD.parent.parent
    found = {}
    for path in sorted(package.rglob("*.py")):
        found[".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


def imports(path: Path) -> set[str]:
    """All that a module imports, wherever in it that stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize(("side", "other"), [SIDES, SIDES[::-1]], ids=SIDES)
def test_neither_side_imports_the_other(side: str, other: str) -> None:
    seen = 0
    for name, path in modules(OFFLOAD / side).items():
        found = imports(path)
        seen += len(found)
        wrong = {one for one in found if f"{one}.".startswith(f"cutset.offload.{other}.")}
        assert not wrong, f"{name} imports {wrong}"
    assert seen > 20


@pytest.mark.parametrize("name", ["arithmetic", "matrices", "messages", "modes"])
def test_what_both_share_imports_neither(name: str) -> None:
    found = imports(OFFLOAD / f"{name}.py")
    assert not {one for one in found if one.startswith(tuple(f"cutset.offload.{side}" for side in SIDES))}


@pytest.mark.parametrize(("side", "other"), [SIDES, SIDES[::-1]], ids=SIDES)
def test_neither_side_loads_the_other(side: str, other: str) -> None:
    """By way of others, too."""
    wanted = [name for name in modules(OFFLOAD / side) if find_spec("torch") or not name.endswith("torch_products")]
    code = (
        f"import importlib, sys\nfor name in {wanted!r}: importlib.import_module(name)\n"
        f"wrong = [name for name in sys.modules if name.startswith('cutset.offload.{other}')]\n"
        "assert not wrong, wrong"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
