"""How a model's hidden states become one vector, as its files say: sentence-transformers' or a GGUF file's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from cutset.errors import CheckpointError
from cutset.models.files.fields import read_json
from cutset.models.files.gguf import read_gguf
from cutset.models.files.gguf_path import is_gguf

__all__ = ["POOLINGS", "Pooling", "stated_pooling"]

Pooling = Literal["last", "mean", "cls"]  # the last token's, the mean of all, the first token's
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
FOLDER = "1_Pooling"
GGUF_TYPES: dict[Any, Pooling] = {1: "mean", 2: "cls", 3: "last"}
DONE = "mean, cls and lasttoken"
# sentence-transformers' names, older as flags and newer as one value.
FLAGS: dict[str, Pooling] = {
    "pooling_mode_lasttoken": "last",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
}
NAMES: dict[str, Pooling] = {"lasttoken": "last", "mean": "mean", "cls": "cls"}


def stated_pooling(directory: Path) -> Pooling | None:
    """What a model directory or a GGUF file says, or None. Raises CheckpointError for a pooling that isn't done."""
    if is_gguf(directory):
        metadata = read_gguf(directory).metadata
        number = metadata.get(f"{metadata.get('general.architecture')}.pooling_type")
        if number in (None, 0, -1):
            return None
        if not isinstance(number, int) or number not in GGUF_TYPES:
            raise CheckpointError(f"{directory} asks for the pooling {str(number)[:60]}; 1 to 3 are done: {DONE}")
        return GGUF_TYPES[number]
    path = directory / FOLDER / "config.json"
    if not path.is_file():
        return None
    content = read_json(path)
    asked = {name for name, value in content.items() if name.startswith("pooling_mode_") and value is True}
    if (one := content.get("pooling_mode")) is not None:
        asked.add(str(one))
    known = FLAGS | NAMES
    if len(asked) != 1 or not asked <= known.keys():
        names = ", ".join(sorted(asked))[:200] or "nothing"
        raise CheckpointError(f"{path} asks for {names}; one of {DONE} is done, each alone")
    return known[asked.pop()]
