"""Which of torch's operators may stand in a graph: pure functions from tensors to tensors, by name.

A graph can come from elsewhere, so names are looked up among torch's own operators alone, and those that write to
their arguments, draw random numbers or take no tensor (as one that maps a file does) are refused. What a network makes
out of nothing (`torch.arange`) is a weight in its graph: see `cutset.video.imports.constants`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch

from cutset.errors import GraphError
from cutset.partition.node import Keyword, Node

__all__ = ["UNDEFINED", "draws", "keyword", "operator_of", "resolve"]

# What may stand for a dtype, layout or memory format in an argument.
KEYWORDS: dict[str, dict[str, Any]] = {
    "dtype": {
        name: getattr(torch, name)
        for name in ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"]
    },
    "layout": {"strided": torch.strided},
    "memory_format": {
        name: getattr(torch, name)
        for name in ("contiguous_format", "channels_last", "channels_last_3d", "preserve_format")
    },
}
# How the names of operators begin that make tensors without values.
UNDEFINED = ("empty", "new_empty")
# Arguments without which an operator that could draw random numbers draws none (attention, recurrent layers).
DROPOUT = ("dropout_p", "train", "training")


@cache
def resolve(name: str) -> Any:
    """The operator of a name like `aten.conv2d.default`. Raises GraphError for one that may not stand in a graph."""
    match = re.fullmatch(r"aten\.(_?[A-Za-z]\w*|__(?:and|or|xor|lshift|rshift)__)\.(\w+)", name, re.ASCII)
    if match is None:
        raise GraphError(f"operator {name[:80]} is not one of torch's own (aten); a stage can't run it")
    try:
        overload = getattr(getattr(torch.ops.aten, match[1]), match[2])
        schema, tags = overload._schema, overload.tags
    except AttributeError:
        raise GraphError(f"torch {torch.__version__} has no operator {name[:80]}") from None
    takes = any("Tensor" in str(argument.type) for argument in schema.arguments)
    gives = schema.returns and all(str(r.type) in ("Tensor", "List[Tensor]", "Tensor[]") for r in schema.returns)
    if schema.is_mutable or not takes or not gives:
        raise GraphError(f"operator {name} is not a function from tensors to tensors; a stage can't run it")
    if torch.Tag.nondeterministic_seeded in tags and not any(a.name in DROPOUT for a in schema.arguments):
        raise GraphError(f"operator {name} draws random numbers; a stage couldn't repeat them")
    if match[1].startswith(UNDEFINED):
        raise GraphError(f"operator {name} leaves memory as it is; a stage couldn't repeat that")
    return overload


def operator_of(node: Node) -> Any:
    """The operator of a node. Raises GraphError as `resolve` does, and where its dropout is on."""
    overload = resolve(node.op)
    if draws(overload, node.args, dict(node.kwargs)):
        raise GraphError(f"operator {node.op} draws random numbers; a stage couldn't repeat them")
    return overload


def keyword(argument: Keyword) -> Any:
    """Torch's object of that name. Raises GraphError for one that may not stand in a graph."""
    found = KEYWORDS.get(argument.kind, {}).get(argument.name)
    if found is None:
        raise GraphError(f"{argument.kind} {argument.name[:40]} is none that a stage can use")
    return found


def draws(overload: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call with these arguments draws random numbers."""
    if torch.Tag.nondeterministic_seeded not in overload.tags:
        return False
    found = [argument for argument in enumerate(overload._schema.arguments) if argument[1].name in DROPOUT]
    given = (args[i] if i < len(args) else kwargs.get(one.name, one.default_value) for i, one in found)
    return not found or any(given)
