"""What torch.export says at length, in a line or two: the user's line of code and the reason."""

from __future__ import annotations

import re
import sysconfig
import traceback
from pathlib import Path
from typing import Any

import torch

from cutset.errors import first_line

__all__ = ["explain", "line_of"]

PYTHON = sysconfig.get_path("stdlib")
OURS = ("export", "fused")  # that stand between torch's lines
INSIDE = tuple(map(str, (Path(torch.__file__).parent, *(Path(__file__).with_name(f"{one}.py") for one in OURS))))


def explain(name: str, error: BaseException) -> str:
    """The message for a module of class `name` that torch.export raised `error` for."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    where = f" at {Path(own[-1].filename).name}:{own[-1].lineno} `{(own[-1].line or '')[:120]}`" if own else ""
    text = first_line(error, 1000)
    text = re.sub(r"\s*\(unhinted:.*", "", text)
    if kind := re.match(r"Found <class '([^']+)'> in output", text):
        text = f"it returns a {kind[1].rpartition('.')[2]}; tensors may be in tuples, lists and dictionaries alone"
    if changed := re.match(r"Constant (\S+) is mutated in the forward", text):
        text = f"a call changes its attribute {changed[1]}, and a stage keeps no state of its own"
    hint = ""
    if "data-dependent" in text or "DataDependent" in type(error).__name__:
        hint = "; what is computed may not depend on the values of a picture"
    return f"{name} can't be exported{where}: {text[:240]}{hint}"


def line_of(node: Any) -> str:
    """` at FILE:LINE` for a node of torch's graph, as far as it is known."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    own = [(file, line) for file, line in frames if _is_users(file)]
    return f" at {Path(own[-1][0]).name}:{own[-1][1]}" if own else ""


def _is_users(file: str) -> bool:
    if file.startswith((*INSIDE, "<")) or Path(file).suffix != ".py":
        return False
    return not file.startswith(PYTHON) or "site-packages" in file  # contextlib and inspect stand around torch's calls
