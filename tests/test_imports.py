"""Imports run downward only, and the trusted side loads neither torch nor transformers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cutset

ROOT = Path(cutset.__file__).parent

# Lower floors first. A package may import from its own and from lower floors; the jobs on one floor don't know each
# other, nor do the faces, but for those named in ALLOWED.
FLOORS = [
    {"errors", "config", "version", "files", "reading"},
    {"link", "kernels", "batches"},
    {"models"},
    {"codec", "partition"},
    {"cluster"},
    {"engine", "offload", "trust", "video"},
    {"loaded_model"},
    {"llm", "stream", "compare", "private_pictures"},
    {"receipts"},
    {"bench", "serve"},
    {"cli"},
]
ALLOWED = {("config", "errors"), ("files", "errors"), ("reading", "errors")}


def part(module: str) -> str:
    """`cutset.models.spec` belongs to `models`."""
    pieces = module.split(".")
    return pieces[1] if len(pieces) > 1 else ""


def floor(name: str) -> int:
    return next(level for level, names in enumerate(FLOORS) if name in names)


def imported(path: Path, module: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively; name the package"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return {part(name) for name in found if name.split(".")[0] == "cutset" and part(name)}


def modules() -> dict[str, Path]:
    names = {}
    for path in sorted(ROOT.rglob("*.py")):
        pieces = ["cutset", *path.relative_to(ROOT).with_suffix("").parts]
        names[".".join(pieces).removesuffix(".__init__")] = path
    return names


def test_imports_run_downward() -> None:
    parts = {entry.stem for entry in ROOT.iterdir() if entry.suffix == ".py" or (entry / "__init__.py").exists()}
    seen = 0
    for module, path in modules().items():
        own = part(module)
        if not own or own == "__main__":
            continue
        for other in imported(path, module) & parts - {own}:
            seen += 1
            right = floor(other) < floor(own) or (own, other) in ALLOWED
            assert right, f"{module} imports from cutset.{other}, which is not below it"
    assert seen > 10, "the walk found almost no import: it no longer looks where the code is"


LOADS_NO_TORCH = """
import sys
import cutset
from cutset import LLM, SamplingParams
llm = LLM("story", threads=1)
[output] = llm.generate(["Once upon a time"], SamplingParams(max_tokens=4, temperature=0))
assert len(output.token_ids) == 4
llm.close()
heavy = {"torch", "transformers", "safetensors", "huggingface_hub", "yaml"} & set(sys.modules)
assert not heavy, heavy
"""


def test_the_trusted_side_loads_neither_torch_nor_transformers() -> None:
    pytest.importorskip("torch")  # where it isn't installed the test would show nothing
    subprocess.run([sys.executable, "-c", LOADS_NO_TORCH], check=True, timeout=60)
