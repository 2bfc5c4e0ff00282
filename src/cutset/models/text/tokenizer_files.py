"""Reads the files of a tokenizer within limits, and says in one line what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cutset.errors import CutsetError, TokenizerError
from cutset.models.files.lfs import check_no_pointer_at

__all__ = [
    "MAX_JSON_BYTES",
    "MAX_TEMPLATE_BYTES",
    "SENTENCEPIECE_FILES",
    "TEMPLATE_FOLDER",
    "chat_templates",
    "check_file",
    "from_rust",
    "json_object",
    "read_bytes",
    "read_object",
    "tokenizer_files",
]

MAX_JSON_BYTES = 64 << 20  # of each JSON file; the largest tokenizer.json in use have about 35 MB
MAX_TEMPLATE_BYTES = 1 << 20
TEMPLATE_FOLDER = "additional_chat_templates"
SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
# All that loading looks at in a model directory, and forms of it that other programs read.
PATTERNS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    *SENTENCEPIECE_FILES[1:],
    "chat_template*",
    f"{TEMPLATE_FOLDER}/*.jinja",
)


def tokenizer_files(directory: Path) -> list[Path]:
    """The files of a model directory that make its tokenizer and its chat templates, for whoever takes them along."""
    return sorted({file for pattern in PATTERNS for file in directory.glob(pattern) if file.is_file()})


def chat_templates(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Sources by name: files before tokenizer_config.json, that before the older chat_template.json."""
    files = {"default": directory / "chat_template.jinja"} if (directory / "chat_template.jinja").exists() else {}
    files |= {path.stem: path for path in sorted((directory / TEMPLATE_FOLDER).glob("*.jinja"))}
    if files:
        return {name: read_text(path, MAX_TEMPLATE_BYTES) for name, path in files.items()}
    where = "tokenizer_config.json"
    value = config.get("chat_template")
    if value is None:
        where = "chat_template.json"
        value = read_object(directory / where).get("chat_template")
    if value is None:
        return {}
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        value = {entry.get("name"): entry.get("template") for entry in value}
    templates = value if isinstance(value, dict) else {"default": value}
    if not all(isinstance(part, str) for entry in templates.items() for part in entry):
        raise TokenizerError(f"{where}: chat_template is neither a string nor a list of names and templates")
    if any(len(source) > MAX_TEMPLATE_BYTES for source in templates.values()):
        raise TokenizerError(f"{where}: chat_template is larger than {MAX_TEMPLATE_BYTES >> 20} MiB")
    return templates


def json_object(value: object, where: str) -> dict[str, Any]:
    """The value, if it is a JSON object. Raises ValueError that names `where`."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be a JSON object, not {type(value).__name__}")
    return value


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no such file."""
    if not path.exists():
        return {}
    try:
        return json_object(json.loads(read_text(path, MAX_JSON_BYTES)), "the file")
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: malformed: {one_line(error)}") from error


def read_text(path: Path, limit: int) -> str:
    """The text of a UTF-8 file of at most `limit` bytes. Raises TokenizerError."""
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: not UTF-8: {one_line(error)}") from error


def read_bytes(path: Path, limit: int) -> bytes:
    """A file of at most `limit` bytes. Raises TokenizerError."""
    check_file(path, limit)
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise TokenizerError(f"{path}: {error.strerror}") from error


def check_file(path: Path, limit: int) -> None:
    """Raises TokenizerError for what is no file, larger than `limit` bytes, or a Git LFS pointer."""
    if not path.is_file():
        raise TokenizerError(f"{path}: not a file")
    if path.stat().st_size > limit:
        raise TokenizerError(f"{path}: larger than {limit >> 20} MiB")
    check_no_pointer_at(path, TokenizerError)


@contextmanager
def from_rust(what: str) -> Iterator[None]:
    """Turns what the tokenizers library raises into a TokenizerError."""
    try:
        yield
    except (CutsetError, MemoryError):
        raise
    except BaseException as error:
        # A panic in Rust arrives as a PanicException, which is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{what}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """An error of another library in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]
