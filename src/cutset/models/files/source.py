"""A model on disk, in any form: a checkpoint directory, a GGUF file or an exchange file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.config import usable_cores
from cutset.errors import ModelError
from cutset.models.families import load_spec, read_json, spec_from_config
from cutset.models.files.checkpoint import Tensor, TensorTable, fitted
from cutset.models.files.digests import verify_digests
from cutset.models.files.exchange import ExchangeFile, write_exchange
from cutset.models.files.formats import read_weights
from cutset.models.files.gguf_beside import write_beside
from cutset.models.files.gguf_model import GGUFModel
from cutset.models.files.gguf_path import is_gguf
from cutset.models.files.grouped import GroupedTensor
from cutset.models.files.integer import check_integer_tensors, is_integer, stored_form
from cutset.models.files.quantization import regrouped
from cutset.models.files.specification import INTEGER_WEIGHTS, SPECIFICATION, describable, write_specification
from cutset.models.files.stacked import StackedCodes, StackedPart
from cutset.models.files.tensor import ComputedTensor
from cutset.models.files.writer import new_directory, write_safetensors
from cutset.models.spec import DecoderSpec, TensorName, TensorNames

__all__ = ["ModelSource", "convert", "open_source", "specify"]

Inputs = tuple[NDArray[np.int32], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model: its configuration, specification and tensors, each read when it is asked for."""

    path: Path
    read_config: Callable[[], Mapping[str, Any]]
    spec: DecoderSpec
    tensors: Mapping[str, Tensor]
    dtype: str  # of the weights: float32, float16, bfloat16, grouped (GroupedTensors), or int8 (an integer checkpoint)
    inputs: Inputs | None = None  # input_ids and attention_mask, each (batch, tokens); exchange files have them

    @property
    def files(self) -> list[Path]:
        """Those that it is read from: of its tensors, and a directory's config.json."""
        found = {tensor.file for tensor in self.tensors.values()}
        return sorted(found | {self.path / "config.json"} if self.path.is_dir() else found)

    @property
    def config(self) -> Mapping[str, Any]:
        """The model's config.json. Raises CheckpointError for an exchange file that has none, or another model's."""
        config = self.read_config()
        if spec_from_config(dict(config)).tied == self.spec.tied:
            return config
        return {**config, "tie_word_embeddings": self.spec.tied}  # whoever writes it out again writes what is true

    def forget(self) -> None:
        """Lets go of the pages that were read; a mapped tensor is read from the file again when it is used again."""
        for tensor in self.tensors.values():
            tensor.forget()


def open_source(path: Path, verify: str = "changed") -> ModelSource:
    """Opens a checkpoint directory, a GGUF file or an exchange file. Raises ModelError for what can't be used.

    The digests of an integer checkpoint are compared where its files have changed since the last time, or `always`.
    """
    if path.is_dir():
        spec, checkpoint = load_spec(path), read_weights(path)
        config = read_json(path / "config.json")
        if is_integer(config):
            tensors = check_integer_tensors(spec, config, checkpoint)
            verify_digests(path, tensors, usable_cores(), always=verify == "always")
            return ModelSource(path, lambda: config, spec, tensors, "int8")
        return _float_source(path, lambda: config, spec, regrouped(spec, config, checkpoint, path / "config.json"))
    if is_gguf(path):
        model = GGUFModel(path)
        return _float_source(path, lambda: model.config, model.spec, model)
    if not path.is_file():
        raise ModelError(f"{path} is neither a checkpoint directory nor an exchange file")
    file = ExchangeFile(path)
    return _float_source(path, lambda: file.config, file.spec, file, file.inputs)


def _float_source(
    path: Path,
    read_config: Callable[[], Mapping[str, Any]],
    spec: DecoderSpec,
    table: TensorTable,
    inputs: Inputs | None = None,
) -> ModelSource:
    true, tensors = fitted(spec, table)
    grouped = any(isinstance(tensor, GroupedTensor) for tensor in tensors.values())
    dtype = "grouped" if grouped else table.float_dtype()
    return ModelSource(path, read_config, true, tensors, dtype, inputs)


def convert(source: ModelSource, target: Path, inputs: Inputs | None = None) -> None:
    """Writes `source` to an exchange file if `target` ends in .json, and to a new checkpoint directory otherwise.

    Tensors keep their bytes, codes become the floats that they stand for; the configuration keeps its content. What a
    GGUF file has beside its weights goes along into a directory. `inputs` go into an exchange file. An exchange file
    becomes one of today's version. Raises ModelError for a directory that holds something already.
    """
    if source.dtype == "int8":
        raise ModelError(f"{source.path} is an integer checkpoint; convert the float one that it came from")
    # What was quantised is written as the floats that it stands for.
    config = {name: value for name, value in source.config.items() if name != "quantization_config"}
    if target.suffix == ".json":
        kept = source.inputs or inputs
        arrays = None if kept is None else (kept[0].astype(np.int32), kept[1].astype(np.uint8))
        meta = {"generator": "cutset convert", "head_dim": source.spec.head_dim}
        if arrays is not None:
            meta |= {"B": arrays[0].shape[0], "S": arrays[0].shape[1]}
        write_exchange(target, config, source.tensors.__getitem__, arrays, meta, spec=source.spec)
        return
    layout = {name: (source.tensors[name].dtype, shape) for name, shape in source.spec.tensor_shapes().items()}
    tensors = ((name, source.tensors[name].raw) for name in layout)
    with new_directory(target):
        write_safetensors(target / "model.safetensors", layout, tensors, {"format": "pt"})
        (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_beside(source.path, target)
        if describable(source.spec):
            write_specification(target, source.spec)


def specify(directory: Path) -> Path:
    """Writes the specification of a checkpoint directory into it, for programs that know no families.

    It names what is stored there: a tied embedding may lie under the head's name, and what is no part of the model is
    listed as ignored. Raises ModelError for what can't be used or written.
    """
    source = open_source(directory)
    stored, form, names = source.spec, "float", source.spec.names
    if source.dtype == "int8":
        version = source.config["quantization_config"]["version"]
        stored, form = stored_form(source.spec, version), INTEGER_WEIGHTS[version]
    else:
        stacks = [tensor for tensor in source.tensors.values() if isinstance(tensor, StackedPart | StackedCodes)]
        codes = [tensor for tensor in source.tensors.values() if isinstance(tensor, GroupedTensor | ComputedTensor)]
        if codes and not stacks:
            raise ModelError(
                f"{codes[0].file} is quantised by another program, which a specification doesn't describe: "
                f"make an exchange file of it with `cutset convert {directory} -o NEW.json`"
            )
        if stacks:
            raise ModelError(
                f"{stacks[0].file} has all experts of a layer in one tensor, which a specification doesn't describe: "
                f"make an exchange file of it with `cutset convert {directory} -o NEW.json`"
            )
        names = _as_stored(source)
        stored = replace(source.spec, names=names)
    used = set(source.tensors if source.dtype == "int8" else stored.tensor_shapes())
    try:
        write_specification(directory, stored, form, sorted(set(read_weights(directory)) - used))
    except OSError as error:
        raise ModelError(f"{directory / SPECIFICATION} can't be written: {error.strerror}") from None
    return directory / SPECIFICATION


def _as_stored(source: ModelSource) -> TensorNames:
    """The names that the tensors have in their files, where the specification goes by others."""
    names, there = source.spec.names, [tensor.name for tensor in source.tensors.values()]
    for theirs, ours in source.spec.other_names:
        if not any(name.startswith(theirs) for name in there):
            continue
        for role in (field.name for field in fields(names)):
            renamed = tuple(
                name._replace(checkpoint=theirs + name.checkpoint.removeprefix(ours))
                if name.checkpoint.startswith(ours)
                else name
                for name in getattr(names, role)
            )
            names = replace(names, **{role: renamed})
    embedding = source.tensors[source.spec.names.embedding[0].checkpoint].name
    return replace(names, embedding=(TensorName(embedding, names.embedding[0].place),))
