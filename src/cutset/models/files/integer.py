"""Integer checkpoints: 8-bit weights with one scale a row, written once, checked by digest, loaded by every party.

Rounding is canonical: scale = max|w| / 127 in float32, q = w / scale to the nearest integer, ties to even. Whoever
quantises a float checkpoint gets these bytes, so it makes no difference where it is done.

The matrices of a site are stacked and stored packed, as `I8` (panels, padded depth / 4, 32, 4), which is what the
native kernels read: see cutset.kernels.reference_linear.pack_weight. So a mapped file is used as it is. The name is
that of the matrix, or `qkv_proj` and `gate_up_proj` for several. The scales are `F32` (rows,) under that name with
`weight` replaced by `weight_scale`. The rest, the embedding included, is `F32`. `config.json` is the model's own, with
`quantization_config: {"quant_method": "cutset", "version": 2}`. `digests.json` has the SHA-256 of every tensor.

Version 1, which is still read, has every matrix by itself under its own name, as `I8` (rows, columns).
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cutset.errors import CheckpointError, ModelError
from cutset.kernels.reference_linear import (
    pack_weight,
    packed_shape,
    quantize_weight,
    quantized_linear,
    top_of,
    unpack_weight,
)
from cutset.models.files.channel_scales import ChannelScales, Key
from cutset.models.files.checkpoint import Tensor, TensorTable
from cutset.models.files.digests import DIGESTS, digest
from cutset.models.files.gguf_beside import write_beside
from cutset.models.files.lfs import check_no_pointer_at
from cutset.models.files.specification import INTEGER_WEIGHTS, describable, write_specification
from cutset.models.files.writer import new_directory, write_safetensors
from cutset.models.spec import DecoderSpec, Site, TensorName, activation_bits
from cutset.models.stages import stage_sites
from cutset.models.text.tokenizer_files import SENTENCEPIECE_FILES, tokenizer_files

__all__ = [
    "MOST_SUM",
    "IntegerLinears",
    "QuantizedWeight",
    "Recipe",
    "activation_bits",
    "bits_of_site",
    "carried",
    "carry",
    "channel_scales",
    "check_integer_tensors",
    "is_integer",
    "most_bits",
    "moved_glue",
    "packed",
    "quantized",
    "quantized_parts",
    "stored_form",
    "sums_of_sizes",
    "write_integer_checkpoint",
]

VERSION, CALIBRATED = 2, 3  # of what is written
VERSIONS = (1, VERSION, CALIBRATED)
# Sums of a site lie between -MOST_SUM and MOST_SUM, whatever the activations: half of the prime field of offload, so
# that a sum is the same number there.
MOST_SUM = 2**30 - 1
Floats = NDArray[np.float32]
QuantizedWeight = tuple[NDArray[np.int8], Floats]  # (rows, columns) and one scale a row
Progress = Callable[[str, int, int], None]  # what is done, how many of how many


class Recipe(Protocol):
    """A way to round that is no canonical one. It is asked for the sites in their order."""

    def __call__(self, site: Key, weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], Floats, Floats]:
        """The weights of a site, its matrices stacked, (outputs, depth), as integers; one scale an output; and the
        scales of the channels, (depth,), that the columns were multiplied by before."""
        ...

    def record(self) -> dict[str, Any]:
        """What a checkpoint says of it."""
        ...


def sums_of_sizes(weight: NDArray[np.int8]) -> NDArray[np.int32]:
    """sum_k |W_jk| of each output, int32 (outputs,); with the largest activation it bounds that output's sums."""
    sums = np.empty(weight.shape[0], np.int32)
    for start in range(0, len(sums), 1024):  # so that only a part is widened at a time
        part = np.abs(weight[start : start + 1024].astype(np.int16))
        part.sum(axis=1, dtype=np.int32, out=sums[start : start + 1024])
    return sums


def most_bits(weight: NDArray[np.int8]) -> int:
    """The most bits of activations, 12 to 8, whose sums with these weights (outputs, depth) can't pass MOST_SUM.

    0 if there are none. The sums that a row's activations of b bits can reach are (2^(b-1) - 1) * sum |w|.
    """
    largest = int(sums_of_sizes(weight).max())
    return next((bits for bits in range(12, 7, -1) if top_of(bits) * largest <= MOST_SUM), 0)


def bits_of_site(dtype: str, site: Site, layer: int, weight: NDArray[np.int8]) -> int:
    """What `activation_bits` asks for, or fewer where the sums of this matrix ask for it.

    Raises CheckpointError where even 8 are too many.
    """
    bits = min(activation_bits(dtype, site), most_bits(weight))
    if bits < 8:
        raise CheckpointError(f"site {site} of layer {layer}: its sums of {weight.shape[1]} products overflow")
    return bits


def is_integer(config: Mapping[str, Any]) -> bool:
    """The configuration is that of an integer checkpoint of ours."""
    quantization = config.get("quantization_config")
    return isinstance(quantization, dict) and quantization.get("quant_method") == "cutset"


def scale_name(name: str) -> str:
    """Where the scales of a matrix are stored."""
    return f"{name}_scale"


def channel_scale_name(name: str) -> str:
    """Where the scales are stored that the columns of a matrix were multiplied by."""
    return f"{name}_channel_scale"


@functools.lru_cache(maxsize=4)  # each site asks
def stored_form(spec: DecoderSpec, version: int = VERSION) -> DecoderSpec:
    """The same decoder under the names of an integer checkpoint.

    From version 2 on the matrices of a site are one tensor. The embedding is looked up in float32 and multiplied in
    integers: tied, it is there twice, as the head too.
    """
    packed = spec.names
    for role in ("qkv", "in_proj", "gate_up", "expert_gate_up", "shared_gate_up") if version > 1 else ():
        name, place = getattr(spec.names, role)[0]
        one = name.replace("q_proj", "qkv_proj").replace("gate_proj", "gate_up_proj")
        one = one.replace("in_proj_qkv", "in_proj")
        packed = replace(packed, **{role: (TensorName(one, place),)})
    return replace(spec, names=packed, tied=False)


def packed_name(spec: DecoderSpec, site: Site, layer: int, expert: int) -> str:
    """Where the packed weights of a site are stored."""
    return stored_form(spec).site_tensors(site, layer, expert)[0]


def stored_shapes(spec: DecoderSpec, version: int = VERSION) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and shape of every tensor of an integer checkpoint, in the order in which they are written: packed weights
    first, so that all of them begin at a cache line."""
    stored, glue = stored_form(spec, version), {name for names in spec.glue().values() for name in names}
    weights, scales, channels = (dict[str, tuple[str, tuple[int, ...]]]() for _ in range(3))
    shapes = stored.tensor_shapes()
    for site in stored.sites():
        for name in stored.site_tensors(*site):
            rows, depth = shapes[name]
            weights[name] = ("I8", (rows, depth) if version == 1 else packed_shape(rows, depth))
            scales[scale_name(name)] = ("F32", (rows,))
            if version == CALIBRATED:
                channels[channel_scale_name(name)] = ("F32", (depth,))
    return (
        weights
        | scales
        | channels
        | {name: ("F32", shape) for name, shape in spec.tensor_shapes().items() if name in glue}
    )


def check_integer_tensors(spec: DecoderSpec, config: Mapping[str, Any], table: TensorTable) -> dict[str, Tensor]:
    """The tensors of an integer checkpoint by name. Raises CheckpointError for one that is missing, misshapen,
    unexpected, or out of range, or for a version that isn't known."""
    version = config["quantization_config"].get("version")
    if version not in VERSIONS or isinstance(version, bool):
        raise CheckpointError(
            f"{table.directory}: an integer checkpoint of version {version!r:.40}; 1 to {CALIBRATED} are read: "
            "quantise it again"
        )
    if version == CALIBRATED and not isinstance(config["quantization_config"].get("recipe"), dict):
        raise CheckpointError(f"{table.directory}: an integer checkpoint of version {version} must have its recipe")
    layout = stored_shapes(spec, version)
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
    tensors = dict(table)
    channel_scales(spec, tensors)
    return tensors


def channel_scales(spec: DecoderSpec, tensors: Mapping[str, Tensor]) -> ChannelScales | None:
    """The scales that were moved between channels, of an integer checkpoint that has such. Raises CheckpointError for
    bad ones."""
    names = {site: channel_scale_name(packed_name(spec, *site)) for site in spec.sites()}
    found = {site: name for site, name in names.items() if name in tensors}
    return ChannelScales.stored(spec, tensors, found) if found else None


def packed(
    spec: DecoderSpec, tensors: Mapping[str, Tensor], site: Site, layer: int, expert: int
) -> QuantizedWeight | None:
    """The packed weights of a site, as pack_weight has them and as they lie in the mapped file, and one scale an
    output (outputs,); None if they aren't stored so."""
    found = tensors.get(packed_name(spec, site, layer, expert))
    if found is None or found.dtype != "I8" or len(found.shape) != 4:
        return None
    return found.raw, _scales(tensors, found.name)


def _scales(tensors: Mapping[str, Tensor], name: str) -> NDArray[np.float32]:
    scales = tensors[scale_name(name)].float32()
    if not (np.isfinite(scales).all() and (scales >= 0).all()):
        raise CheckpointError(f"{tensors[name].file}: the scales of {name} must be finite and not negative")
    return scales


def quantized(
    spec: DecoderSpec,
    tensors: Mapping[str, Tensor],
    site: Site,
    layer: int,
    expert: int,
    quantize: Callable[[NDArray[np.float32]], QuantizedWeight] = quantize_weight,
) -> QuantizedWeight:
    """The weights of a site, its matrices stacked, (outputs, depth), and one scale an output (outputs,): read from an
    integer checkpoint, or quantised now."""
    if (stored := packed(spec, tensors, site, layer, expert)) is not None:
        return unpack_weight(stored[0], len(stored[1]), spec.depth(site, layer, expert)), stored[1]
    parts = quantized_parts(spec, tensors, site, layer, expert, quantize)
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([q for q, _ in parts]), np.concatenate([scale for _, scale in parts])


def quantized_parts(
    spec: DecoderSpec,
    tensors: Mapping[str, Tensor],
    site: Site,
    layer: int,
    expert: int,
    quantize: Callable[[NDArray[np.float32]], QuantizedWeight] = quantize_weight,
) -> list[QuantizedWeight]:
    """The matrices of a site one by one, where they aren't packed."""
    parts: list[QuantizedWeight] = []
    stored_names = stored_form(spec, 1).site_tensors(site, layer, expert)
    for name, stored in zip(spec.site_tensors(site, layer, expert), stored_names, strict=True):
        if stored in tensors and tensors[stored].dtype == "I8":
            parts.append((tensors[stored].raw, _scales(tensors, stored)))
        else:
            try:
                parts.append(quantize(np.ascontiguousarray(tensors[name].float32())))
            except ValueError as error:
                raise CheckpointError(f"{tensors[name].file}: {name} can't be quantised: {error}") from None
    return parts


class IntegerLinears:
    """The products in integers, in numpy: the slow twin of the native ones. See cutset.models.run.decoder.Linears."""

    def __init__(
        self, spec: DecoderSpec, tensors: Mapping[str, Tensor], dtype: str, layers: range | None = None
    ) -> None:
        self.weights = {site: quantized(spec, tensors, *site) for site in stage_sites(spec, layers)}
        self.bits = {
            (site, layer, expert): bits_of_site(dtype, site, layer, weight)
            for (site, layer, expert), (weight, _) in self.weights.items()
        }

    def __call__(self, site: Site, layer: int, expert: int, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        key = site, layer, expert
        return quantized_linear(rows, *self.weights[key], self.bits[key])


def write_integer_checkpoint(
    spec: DecoderSpec,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    source: Path,
    target: Path,
    progress: Progress | None = None,
    recipe: Recipe | None = None,
) -> None:
    """Quantises a float checkpoint into the directory `target`, with what lies beside the weights in `source`: the
    tokenizer, its templates and generation_config.json. Rounding is canonical unless a `recipe` is given.

    Raises CheckpointError for weights that aren't finite, ModelError for a target that holds something already, or for
    a Git LFS pointer among what is carried along.
    """
    files = carried(source)
    version = VERSION if recipe is None else CALIBRATED
    layout, digests = stored_shapes(spec, version), dict[str, str]()

    def values() -> Iterator[tuple[str, NDArray[Any]]]:
        for number, (name, value) in enumerate(_values(spec, tensors, layout, recipe)):
            digests[name] = digest(value)
            yield name, value
            if progress is not None:
                progress(name, number + 1, len(layout))

    with new_directory(target):
        write_safetensors(target / "model.safetensors", layout, values(), {"format": "cutset-int8"})
        carry(files, source, target)
        about = {"quant_method": "cutset", "version": version} | ({"recipe": recipe.record()} if recipe else {})
        for name, content in ((DIGESTS, digests), ("config.json", dict(config) | {"quantization_config": about})):
            (target / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        if describable(spec):
            write_specification(target, stored_form(spec), INTEGER_WEIGHTS[version])


def _values(
    spec: DecoderSpec, tensors: Mapping[str, Tensor], layout: Iterable[str], recipe: Recipe | None
) -> Iterator[tuple[str, NDArray[Any]]]:
    """The tensors of an integer checkpoint, in the order of its layout: weights, scales, then those of channels."""
    sites = {packed_name(spec, *site): site for site in spec.sites()}
    scaled = {scale_name(name): site for name, site in sites.items()}
    channels = {channel_scale_name(name): site for name, site in sites.items()}
    glue = {name: key for key, names in spec.glue().items() for name in names}
    scales, columns = dict[Key, Floats](), dict[Key, Floats]()
    moved = ChannelScales(spec, columns)
    for name in layout:
        if name in sites:
            site = sites[name]
            if recipe is None:
                weight, scales[site] = quantized(spec, tensors, *site)
            else:
                weight, scales[site], columns[site] = _rounded(spec, tensors, site, recipe)
            yield name, pack_weight(weight)
        elif name in scaled:
            site = scaled[name]
            yield name, scales[site] if recipe is None else scales[site] / moved.rows(site)
        elif name in channels:
            yield name, columns[channels[name]]
        elif recipe is None:
            yield name, tensors[name].float32()
        else:
            yield name, moved_glue(spec, tensors, glue[name], name, moved)


def _rounded(
    spec: DecoderSpec, tensors: Mapping[str, Tensor], site: Key, recipe: Recipe
) -> tuple[NDArray[np.int8], Floats, Floats]:
    names = spec.site_tensors(*site)
    try:
        return recipe(site, np.concatenate([tensors[name].float32() for name in names]))
    except ValueError as error:
        raise CheckpointError(f"{tensors[names[0]].file}: {names[0]} can't be quantised: {error}") from None


def moved_glue(
    spec: DecoderSpec, tensors: Mapping[str, Tensor], key: tuple[str, int], name: str, moved: ChannelScales
) -> Floats:
    """A parameter beside the products; its tensors are scaled together, as they are stacked."""
    names = spec.glue()[key]
    if len(names) == 1:
        return moved.glue(*key, tensors[name].float32())
    parts = [tensors[each].float32() for each in names]
    ends = np.cumsum([len(part) for part in parts])[:-1]
    return np.split(moved.glue(*key, np.concatenate(parts)), ends)[names.index(name)]


def carry(files: list[Path], source: Path, target: Path) -> None:
    """Copies what `carried` has found in `source` into the directory `target`, or writes what a GGUF file has of it."""
    for file in files:
        place = target / file.relative_to(source)
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, place)
    write_beside(source, target)


def carried(source: Path) -> list[Path]:
    """What belongs to a model beside its weights. Raises ModelError for a Git LFS pointer among it."""
    if not source.is_dir():
        return []
    generation = source / "generation_config.json"
    files = [*tokenizer_files(source), *([generation] if generation.is_file() else [])]
    for file in files:
        if file.name not in SENTENCEPIECE_FILES:  # nothing reads them here: they are often left where git put them
            check_no_pointer_at(file, ModelError)
    return files
