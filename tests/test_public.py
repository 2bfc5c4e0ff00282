"""The public names: sorted, there, and documented."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import cutset
from cutset import errors

ROOT = Path(cutset.__file__).parent


def order(name: str) -> tuple[bool, bool, str]:
    """Constants, classes, functions."""
    return not name.isupper(), not name[0].isupper(), name


def test_public_names_are_sorted_there_and_documented() -> None:
    assert list(cutset.__all__) == sorted(cutset.__all__, key=order)
    for name in cutset.__all__:
        assert inspect.getdoc(getattr(cutset, name)), f"cutset.{name} has no docstring"
    assert set(cutset.__all__) <= set(dir(cutset))


def test_every_module_says_what_it_is_and_sorts_its_names() -> None:
    for path in ROOT.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if not tree.body:
            continue  # an empty __init__.py
        assert ast.get_docstring(tree), f"{path.relative_to(ROOT)} doesn't say what it is"
        for node in tree.body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                names = ast.literal_eval(node.value)
                key = sorted(names, key=order)
                assert names == key, f"{path.relative_to(ROOT)}: __all__ isn't sorted"


def test_the_exception_tree_is_the_one_that_is_drawn() -> None:
    drawn = errors.__doc__ or ""
    for name in errors.__all__:
        error = getattr(errors, name)
        assert issubclass(error, errors.CutsetError)
        assert name in drawn, f"{name} is missing in the tree"
