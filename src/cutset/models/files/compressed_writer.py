"""Writes checkpoints of few bits as compressed-tensors has them (pack-quantized), which vLLM and transformers read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import CheckpointError, ModelError
from cutset.models.files.code_words import packed_codes, packed_words
from cutset.models.files.group_rounding import Scheme
from cutset.models.files.grouped import GroupedWeight
from cutset.models.files.integer import Progress, carried, carry
from cutset.models.files.tensor import Tensor
from cutset.models.files.writer import new_directory, write_safetensors
from cutset.models.spec import DecoderSpec

__all__ = ["matrices", "schemes_of", "write_compressed"]

Layout = dict[str, tuple[str, tuple[int, ...]]]
# A matrix by its name, as floats (outputs, inputs), rounded by its scheme.
Round = Callable[[str, NDArray[np.float32], Scheme], GroupedWeight]


def matrices(spec: DecoderSpec) -> dict[str, tuple[Any, ...]]:
    """The matrices that are rounded, in their order, and the sites at which they are multiplied. The head and the
    embedding stay as they are."""
    return {
        name: site for site in spec.sites() if site[0] != "lm_head" for name in spec.site_tensors(*site)
    }  # a matrix that is multiplied at several sites stands for the last


def schemes_of(spec: DecoderSpec, scheme: Scheme, more_bits: tuple[str, ...]) -> dict[str, Scheme]:
    """How each matrix is rounded: those whose names have one of `more_bits` in them with 8 bits.

    Raises ModelError for groups that don't divide the columns, or for one of `more_bits` that no matrix has.
    """
    shapes, found = spec.tensor_shapes(), {}
    for name in matrices(spec):
        inputs = shapes[name][1]
        group = inputs if scheme.group < 0 else scheme.group
        if inputs % group:
            fitting = [size for size in (256, 128, 64, 32, 16) if inputs % size == 0]
            advice = f"; {', '.join(map(str, fitting))} would" if fitting else "; use --group -1, a scale a row"
            raise ModelError(f"groups of {group} don't divide the {inputs} columns of {name}{advice}")
        words = name.split(".")
        more = any(part in words for part in more_bits)
        found[name] = Scheme(8 if more else scheme.bits, group, scheme.symmetric)
    for part in more_bits:
        if not any(part in name.split(".") for name in found):
            raise ModelError(f"no matrix is called {part}; there are {', '.join(sorted({_module(n) for n in found}))}")
    return found


def write_compressed(
    spec: DecoderSpec,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    source: Path,
    target: Path,
    schemes: Mapping[str, Scheme],
    round_matrix: Round,
    progress: Progress | None = None,
) -> None:
    """Writes the matrices named in `schemes` rounded, all else as it is, into the directory `target`, with what lies
    beside the weights in `source`.

    Raises CheckpointError for weights that can't be rounded, ModelError for a target that holds something already.
    """
    files = carried(source)
    layout = _layout(spec, tensors, schemes)

    def values() -> Iterator[tuple[str, NDArray[Any]]]:
        names = spec.tensor_shapes()
        for number, name in enumerate(names):
            if name not in schemes:
                yield name, tensors[name].raw
            else:
                yield from _parts(name, schemes[name], tensors[name], round_matrix)
            if progress is not None:
                progress(name, number + 1, len(names))

    with new_directory(target):
        write_safetensors(target / "model.safetensors", layout, values(), {"format": "pt"})
        carry(files, source, target)
        whole = dict(config) | {"quantization_config": _config(spec, schemes)}
        (target / "config.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def _layout(spec: DecoderSpec, tensors: Mapping[str, Tensor], schemes: Mapping[str, Scheme]) -> Layout:
    layout: Layout = {}
    for name, shape in spec.tensor_shapes().items():
        scheme = schemes.get(name)
        if scheme is None:
            layout[name] = (tensors[name].dtype, shape)
            continue
        outputs, inputs = shape
        groups = inputs // scheme.group
        layout[f"{name}_packed"] = ("I32", (outputs, packed_words(inputs, scheme.bits)))
        layout[f"{name}_shape"] = ("I64", (2,))
        layout[f"{name}_scale"] = ("F16", (outputs, groups))
        if not scheme.symmetric:
            layout[f"{name}_zero_point"] = ("I32", (packed_words(outputs, scheme.bits), groups))
    return layout


def _parts(name: str, scheme: Scheme, tensor: Tensor, round_matrix: Round) -> Iterator[tuple[str, NDArray[Any]]]:
    try:
        weight = round_matrix(name, np.ascontiguousarray(tensor.float32()), scheme)
    except ValueError as error:
        raise CheckpointError(f"{tensor.file}: {name} can't be quantised: {error}") from None
    yield f"{name}_packed", packed_codes(weight.codes, scheme.bits)
    yield f"{name}_shape", np.array(weight.shape, np.int64)
    yield f"{name}_scale", weight.scales.values
    if not scheme.symmetric:
        zeros = np.asarray(weight.zeros)
        yield f"{name}_zero_point", np.ascontiguousarray(packed_codes(np.ascontiguousarray(zeros.T), scheme.bits).T)


def _config(spec: DecoderSpec, schemes: Mapping[str, Scheme]) -> dict[str, Any]:
    """The library's QuantizationConfig. Modules of one scheme are a group; where there are several, each is named."""
    by_row = len({scheme.group for scheme in schemes.values()}) > 1  # rows differ in length, and have a scale each
    modules: dict[tuple[int, bool, int | None], set[str]] = {}
    for name, scheme in schemes.items():
        kind = scheme.bits, scheme.symmetric, None if by_row else scheme.group
        modules.setdefault(kind, set()).add(_module(name))
    groups = {}
    for number, ((bits, symmetric, group), ends) in enumerate(modules.items()):
        weights = {
            "num_bits": bits,
            "type": "int",
            "symmetric": symmetric,
            "strategy": "channel" if group is None else "group",
            "group_size": group,
            "dynamic": False,
            "actorder": None,
            "block_structure": None,
        }
        groups[f"group_{number}"] = {
            "targets": ["Linear"] if len(modules) == 1 else [f"re:.*[.]{end}$" for end in sorted(ends)],
            "weights": weights,
            "input_activations": None,
            "output_activations": None,
            "format": "pack-quantized",
        }
    shapes = spec.tensor_shapes()
    kept = [name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) == 2 and name not in schemes]
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": sorted({"lm_head", *kept} - {spec.names.embedding[0].checkpoint.removesuffix(".weight")}),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def _module(name: str) -> str:
    """The last word of a module's name."""
    return name.removesuffix(".weight").rpartition(".")[2]
