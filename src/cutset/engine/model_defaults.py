"""What a model says of how its tokens are to be drawn."""

from __future__ import annotations

import warnings
from pathlib import Path

from cutset.config import Settings
from cutset.engine.params import SamplingParams
from cutset.errors import ModelError, RequestError
from cutset.models.generation_config import GenerationDefaults, generation_defaults

__all__ = ["sampling_defaults"]


def sampling_defaults(directory: Path, context: int, settings: Settings) -> GenerationDefaults:
    """The sampling parameters that a model in `directory`, with a context of so many tokens, names itself.

    Warns of what it asks for and isn't done here. Raises ModelError for values that can't be.
    """
    if not settings.generation_config:
        return GenerationDefaults()
    found = generation_defaults(directory, context)
    remedy = "correct it, or give --no-generation-config"
    try:
        SamplingParams(**found.values)
    except RequestError as error:
        raise ModelError(f"{found.file}: {str(error).rstrip('.')}; {remedy}") from None
    if found.undone:
        asked = ", ".join(f"{name}={value!r:.40}" for name, value in sorted(found.undone.items()))
        warnings.warn(
            f"{found.file} asks for what isn't done here: {asked:.400}. Answers differ from those of systems that do; "
            f"{remedy}",
            stacklevel=3,
        )
    return found
