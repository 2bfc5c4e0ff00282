"""The names of the package: each public class and each module is found by one, and what is public has a docstring."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import cutset

ROOT = Path(cutset.__file__).parent

# Basenames of more than one module, and why.
SAME_NAME = {
    "messages.py": "the protocol of a package: `cluster.messages`, `offload.messages`",
    "native.py": "kernels: the native extension itself; models/run: the decoder over it",
    "rope.py": "models/families: what a file says of rotary embeddings; models/run: the rotation",
}
# Public, without a docstring: "module:Class.name", and why.
UNDOCUMENTED: dict[str, str] = {}
# Yet to be written (or `Ops` to be named as the base of these classes); delete what is there.
MISSING = {f"models/run/numpy_ops.py:NumpyOps.{name}" for name in ("attend", "linear", "take")} | {
    f"models/run/torch_ops.py:TorchOps.{name}"
    for name in ("apply_rope", "attend", "load", "moe_route", "rms_norm", "silu_mul", "to_numpy")
}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef
Classes = dict[str, list[tuple[str, ast.ClassDef]]]  # by name, with their modules


def parsed(root: Path = ROOT) -> dict[str, ast.Module]:
    """Every module, by its path below the package."""
    paths = sorted(root.rglob("*.py"))
    return {path.relative_to(root).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


TREES = parsed()


def classes(trees: dict[str, ast.Module]) -> Classes:
    """Where classes of each public name are; those inside of functions count too, as a search finds them."""
    found: Classes = defaultdict(list)
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append((module, node))
    return found


def is_command(module: str) -> bool:
    """Modules of `cli` are named after their commands, and the ones of `bench` after what `cutset bench` calls them."""
    folder, _, name = module.rpartition("/")
    command = module if folder == "cli" else f"cli/bench_{name}" if folder == "bench" else ""
    tree = TREES.get(command)
    return tree is not None and any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in tree.body)


def public(body: list[ast.stmt], owner: ast.ClassDef | None = None) -> Iterator[tuple[Definition, ast.ClassDef | None]]:
    """The public definitions of a module or class, and of its public classes, each with the class that it is in."""
    for node in body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node, owner
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, node)
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from public([one for one in ast.iter_child_nodes(node) if isinstance(one, ast.stmt)], owner)


def inherits_docstring(name: str, owner: ast.ClassDef, known: Classes) -> bool:
    """Whether a class of the package that `owner` is derived from, or a getter beside a setter, has the docstring."""
    seen = [owner.name]
    for current in seen:  # which grows
        for _, node in known.get(current, []):
            for one in node.body:
                if isinstance(one, Function) and one.name == name and ast.get_docstring(one):
                    return True
            bases = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases]
            seen += [base.id for base in bases if isinstance(base, ast.Name) and base.id not in seen]
    return False


def says_it_all(node: Function) -> bool:
    """A body of one line, and an annotation for each argument and for the result."""
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    given = [one for one in (*arguments, node.args.vararg, node.args.kwarg) if one and one.arg not in ("self", "cls")]
    short = len(node.body) == 1 and node.body[0].lineno == node.body[0].end_lineno
    return short and node.returns is not None and all(one.annotation for one in given)


def undocumented(trees: dict[str, ast.Module]) -> list[str]:
    """Public functions, methods and classes that need a docstring and have none, as "module:Class.name".

    None is needed by what overrides a method that has one, by a setter whose getter has one, by `configure` and `run`
    of a command (the module's docstring describes it), and by a body of one line whose name and types say it all.
    """
    found, known = [], classes(trees)
    for module, tree in trees.items():
        for node, owner in public(tree.body):
            if ast.get_docstring(node):
                continue
            if isinstance(node, Function):
                if owner is None and module.startswith("cli/") and node.name in ("configure", "run"):
                    continue
                if says_it_all(node) or (owner is not None and inherits_docstring(node.name, owner, known)):
                    continue
            found.append(f"{module}:{owner.name + '.' if owner else ''}{node.name}")
    return found


def test_a_public_class_name_occurs_once() -> None:
    again = {name: [module for module, _ in places] for name, places in classes(TREES).items() if len(places) > 1}
    assert not again, f"rename all but one of each: {again}"


def test_a_module_name_occurs_once() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for module in TREES:
        if not Path(module).name.startswith("_") and not is_command(module):
            places[Path(module).name].append(module)
    again = {name: modules for name, modules in places.items() if len(modules) > 1}
    unexplained = {name: modules for name, modules in again.items() if name not in SAME_NAME}
    assert not unexplained, f"rename all but one of each, or say why not in SAME_NAME: {unexplained}"
    assert not (stale := SAME_NAME.keys() - again.keys()), f"delete from SAME_NAME: {stale}"


def test_what_is_public_has_a_docstring() -> None:
    found = set(undocumented(TREES))
    assert not (missing := found - UNDOCUMENTED.keys() - MISSING), f"write the docstrings of {sorted(missing)}"
    assert not (stale := UNDOCUMENTED.keys() - found), f"delete from UNDOCUMENTED: {stale}"


def test_every_module_has_a_docstring() -> None:
    assert not [module for module, tree in TREES.items() if tree.body and not ast.get_docstring(tree)]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f(): return 1", ["f"]),  # no type
        ("def f(x) -> int: return 1", ["f"]),
        ("def f(x: int, *more) -> int: return 1", ["f"]),
        ("def f(x: int) -> int: return 1", []),
        ("def f(x: int) -> int:\n  x += 1\n  return x", ["f"]),
        ("async def f() -> int:\n  x = 1\n  return x", ["f"]),
        ("if True:\n  def f(): return 1", ["f"]),
        ("def _f(): return 1\nclass _A:\n  def f(self): return 1", []),
        ("class A: pass", ["A"]),
        ("class A:\n  'It.'\n  def f(self):\n    return 1", ["A.f"]),
        ("class A:\n  'It.'\n  def f(self):\n    'It.'\nclass B(A):\n  'It.'\n  def f(self):\n    return 1", []),
        ("class A:\n  'It.'\n  def f(self):\n    'It.'\nclass B:\n  'It.'\n  def f(self):\n    return 1", ["B.f"]),
        ("class A:\n  'It.'\n  def g(self):\n    'It.'\nclass B(A):\n  'It.'\n  def f(self):\n    return 1", ["B.f"]),
        ("class A:\n  'It.'\n  class B:\n    def f(self): return 1", ["A.B", "B.f"]),
    ],
)
def test_a_missing_docstring_is_found(source: str, found: list[str]) -> None:
    names = [name.partition(":")[2] for name in undocumented({"m.py": ast.parse(source)})]
    assert names == found


def test_a_command_has_its_docstring_in_its_module() -> None:
    source = ast.parse("def run(args):\n  print(args)\n  return 0")
    assert undocumented({"cli/some.py": source}) == []
    assert undocumented({"serve/some.py": source}) == ["serve/some.py:run"]
