"""Formats of a model's weights, in a directory or a file: what each reader must say, and the one list of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cutset.models.files import checkpoint
from cutset.models.files.checkpoint import Checkpoint, TensorTable
from cutset.models.files.gguf_model import GGUFModel, gguf_files
from cutset.models.files.gguf_path import is_gguf

__all__ = ["FORMATS", "WeightFormat", "read_weights", "weight_files"]


class WeightFormat(NamedTuple):
    """A format that a model's weights may have. `files` and `read` raise CheckpointError for what can't be used."""

    name: str
    fits: Callable[[Path], bool]  # whether a directory's weights, or a file, are in this format
    files: Callable[[Path], list[Path]]  # the files that hold them
    read: Callable[[Path], TensorTable]  # all tensors, mapped


# The first that fits. The last fits every directory, and says what is missing where there are no weights.
FORMATS = (
    WeightFormat("GGUF", is_gguf, gguf_files, GGUFModel),
    WeightFormat("safetensors", lambda directory: True, checkpoint.weight_files, Checkpoint),
)


def read_weights(directory: Path) -> TensorTable:
    """The tensors of a model directory, in whatever format. Raises CheckpointError."""
    return _format_of(directory).read(directory)


def weight_files(directory: Path) -> list[Path]:
    """The files that hold a model's weights. Raises CheckpointError where there are none or it can't be told which."""
    return _format_of(directory).files(directory)


def _format_of(directory: Path) -> WeightFormat:
    return next(form for form in FORMATS if form.fits(directory))
