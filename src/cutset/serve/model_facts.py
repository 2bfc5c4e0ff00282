"""What is said of a model that is served, also while it isn't loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cutset.errors import ModelError
from cutset.models.files.formats import weight_files
from cutset.models.files.gguf_path import is_gguf
from cutset.models.spec import DecoderSpec

__all__ = ["Catalogue", "ModelFacts", "facts_of", "model_card"]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """`digest`: of names, sizes and times of its files, not of their bytes. `context` is in tokens."""

    name: str
    directory: Path
    spec: DecoderSpec
    context: int
    dtype: str
    template: str | None  # the source of its chat template
    format: str  # gguf or safetensors
    nbytes: int  # of its weights on disk
    modified: float  # seconds since the epoch
    digest: str
    parent: str | None = None  # the model that an adapter belongs to


class Catalogue(Protocol):
    """The models of a server."""

    started: int  # seconds since the epoch

    def served(self) -> Sequence[ModelFacts]:
        """All that clients may ask for, adapters too."""

    def loaded(self) -> Sequence[str]:
        """Names of those that are in memory."""

    def mode_of(self, name: str) -> str:
        """The mode of offload that a model's answers are made in."""


def facts_of(
    name: str, directory: Path, spec: DecoderSpec, *, context: int, dtype: str, template: str | None
) -> ModelFacts:
    """The facts of a model directory or GGUF file."""
    nbytes, modified, seen = 0, 0.0, hashlib.sha256()
    try:
        files = list(weight_files(directory))
    except ModelError:
        files = []
    for file in files:
        found = file.stat()
        nbytes, modified = nbytes + found.st_size, max(modified, found.st_mtime)
        seen.update(f"{file.name}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
    kind = "gguf" if is_gguf(directory) else "safetensors"
    return ModelFacts(name, directory, spec, context, dtype, template, kind, nbytes, modified, seen.hexdigest())


def model_card(facts: ModelFacts, catalogue: Catalogue) -> dict[str, Any]:
    """A model as OpenAI's list has it."""
    return {
        "id": facts.name,
        "object": "model",
        "created": catalogue.started,
        "owned_by": "cutset",
        **({} if facts.parent is None else {"parent": facts.parent}),
        "max_model_len": facts.context,
        "cutset": {"mode": catalogue.mode_of(facts.name)},
    }
