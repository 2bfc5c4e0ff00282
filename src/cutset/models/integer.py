"""Integer checkpoints: 8-bit weights with one scale a row, written once, checked by digest, loaded by every party.

Rounding is canonical: scale = max|w| / 127 in float32, q = w / scale to the nearest integer, ties to even. Whoever
quantises a float checkpoint gets these bytes, so it makes no difference where it is done.

Every matrix of a site is stored as `I8` under its own name, its scales as `F32` (rows,) under that name with `weight`
replaced by `weight_scale`. The rest, the embedding included, is `F32`. `config.json` is the model's own, with
`quantization_config: {"quant_method": "cutset", "version": 1}`. `digests.json` has the SHA-256 of every tensor's bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import CheckpointError, ModelError
from cutset.kernels.reference_linear import quantize_weight, quantized_linear
from cutset.models.checkpoint import Tensor, TensorTable
from cutset.models.digests import DIGESTS, digest
from cutset.models.spec import DecoderSpec, Site
from cutset.models.writer import write_safetensors

__all__ = [
    "IntegerLinears",
    "QuantizedWeight",
    "activation_bits",
    "check_integer_tensors",
    "is_integer",
    "quantized",
    "quantized_parts",
    "write_integer_checkpoint",
]

VERSION = 1
QuantizedWeight = tuple[NDArray[np.int8], NDArray[np.float32]]  # (rows, columns) and one scale a row
Progress = Callable[[str, int, int], None]  # what is done, how many of how many
# What goes along with the weights.
CARRIED = (
    "tokenizer*",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template*",
    "vocab.json",
    "merges.txt",
)


def activation_bits(dtype: str, site: Site) -> int:
    """Bits of the activations that a site multiplies, in `int8` or `exact`.

    `int8` takes 8 at `gate_up`, which is half of all products, and 12 elsewhere: 8 everywhere changes the likeliest
    token at 3 % of the positions of a small model, 8 there alone hardly more than the 8-bit weights do by
    themselves (`cutset bench quality`). Decoding is bound by reading the weights, which are the same.
    """
    return 8 if dtype == "int8" and site == "gate_up" else 12


def is_integer(config: Mapping[str, Any]) -> bool:
    """The configuration is that of an integer checkpoint of ours."""
    quantization = config.get("quantization_config")
    return isinstance(quantization, dict) and quantization.get("quant_method") == "cutset"


def scale_name(name: str) -> str:
    """Where the scales of a matrix are stored."""
    return name.removesuffix("weight") + "weight_scale"


def matrices(spec: DecoderSpec) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the matrices that are quantised; a tied lm_head is stored as `lm_head.weight`."""
    shapes = spec.tensor_shapes()
    names = [name for site in spec.sites() for name in spec.site_tensors(*site)]
    return {_stored(spec, name): shapes[name] for name in names}


def _stored(spec: DecoderSpec, name: str) -> str:
    # The embedding is looked up in float32 and multiplied in integers: tied, it is there twice.
    return "lm_head.weight" if spec.tied and name == "model.embed_tokens.weight" else name


def stored_shapes(spec: DecoderSpec) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and shape of every tensor of an integer checkpoint."""
    quantised = matrices(spec)
    layout: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, shape in spec.tensor_shapes().items():
        if name not in quantised:
            layout[name] = ("F32", shape)
    for name, shape in quantised.items():
        layout[name] = ("I8", shape)
        layout[scale_name(name)] = ("F32", shape[:1])
    return layout


def check_integer_tensors(spec: DecoderSpec, table: TensorTable) -> dict[str, Tensor]:
    """The tensors of an integer checkpoint by name. Raises CheckpointError for one that is missing, misshapen,
    unexpected, or out of range."""
    layout = stored_shapes(spec)
    for name, (dtype, shape) in layout.items():
        if name not in table:
            raise CheckpointError(f"{table.directory}: tensor {name} is missing; the configuration asks for it")
        found = table[name]
        if (found.dtype, found.shape) != (dtype, shape):
            raise CheckpointError(f"{found.file}: tensor {name} is {found.dtype} {found.shape}, not {dtype} {shape}")
    for name in table:
        if name not in layout:
            raise CheckpointError(
                f"{table[name].file}: tensor {name} is unexpected; the configuration has no place for it"
            )
    return dict(table)


def quantized_parts(
    spec: DecoderSpec,
    tensors: Mapping[str, Tensor],
    site: Site,
    layer: int,
    expert: int,
    quantize: Callable[[NDArray[np.float32]], QuantizedWeight] = quantize_weight,
) -> list[QuantizedWeight]:
    """The matrices of a site one by one: the mapped file of an integer checkpoint itself, or quantised now."""
    parts: list[QuantizedWeight] = []
    for name in spec.site_tensors(site, layer, expert):
        stored = _stored(spec, name)
        if stored in tensors and tensors[stored].dtype == "I8":
            scales = tensors[scale_name(stored)].float32()
            if not (np.isfinite(scales).all() and (scales >= 0).all()):
                raise CheckpointError(f"{tensors[stored].file}: the scales of {stored} must be finite and not negative")
            parts.append((tensors[stored].raw, scales))
        else:
            try:
                parts.append(quantize(np.ascontiguousarray(tensors[name].float32())))
            except ValueError as error:
                raise CheckpointError(f"{tensors[name].file}: {name} can't be quantised: {error}") from None
    return parts


def quantized(
    spec: DecoderSpec,
    tensors: Mapping[str, Tensor],
    site: Site,
    layer: int,
    expert: int,
    quantize: Callable[[NDArray[np.float32]], QuantizedWeight] = quantize_weight,
) -> QuantizedWeight:
    """The weights of a site, its matrices stacked: (outputs, depth) and (outputs,)."""
    parts = quantized_parts(spec, tensors, site, layer, expert, quantize)
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([q for q, _ in parts]), np.concatenate([scale for _, scale in parts])


class IntegerLinears:
    """The products in integers, in numpy: the slow twin of the native ones. See cutset.models.decoder.Linears."""

    def __init__(self, spec: DecoderSpec, tensors: Mapping[str, Tensor], dtype: str) -> None:
        self.dtype = dtype
        self.weights = {site: quantized(spec, tensors, *site) for site in spec.sites()}

    def __call__(self, site: Site, layer: int, expert: int, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return quantized_linear(rows, *self.weights[site, layer, expert], activation_bits(self.dtype, site))


def write_integer_checkpoint(
    spec: DecoderSpec,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    source: Path,
    target: Path,
    progress: Progress | None = None,
    quantize: Callable[[NDArray[np.float32]], QuantizedWeight] = quantize_weight,
) -> None:
    """Quantises a float checkpoint into the directory `target`, with the tokenizer of the directory `source`.

    Raises CheckpointError for weights that aren't finite, ModelError for a target that holds something already.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(f"{target} is not an empty directory; name a new one")
    layout, digests = stored_shapes(spec), dict[str, str]()
    originals = {_stored(spec, name): name for site in spec.sites() for name in spec.site_tensors(*site)}

    def values() -> Iterator[tuple[str, NDArray[Any]]]:
        scales: NDArray[np.float32] = np.empty(0, dtype=np.float32)
        for number, (name, (dtype, _)) in enumerate(layout.items()):
            value: NDArray[Any]
            if dtype == "I8":
                original = tensors[originals[name]]
                try:
                    value, scales = quantize(np.ascontiguousarray(original.float32()))
                except ValueError as error:
                    raise CheckpointError(f"{original.file}: {original.name} can't be quantised: {error}") from None
            elif name.endswith("weight_scale"):
                value = scales  # of the matrix before it
            else:
                value = tensors[name].float32()
            digests[name] = digest(value)
            yield name, value
            if progress is not None:
                progress(name, number + 1, len(layout))

    target.mkdir(parents=True, exist_ok=True)
    try:
        write_safetensors(target / "model.safetensors", layout, values(), {"format": "cutset-int8"})
        for pattern in CARRIED if source.is_dir() else ():
            for file in source.glob(pattern):
                shutil.copyfile(file, target / file.name)
        changed = dict(config) | {"quantization_config": {"quant_method": "cutset", "version": VERSION}}
        for name, content in ((DIGESTS, digests), ("config.json", changed)):
            (target / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except BaseException:  # Ctrl-C too: no half of a checkpoint stays
        shutil.rmtree(target, ignore_errors=True)
        raise
