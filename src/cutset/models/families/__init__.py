"""Families of decoders: one file each, which reads a config.json into a DecoderSpec.

A family is a module of this package with a `FAMILY`, under the name of its `model_type`; nothing else lists it.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from cutset.errors import ArchitectureError, ModelError
from cutset.models.families.common import Family, read_checked
from cutset.models.files.fields import Fields, read_json
from cutset.models.spec import DecoderSpec

__all__ = ["families", "load_spec", "read_json", "spec_from_config"]


def load_spec(directory: Path) -> DecoderSpec:
    """The specification of a GGUF file, or of the model in a directory, with the end tokens of its
    `generation_config.json` too.

    Raises ModelError where a file is missing or malformed, ArchitectureError for a network that isn't known.
    """
    from cutset.models.files.gguf_path import is_gguf  # which needs what is above

    if is_gguf(directory):
        from cutset.models.files.gguf_model import GGUFModel

        return GGUFModel(directory).spec
    if not directory.is_dir():
        raise ModelError(f"{directory} is not a directory: give one with config.json and *.safetensors")
    spec = spec_from_config(read_json(directory / "config.json"), str(directory / "config.json"))
    path = directory / "generation_config.json"
    if not path.is_file():
        return spec
    named = Fields(read_json(path), str(path)).token_ids("eos_token_id", spec.vocab_size)
    if not named:
        return spec
    stated = () if spec.eos_assumed else spec.eos_token_ids
    return replace(spec, eos_token_ids=tuple(dict.fromkeys(stated + named)), eos_assumed=False)


def spec_from_config(config: dict[str, Any], source: str = "config.json") -> DecoderSpec:
    """The specification that a configuration describes; `source` names it in errors. Raises ArchitectureError."""
    family, fields = _family(config, source), Fields(config, source)
    return read_checked(family, fields)


@functools.cache
def families() -> dict[str, Family]:
    """Every family by its `model_type`."""
    modules = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    found = (module.FAMILY for module in modules if hasattr(module, "FAMILY"))
    return {family.model_type: family for family in sorted(found, key=lambda family: family.model_type)}


def _family(config: dict[str, Any], source: str) -> Family:
    """The family of a configuration: by its `model_type`, or where that is absent by its `architectures`."""
    model_type, architectures = config.get("model_type"), config.get("architectures")
    if model_type is None and isinstance(architectures, list):
        for family in families().values():
            if any(name in family.architectures for name in architectures):
                return family
    if isinstance(model_type, str) and model_type in families():
        return families()[model_type]
    words = [str(model_type), *(map(str, architectures) if isinstance(architectures, list) else ())]
    raise ArchitectureError(
        f"{source}: unknown model_type {model_type!r:.60}; the nearest known are {', '.join(_nearest(words))} "
        f"(of {len(families())}, which docs/models.md lists)"
    )


def _nearest(words: list[str]) -> list[str]:
    """Up to three families whose names are most like one of the words, the likest first."""

    def likeness(family: Family) -> float:
        names = (family.model_type, *family.architectures)
        pairs = ((word[:80].lower(), name.lower()) for word in words[:8] for name in names)
        return max(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    return [family.model_type for family in sorted(families().values(), key=likeness, reverse=True)[:3]]
