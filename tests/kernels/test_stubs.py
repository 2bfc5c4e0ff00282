"""The type stubs of the native modules against the modules: mypy believes the stubs, so they must be true."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
from nanobind import stubgen

import cutset

ROOT = Path(cutset.__file__).parent
MODULES = {"cutset.kernels._native": ROOT / "kernels/_native.pyi", "cutset.link._ring": ROOT / "link/_ring.pyi"}

# What stubgen can say of a type. Everything else (object, tuple, arrays) is said better by hand.
PLAIN = {"int", "float", "bool", "str", "bytes", "None"}


def built(name: str) -> ast.Module:
    """What nanobind says of the module that was built."""
    found = stubgen.StubGen(importlib.import_module(name))
    found.put(found.module)
    return ast.parse(found.get())


def unquoted(node: ast.expr | None) -> str:
    return "" if node is None else ast.unparse(node).replace("'", "")


def told(node: ast.expr | None, classes: set[str]) -> str | None:
    """A type that both sides can name alike; None for one that the module can't say."""
    text = unquoted(node)
    words = set(re.findall(r"[\w.]+", text))
    return text if words and words <= PLAIN | classes else None


def arguments(function: ast.FunctionDef) -> list[tuple[str, str, str, ast.expr | None]]:
    """Name, kind, default and type of each argument but self."""
    given = function.args
    positional = [(arg, "positional") for arg in given.posonlyargs] + [(arg, "usual") for arg in given.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(given.defaults)) + list(given.defaults)
    found = [(arg, kind, value) for (arg, kind), value in zip(positional, defaults, strict=True)]
    found += [(arg, "keyword", value) for arg, value in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    return [(arg.arg, kind, unquoted(value), arg.annotation) for arg, kind, value in found if arg.arg != "self"]


def members(body: list[ast.stmt]) -> dict[str, list[ast.stmt]]:
    """Public names, with what stands for each: several functions where one is overloaded, or has a setter."""
    found: dict[str, list[ast.stmt]] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            name = node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        else:
            continue
        if not name.startswith("_") or name.startswith("__"):
            found.setdefault(name, []).append(node)
    return found


def differences(stub: list[ast.stmt], module: list[ast.stmt], classes: set[str], where: str = "") -> list[str]:
    """Every way in which a stub says something else than the module."""
    said, right = members(stub), members(module)
    found = [f"{where}{name} is missing" for name in sorted(right.keys() - said.keys())]
    found += [f"{where}{name} isn't there" for name in sorted(said.keys() - right.keys())]
    for name in sorted(said.keys() & right.keys()):
        ours, theirs = said[name], right[name]
        if [type(node) for node in ours] != [type(node) for node in theirs]:
            found.append(f"{where}{name} is something else")
            continue
        for mine, its in zip(ours, theirs, strict=True):
            found += compare(mine, its, classes, f"{where}{name}")
    return found


def compare(mine: Any, its: Any, classes: set[str], where: str) -> list[str]:
    if isinstance(mine, ast.ClassDef):
        bases = ([unquoted(base) for base in node.bases] for node in (mine, its))
        wrong = [] if next(bases) == next(bases) else [f"{where} has other bases"]
        return wrong + differences(mine.body, its.body, classes, f"{where}.")
    if isinstance(mine, ast.AnnAssign):
        return [] if unquoted(mine.annotation) == unquoted(its.annotation) else [f"{where} has another type"]
    found = []
    if [unquoted(one) for one in mine.decorator_list] != [unquoted(one) for one in its.decorator_list]:
        found.append(f"{where} is decorated differently")
    ours, theirs = arguments(mine), arguments(its)
    if [given[:3] for given in ours] != [given[:3] for given in theirs]:
        found.append(f"{where}{[given[:3] for given in ours]} is {[given[:3] for given in theirs]}")
        return found
    types = [
        (name, mine_type, its_type) for (name, _, _, mine_type), (_, _, _, its_type) in zip(ours, theirs, strict=True)
    ]
    for name, mine_type, its_type in [*types, ("return", mine.returns, its.returns)]:
        wanted = told(its_type, classes)
        if wanted is not None and told(mine_type, classes) != wanted:
            found.append(f"{where}: {name} is {wanted}, not {unquoted(mine_type)}")
    return found


@pytest.mark.parametrize("name", MODULES)
def test_a_stub_says_what_the_module_has(name: str) -> None:
    stub, module = ast.parse(MODULES[name].read_text(encoding="utf-8")), built(name)
    classes = {node.name for node in module.body if isinstance(node, ast.ClassDef)}
    assert len(members(module.body)) > 10, "stubgen found next to nothing"
    assert differences(stub.body, module.body, classes) == []


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (("def isa() -> str", "def isa() -> int"), "isa: return is str, not int"),
        (("def isa() -> str: ...\n", ""), "isa is missing"),
        (("def isa()", "def isas()"), "isas isn't there"),
        (("def silu_mul(x:", "def silu_mul(y:"), "silu_mul"),
        (("heads: int, head_dim: int = 0", "heads: float, head_dim: int = 0"), "apply_rope: heads is int, not float"),
        (("bits: int = 8,", "bits: int = 12,"), "LinearI8.__call__"),
        (("    def outputs(self) -> int", "    def width(self) -> int"), "LinearF32.outputs is missing"),
        (
            ("    @speed.setter\n    def speed(self, arg: float, /) -> None: ...\n", ""),
            "Batcher.speed is something else",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_stub_that_is_wrong_is_noticed(change: tuple[str, str], wrong: str) -> None:
    text, module = MODULES["cutset.kernels._native"].read_text(encoding="utf-8"), built("cutset.kernels._native")
    assert change[0] in text
    damaged = ast.parse(text.replace(*change, 1))
    classes = {node.name for node in module.body if isinstance(node, ast.ClassDef)}
    assert any(line.startswith(wrong) for line in differences(damaged.body, module.body, classes))
