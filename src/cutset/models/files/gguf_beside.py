"""What a GGUF file has beside its weights, as the files that a directory of a model has for it."""

from __future__ import annotations

import json
from pathlib import Path

from cutset.models.files.gguf import read_gguf
from cutset.models.files.gguf_path import is_gguf
from cutset.models.generation_config import FILE, OBEYED, generation_defaults
from cutset.models.text.tokenizer_gguf import StoredTokenizer

__all__ = ["write_beside"]


def write_beside(source: Path, target: Path) -> None:
    """Writes tokenizer, chat templates and sampling parameters of a GGUF file into a directory; does nothing for a
    source that is none, or has no tokenizer. Raises TokenizerError for one that can't be used."""
    if not is_gguf(source):
        return
    if "tokenizer.ggml.model" in read_gguf(source).metadata:
        StoredTokenizer(source).write(target)
    if values := generation_defaults(source, 0).values:
        theirs = {ours: name for name, ours in OBEYED.items()}
        said = {"do_sample": True} | {theirs[name]: value for name, value in values.items()}
        (target / FILE).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
