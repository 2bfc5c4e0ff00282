"""Weights that another program has quantised: `quantization_config` says by which method, and so what lies where.

They are read as they are, never rounded again: in the place of the several tensors of a module comes its weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cutset.models.files.checkpoint import TensorTable
from cutset.models.files.compressed import read_compressed
from cutset.models.files.fields import Fields
from cutset.models.files.float8 import read_fp8
from cutset.models.files.gptq import read_awq, read_gptq
from cutset.models.files.tensor import FLOATS, Tensor
from cutset.models.spec import DecoderSpec

__all__ = ["METHODS", "regrouped"]

# Each takes a module's tensors out of the table and puts its weight there.
METHODS: dict[str, Callable[[Fields, dict[str, Tensor]], None]] = {
    "awq": read_awq,
    "compressed-tensors": read_compressed,
    "fp8": read_fp8,
    "gptq": read_gptq,
}


class Regrouped(TensorTable):
    """The tensors of a checkpoint, with one weight in the place of several tensors."""

    def __init__(self, directory: Path, tensors: dict[str, Tensor]) -> None:
        self.directory, self._tensors = directory, tensors


def regrouped(spec: DecoderSpec, config: Mapping[str, Any], table: TensorTable, source: Path) -> TensorTable:
    """The tensors by the names that a float checkpoint has them under. `source` is the configuration's file.

    Raises ModelError for weights that aren't what their method asks for.
    """
    text = config.get("text_config")
    quantization = config.get("quantization_config") or (
        text.get("quantization_config") if isinstance(text, dict) else None
    )
    if not isinstance(quantization, dict) or quantization.get("quant_method") not in tuple(METHODS):
        return table
    read = METHODS[quantization["quant_method"]]
    rest = {name: tensor for name, tensor in table.items() if not name.startswith(spec.other_parts)}
    others = {name: tensor for name, tensor in table.items() if name.startswith(spec.other_parts)}
    before = set(rest)
    read(Fields(quantization, f"{source}: quantization_config"), rest)
    weights = [name for name in rest if name not in before]
    wanted = spec.tensor_shapes()
    for name in weights:  # some programs add biases of zeros to modules that have none
        bias = rest.get(f"{name.removesuffix('weight')}bias")
        if bias is not None and spec.meant(bias.name) not in wanted and bias.dtype in FLOATS and not bias.raw.any():
            del rest[bias.name]
    return Regrouped(table.directory, rest | others)
