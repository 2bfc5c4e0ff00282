"""A model on disk, in either form: a checkpoint directory or an exchange file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.config import usable_cores
from cutset.errors import ModelError
from cutset.models.families import load_spec, read_json
from cutset.models.files.checkpoint import Checkpoint, Tensor, TensorTable, fitted
from cutset.models.files.digests import verify_digests
from cutset.models.files.exchange import ExchangeFile, write_exchange
from cutset.models.files.integer import check_integer_tensors, is_integer
from cutset.models.files.writer import new_directory, write_safetensors
from cutset.models.spec import DecoderSpec

__all__ = ["Source", "convert", "open_source"]

Inputs = tuple[NDArray[np.int32], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Source:
    """A model: its configuration, specification and tensors, each read when it is asked for."""

    path: Path
    config: Mapping[str, Any]
    spec: DecoderSpec
    tensors: Mapping[str, Tensor]
    dtype: str  # of the weights: float32, float16, bfloat16, or int8 (an integer checkpoint)
    inputs: Inputs | None  # input_ids and attention_mask, each (batch, tokens); exchange files have them

    def forget(self) -> None:
        """Lets go of the pages that were read; a mapped tensor is read from the file again when it is used again."""
        for tensor in self.tensors.values():
            tensor.forget()


def open_source(path: Path, verify: str = "changed") -> Source:
    """Opens a checkpoint directory or an exchange file. Raises ModelError for what can't be used.

    The digests of an integer checkpoint are compared where its files have changed since the last time, or `always`.
    """
    if path.is_dir():
        spec, checkpoint = load_spec(path), Checkpoint(path)
        config = read_json(path / "config.json")
        if is_integer(config):
            tensors = check_integer_tensors(spec, config, checkpoint)
            verify_digests(path, tensors, usable_cores(), always=verify == "always")
            return Source(path, config, spec, tensors, "int8", None)
        return _float_source(path, config, spec, checkpoint, None)
    if not path.is_file():
        raise ModelError(f"{path} is neither a checkpoint directory nor an exchange file")
    file = ExchangeFile(path)
    return _float_source(path, file.config, file.spec, file, file.inputs)


def _float_source(
    path: Path, config: Mapping[str, Any], spec: DecoderSpec, table: TensorTable, inputs: Inputs | None
) -> Source:
    true, tensors = fitted(spec, table)
    if true.tied != spec.tied:  # whoever writes the configuration out again writes what is true
        config = {**config, "tie_word_embeddings": true.tied}
    return Source(path, config, true, tensors, table.float_dtype(), inputs)


def convert(source: Source, target: Path, inputs: Inputs | None = None) -> None:
    """Writes `source` in the other form: to an exchange file if it is a directory, to a directory if it is a file.

    Tensors keep their bytes, the configuration its content. `inputs` go into an exchange file. Raises ModelError for a
    directory that holds something already.
    """
    if source.dtype == "int8":
        raise ModelError(f"{source.path} is an integer checkpoint; convert the float one that it came from")
    if source.path.is_dir():
        kept = source.inputs or inputs
        arrays = None if kept is None else (kept[0].astype(np.int32), kept[1].astype(np.uint8))
        meta = {"generator": "cutset convert", "head_dim": source.spec.head_dim}
        if arrays is not None:
            meta |= {"B": arrays[0].shape[0], "S": arrays[0].shape[1]}
        write_exchange(target, source.config, source.tensors.__getitem__, arrays, meta)
        return
    import json

    layout = {name: (source.tensors[name].dtype, shape) for name, shape in source.spec.tensor_shapes().items()}
    tensors = ((name, source.tensors[name].raw) for name in layout)
    with new_directory(target):
        write_safetensors(target / "model.safetensors", layout, tensors, {"format": "pt"})
        (target / "config.json").write_text(json.dumps(dict(source.config), indent=2) + "\n", encoding="utf-8")
