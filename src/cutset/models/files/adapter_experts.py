"""LoRA on the matrices of all experts of a layer at once, as PEFT (from 0.17 on) saves `target_parameters`.

Such a parameter (experts, rows, columns) has one pair of matrices: lora_A (experts · rank, inputs), in which the rows
of an expert follow one another, and lora_B (outputs, rank · experts), in whose columns the experts take turns. Several
parameters of a module are wrapped around each other in the module's order: the pair of the last one lies in `MODULE`,
that of the one before in `MODULE.base_layer`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cutset.models.spec import DecoderSpec, Site, Stacked

__all__ = ["ExpertMatrices", "expert_modules", "wrapped"]

Floats = NDArray[np.float32]
INNER = ".base_layer"
OLDER = re.compile(r"0\.1[78]\.")  # of PEFT


@dataclass(frozen=True, slots=True)
class ExpertMatrices:
    """A parameter with the matrices of all experts of a layer."""

    name: str  # in its module
    site: Site
    layer: int
    experts: int
    rows: int  # outputs of the site
    columns: int
    transposed: bool = False  # it is (experts, columns, rows)
    interleaved: bool = False  # rows of gate and up take turns

    def turned(self, width: int, version: object) -> bool:
        """Whether lora_A of that many columns multiplies the outputs.

        PEFT before 0.19 took every parameter for (experts, inputs, outputs). Where both are as many, its version
        tells, which no file has from before 0.18.
        """
        if self.transposed:
            return False
        if self.rows != self.columns:
            return width == self.rows
        return version is None or (isinstance(version, str) and OLDER.match(version) is not None)

    def shapes(self, rank: int, *, turned: bool) -> dict[str, tuple[int, int]]:
        """Of lora_A and lora_B."""
        inputs, outputs = (self.rows, self.columns) if turned else (self.columns, self.rows)
        return {"A": (self.experts * rank, inputs), "B": (outputs, rank * self.experts)}

    def pairs(self, a: Floats, b: Floats, rank: int, *, turned: bool) -> Iterator[tuple[Floats, Floats]]:
        """For each expert down (rank, columns) and up (rows, rank)."""
        outer = b.reshape(-1, rank, self.experts)
        for expert, inner in enumerate(a.reshape(self.experts, rank, -1)):
            down, up = (outer[:, :, expert].T, inner.T) if turned else (inner, outer[:, :, expert])
            if self.interleaved:
                up = np.concatenate([up[0::2], up[1::2]])
            yield np.ascontiguousarray(down), np.ascontiguousarray(up)


def expert_modules(spec: DecoderSpec) -> dict[str, tuple[str | ExpertMatrices, ...]]:
    """The modules of a model in transformers that have such parameters, in the module's order; of a vector its name."""
    if (moe := spec.moe) is None:
        return {}
    found: dict[str, tuple[str | ExpertMatrices, ...]] = {}
    for layer in sorted(spec.sparse_layers):
        parameters: list[str | ExpertMatrices] = []
        module = ""
        for one in _stacked(spec):
            module, _, name = one.at(layer).rpartition(".")
            site: Site = "gate_up" if one.role == "expert_gate_up" else "down"
            shape = spec.matrix_shape(site, 0)
            parameters.append(ExpertMatrices(name, site, layer, moe.experts, *shape, one.transposed, one.interleaved))
            if spec.expert_bias:
                parameters.append(f"{name}_bias")
        if module:
            found[module] = tuple(parameters)
    return found


def _stacked(spec: DecoderSpec) -> tuple[Stacked, ...]:
    """The two parameters; where a checkpoint has a tensor for each expert, as transformers stacks them."""
    given = tuple(one for one in spec.stacked if not one.role.endswith("_bias"))
    if given:
        return given
    prefix, expert, _ = spec.names.expert_down[0].checkpoint.partition(".{expert}.")
    return tuple(Stacked(f"expert_{site}", f"{prefix}.{site}_proj") for site in ("gate_up", "down") if expert)


def wrapped(
    module: str, modules: dict[str, tuple[str | ExpertMatrices, ...]], targets: Sequence[str]
) -> tuple[str, str | ExpertMatrices] | None:
    """What a pair of matrices stored in `module` belongs to: the module itself and the one of its parameters.

    None where it is no such module, or `target_parameters` name fewer of its parameters.
    """
    own = module
    while own.endswith(INNER):
        own = own.removesuffix(INNER)
    if own not in modules:
        return None
    depth = (len(module) - len(own)) // len(INNER)
    chosen = []
    for parameter in modules[own]:
        name = f"{own}.{parameter if isinstance(parameter, str) else parameter.name}"
        if any(name == target or name.endswith(f".{target}") for target in targets):
            chosen.append(parameter)
    return (own, chosen[-1 - depth]) if depth < len(chosen) else None
