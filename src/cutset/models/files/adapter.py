"""LoRA adapters as PEFT saves them: a directory with adapter_config.json and adapter_model.safetensors.

An adapter adds scale · B (A x) to some products of a decoder (Hu et al. 2021, arXiv:2106.09685). Nothing is merged
into the weights, so that several run beside each other.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cutset.errors import AdapterError
from cutset.kernels.reference_linear import quantize_rows
from cutset.models.files.adapter_experts import ExpertMatrices, expert_modules, wrapped
from cutset.models.files.checkpoint import SafetensorsFile, Tensor
from cutset.models.files.fields import Fields, read_json
from cutset.models.spec import DecoderSpec, Site

__all__ = ["ROWS", "LoraAdapter", "LowRank", "Told", "read_adapter", "rounded"]

log = logging.getLogger(__name__)

MOST_RANK = 1 << 12
ROWS = 16  # of a matrix in 8 bits that share a scale
NAME = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
PLAIN = re.compile(r"[\w.]+")  # of the patterns that PEFT would take for regular expressions
ANYWHERE = r".*\."  # begins some that PEFT itself writes

# What says how an adapter was trained, or where it came from.
HARMLESS = frozenset(
    """
    peft_type r lora_alpha use_rslora rank_pattern alpha_pattern target_modules target_parameters exclude_modules
    task_type auto_mapping base_model_name_or_path revision inference_mode lora_dropout layers_to_transform
    layers_pattern peft_version megatron_core eva_config corda_config loftq_config runtime_config qalora_group_size
    init_lora_weights ensure_weight_tying
    """.split()  # noqa: SIM905
)
# Ways of starting to train that change the weights of the model itself.
STARTS = (None, True, False, "gaussian", "eva", "orthogonal")


# Products of what layers are told of a token, which are none of the sites.
Told = Literal["layer_product", "layer_gate", "layer_out"]


@dataclass(frozen=True, slots=True)
class LowRank:
    """What one pair of matrices adds to a product: rows first .. first + outputs of it get scale · up (down x).

    With `scales` row i of what is really meant by `up` is scales[i // ROWS] · up[i].
    """

    site: Site | Told
    layer: int
    expert: int
    first: int
    down: NDArray[np.float32]  # (rank, inputs)
    up: NDArray[np.float32]  # (outputs, rank)
    scale: float
    scales: NDArray[np.float32] | None = None  # (outputs / ROWS, rounded up)

    @property
    def whole_up(self) -> NDArray[np.float32]:
        """What is meant by `up`."""
        return self.up if self.scales is None else self.up * self.scales.repeat(ROWS)[: len(self.up), None]


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """An adapter for one decoder. Prompts share cached blocks with those of the same `digest`, that of its files."""

    name: str
    digest: bytes
    parts: tuple[LowRank, ...]


def read_adapter(name: str, directory: Path, spec: DecoderSpec) -> LoraAdapter:
    """The adapter in a directory, under a name of ours.

    Raises AdapterError for what isn't there, isn't a LoRA adapter for this decoder, or uses what isn't supported.
    """
    config_path, weights_path = directory / "adapter_config.json", directory / "adapter_model.safetensors"
    if not config_path.is_file():
        raise AdapterError(
            f"{directory} has no adapter_config.json: give a directory that PEFT's save_pretrained wrote"
        )
    if not weights_path.is_file():
        raise AdapterError(f"{directory} has no adapter_model.safetensors: save the adapter in safetensors")
    config = Fields(read_json(config_path), str(config_path))
    _check_config(config)
    file = SafetensorsFile(weights_path)
    places, modules, targets = _places(spec), expert_modules(spec), _target_parameters(config)
    pairs: dict[str, dict[str, Tensor]] = {}
    skipped = 0
    for tensor in file.values():
        found = NAME.fullmatch(tensor.name)
        module = "" if found is None else spec.meant(found[1] + ".").removesuffix(".")
        if module.startswith(spec.other_parts):
            skipped += 1
            continue
        if found is None or (module not in places and wrapped(module, modules, targets) is None):
            raise AdapterError(f"{weights_path}: {tensor.name[:200]} belongs to no product of this model")
        if found[2] in (pair := pairs.setdefault(module, {})):
            raise AdapterError(f"{weights_path}: {tensor.name[:200]} is there under two names")
        pair[found[2]] = tensor
    if skipped:
        log.warning("%s: %d tensors for other parts than the text's are skipped", weights_path, skipped)
    if not pairs:
        raise AdapterError(f"{weights_path} has no tensors{' for the text part' if skipped else ''}")
    parts: list[LowRank] = []
    for module, pair in sorted(pairs.items()):
        if module in places:
            parts.append(_part(config, module, pair, *places[module]))
        elif (wrap := wrapped(module, modules, targets)) is not None:
            parts += _expert_parts(config, pair, *wrap)
    digest = hashlib.blake2b(config_path.read_bytes() + b"\0", digest_size=16)
    digest.update(file.bytes.data)
    return LoraAdapter(name, digest.digest(), tuple(parts))


def rounded(adapter: LoraAdapter) -> LoraAdapter:
    """The adapter in 8 bits, as weights are where a model is rounded to such.

    `down` becomes whole numbers and a scale a row, which goes into the columns of `up`; this is rounded with a scale
    for each ROWS rows, because a scale a row would be a fifth of what a step reads of it.
    """
    return replace(adapter, parts=tuple(map(_rounded, adapter.parts)))


def _rounded(part: LowRank) -> LowRank:
    down, factors = quantize_rows(part.down)
    outputs, rank = part.up.shape
    panels = np.zeros((-(-outputs // ROWS), ROWS, rank), np.float32)
    panels.reshape(-1, rank)[:outputs] = part.up * factors
    up, scales = quantize_rows(panels.reshape(len(panels), -1))
    whole = up.astype(np.float32).reshape(-1, rank)[:outputs]
    return replace(part, down=down.astype(np.float32), up=np.ascontiguousarray(whole), scales=scales)


def _check_config(c: Fields) -> None:
    if c.values.get("peft_type") != "LORA":
        raise AdapterError(f"{c.source}: peft_type {c.values.get('peft_type')!r:.60} is not supported; known is LORA")
    for name, value in c.values.items():
        if name not in HARMLESS and value not in (None, False, "", "none", [], {}):
            raise AdapterError(f"{c.source}: {name[:60]} is not supported")
    if (start := c.values.get("init_lora_weights")) not in STARTS:
        raise AdapterError(
            f"{c.source}: init_lora_weights {start!r:.60} changes the model's own weights, which is not supported"
        )


def _places(spec: DecoderSpec) -> dict[str, tuple[Site | Told, int, int, int, tuple[int, int]]]:
    """By the name of a module: the site that its product is a part of, from which row on, and its shape."""
    shapes = spec.tensor_shapes()
    found: dict[str, tuple[Site | Told, int, int, int, tuple[int, int]]] = {}
    for tensor in spec.tensors():
        if tensor.role in get_args(Told):
            rows, columns = tensor.shape
            found[tensor.name.removesuffix(".weight")] = tensor.role, tensor.layer, -1, 0, (rows, columns)  # type: ignore[assignment]
    for site, layer, expert in spec.sites():
        first = 0
        for name in spec.site_tensors(site, layer, expert):
            rows, columns = shapes[name]
            module = "lm_head" if site == "lm_head" else name.removesuffix(".weight")
            found[module] = (site, layer, expert, first, (rows, columns))
            first += rows
    return found


def _target_parameters(c: Fields) -> tuple[str, ...]:
    found = c.value("target_parameters") or []
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise c.wrong("target_parameters", "a list of names of parameters")
    return tuple(found)


def _part(
    c: Fields,
    module: str,
    pair: Mapping[str, Tensor],
    site: Site | Told,
    layer: int,
    expert: int,
    first: int,
    shape: tuple[int, int],
) -> LowRank:
    rank, scale = _rank_and_scale(c, module, pair)
    down, up = _matrices(module, pair, {"A": (rank, shape[1]), "B": (shape[0], rank)})
    return LowRank(site, layer, expert, first, down, up, scale)


def _expert_parts(
    c: Fields, pair: Mapping[str, Tensor], module: str, parameter: str | ExpertMatrices
) -> Iterator[LowRank]:
    """The parts of all experts of a layer."""
    if isinstance(parameter, str):
        raise AdapterError(f"{c.source}: target_parameters: {module}.{parameter} is a bias, which is not supported")
    name = f"{module}.{parameter.name}"
    rank, scale = _rank_and_scale(c, name, pair)
    turned = parameter.turned((pair["A"].shape or (0,))[-1], c.value("peft_version"))
    a, b = _matrices(name, pair, parameter.shapes(rank, turned=turned))
    for expert, (down, up) in enumerate(parameter.pairs(a, b, rank, turned=turned)):
        yield LowRank(parameter.site, parameter.layer, expert, 0, down, up, scale)


def _rank_and_scale(c: Fields, module: str, pair: Mapping[str, Tensor]) -> tuple[int, float]:
    if len(pair) != 2:
        raise AdapterError(f"{c.source}: {module} has only one of lora_A and lora_B")
    rank = _patterned(c, "rank_pattern", module, c.integer("r", 8))
    if rank > MOST_RANK:
        raise AdapterError(f"{c.source}: a rank of {rank} is more than {MOST_RANK}")
    alpha = _patterned(c, "alpha_pattern", module, c.number("lora_alpha", 8.0))
    return rank, alpha / (math.sqrt(rank) if c.flag("use_rslora") else rank)


def _matrices(module: str, pair: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, int]]) -> list[Any]:
    """lora_A and lora_B, if they have these shapes."""
    for name, wanted in shapes.items():
        if pair[name].shape != wanted:
            raise AdapterError(f"{pair[name].file}: lora_{name} of {module} has shape {pair[name].shape}, not {wanted}")
    return [np.ascontiguousarray(pair[name].float32()) for name in "AB"]


def _patterned(c: Fields, key: str, module: str, usual: Any) -> Any:
    """A rank or an alpha that differs by module, as PEFT matches them; only plain names, no expressions."""
    table = c.table(key)
    for pattern in table.values if table is not None else ():
        plain = pattern.removeprefix(ANYWHERE).replace("\\.", ".") if pattern.startswith(ANYWHERE) else pattern
        if not PLAIN.fullmatch(plain):
            raise AdapterError(f"{c.source}: {key} {pattern[:60]!r} is not the plain name of a module")
        if (module == plain and plain == pattern) or module.endswith(f".{plain}"):
            assert table is not None
            return table.integer(pattern) if key == "rank_pattern" else table.number(pattern)
    return usual
