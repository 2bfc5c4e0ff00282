"""Finds a model: a directory, a GGUF file, a name in models.yaml, the bundled one, or a hub id.

models.yaml maps names to directories or GGUF files, relative to itself, with overrides for that model:

    tiny: models/tiny
    helper:
      path: models/helper
      dtype: int8
      max_model_len: 2048
      chat_template: helper.jinja     # a file, or the template itself
      description: answers in one sentence

It may not redefine a bundled model, unless the file is named by a flag or in Python. Local files come first. A hub id
is fetched with `download` only, and never with `offline`; what is already in the hub's cache on this machine is used
either way.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutset.config import OPTIONS, Settings, did_you_mean, read_bounded
from cutset.errors import ConfigError, DeviceError, ModelError
from cutset.models.fetch_progress import fetch_bars
from cutset.models.files.gguf_path import ENDING, is_gguf
from cutset.models.files.lfs import check_no_pointer, check_no_pointer_at
from cutset.models.text.tokenizer_files import SENTENCEPIECE_FILES, TEMPLATE_FOLDER

if TYPE_CHECKING:
    from cutset.models.files.integer import Progress

__all__ = ["BUNDLED", "ModelInfo", "ModelRef", "Overrides", "catalogue", "registered", "resolve", "settings_for"]

BUNDLED: dict[str, Path] = {"story": Path(__file__).parent.parent / "bundled" / "story"}
KEYS = ("path", "dtype", "chat_template", "max_model_len", "description")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
# Weights that are data, not code: a pickle (.bin, .pt) or a .py runs what its author likes.
HUB_FILES = ("*.safetensors", "*.json", "*.jinja", *SENTENCEPIECE_FILES, "vocab.txt", "merges.txt")


def _folders_but(kept: str) -> tuple[str, ...]:
    """Patterns for all that lies in folders other than `kept`, or in folders within it; their * crosses folders."""
    elsewhere = (f"{kept[:i]}[!{letter}]*/*" for i, letter in enumerate(kept))
    beginnings = (f"{kept[:i]}/*" for i in range(1, len(kept)))
    return (*elsewhere, *beginnings, f"{kept}[!/]*/*", f"{kept}/*/*")


# Other folders hold other formats of the same weights, and Mistral's consolidated file holds them a second time.
HUB_SKIPPED = (*_folders_but(TEMPLATE_FOLDER), "consolidated*", "adapter_*", "*.bin", "*.pt", "*.pth", "*.py")


@dataclass(frozen=True, slots=True)
class Overrides:
    """What models.yaml says about one model. `chat_template` is the template itself, `max_model_len` is in tokens."""

    dtype: str | None = None
    chat_template: str | None = None
    max_model_len: int | None = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model that was found: a directory, or a GGUF file. `origin` says where: "directory", "bundled", "hub", or the
    path of models.yaml."""

    directory: Path
    name: str
    overrides: Overrides = field(default_factory=Overrides)
    origin: str = "directory"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One line of the catalogue. `problem` says why the model can't be used; it is empty where it can."""

    ref: ModelRef
    architecture: str
    parameters: int
    nbytes: int  # of its weights
    problem: str


def resolve(name_or_path: str | os.PathLike[str], settings: Settings, progress: Progress | None = None) -> ModelRef:
    """The model that `name_or_path` means: a directory with a config.json, a GGUF file or a directory with one, a name
    in models.yaml, a bundled one, a hub id. `progress` is told of a download: what is fetched, how much of how much.

    Raises `ModelError` if it is none of them, `ConfigError` for a models.yaml that can't be used.
    """
    text = os.fspath(name_or_path)
    shown = repr(text if len(text) < 120 else text[:100] + "…")
    path = os.path.expanduser(text)
    if text and os.path.isfile(os.path.join(path, "config.json")):
        return ModelRef(Path(path), os.path.basename(os.path.realpath(path)))
    if text and (file := _gguf_at(Path(path))) is not None:
        return ModelRef(file, file.name[: -len(ENDING)] if file.name.lower().endswith(ENDING) else file.name)
    known = _known(settings)
    if text in known:
        ref = known[text]
        if (file := _gguf_at(ref.directory)) is not None:
            return replace(ref, directory=file)
        if not ref.directory.is_dir():
            hint = "reinstall Cutset" if ref.origin == "bundled" else f"correct its path in {ref.origin}"
            raise ModelError(f"the model {shown} should be in {ref.directory}, which is not a directory; {hint}")
        return ref
    if os.path.isdir(path):
        raise ModelError(f"{shown} is a directory without a config.json, and no registered model has that name")
    if os.path.exists(path):
        raise ModelError(
            f"{shown} is a file; name the directory that holds config.json and *.safetensors, or a GGUF file"
        )
    if HUB_ID.fullmatch(text):
        return ModelRef(_hub_snapshot(text, settings, did_you_mean(text, known), progress), text, origin="hub")
    where = settings.models_file or "models.yaml (there is none)"
    raise ModelError(f"{shown} is no directory, no hub id and no name in {where}{did_you_mean(text, known)}")


def _gguf_at(path: Path) -> Path | None:
    """The GGUF file that a path means: itself, or in a directory without a config.json the only model."""
    if is_gguf(path):
        return path
    if not os.path.isdir(path) or os.path.exists(path / "config.json"):
        return None
    later = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)  # parts of a model but its first
    found = [file for file in path.glob("*" + ENDING) if is_gguf(file) and not later.search(file.name)]
    if len(found) > 1:
        names = ", ".join(sorted(file.name for file in found)[:5])
        raise ModelError(f"{str(path)!r} has {len(found)} GGUF files ({names}); name one of them")
    return found[0] if found else None


def settings_for(ref: ModelRef, settings: Settings) -> Settings:
    """`settings` with the model's overrides: they win over cutset.toml and defaults, not over flags and variables."""
    changed, sources = {}, dict(settings.sources)
    for name in ("dtype", "max_model_len"):
        value, source = getattr(ref.overrides, name), sources[name]
        if value is not None and not source.startswith(("--", "CUTSET_", "argument")):
            changed[name], sources[name] = value, f"{Path(ref.origin).name} ({ref.origin})"
    return replace(settings, **changed, sources=sources)


def registered(settings: Settings) -> dict[str, ModelRef]:
    """The models of models.yaml by name; whether their directories exist isn't looked at. Raises `ConfigError`."""
    file = settings.models_file
    if file is None:
        return {}
    if not file.is_file():
        raise ConfigError(f"{file}, given by {settings.sources['models_file']}, is not a file")
    from cutset.models.files.plain_yaml import parse_yaml

    content = parse_yaml(read_bounded(file), str(file))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{file} must map names to models, not be a {type(content).__name__}")
    for name in BUNDLED.keys() & content.keys():
        # A file that lies around must not decide what a name means that everybody knows.
        if not settings.by_hand("models_file"):
            raise ConfigError(
                f"{file}: {name!r} is the bundled model's name; choose another, or give the file with --models-file"
            )
    return {name: _entry(name, value, file) for name, value in content.items()}


def _entry(name: Any, value: Any, file: Path) -> ModelRef:
    if not isinstance(name, str) or not name:
        shown = repr(name) if isinstance(name, bool | int | float) else f"a {type(name).__name__}"
        raise ConfigError(f"{file}: a model's name must be text, not {shown}; put it in quotes")
    if isinstance(value, str):
        value = {"path": value}
    if not isinstance(value, dict):
        raise ConfigError(f"{file}: {name!r} must be a path or a mapping, not a {type(value).__name__}")
    for key in value:
        if key not in KEYS:
            shown = str(key) if isinstance(key, str | int) else type(key).__name__
            raise ConfigError(f"{file}: {name!r} has the unknown key {shown[:60]!r}{did_you_mean(shown, KEYS)}")
    for key in ("path", "chat_template", "description"):
        if (key in value or key == "path") and not isinstance(value.get(key), str):
            raise ConfigError(f"{file}: {name!r} needs a text as its {key}")
    for key in ("dtype", "max_model_len"):
        if key in value:
            OPTIONS[key].check(value[key], f"{file}: {key} of {name!r}")
    template = value.get("chat_template")
    if template is not None and not any(mark in template for mark in ("{{", "{%", "\n")):
        place = file.parent / os.path.expanduser(template)
        template = read_bounded(place)
        check_no_pointer(place, template.encode(), ConfigError)
    overrides = Overrides(value.get("dtype"), template, value.get("max_model_len"), value.get("description", ""))
    return ModelRef(file.parent / os.path.expanduser(value["path"]), name, overrides, str(file))


def _known(settings: Settings) -> dict[str, ModelRef]:
    bundled = {name: ModelRef(path, name, origin="bundled") for name, path in BUNDLED.items()}
    return bundled | registered(settings)


def catalogue(settings: Settings) -> list[ModelInfo]:
    """The bundled and the registered models by name, with what their files say. Raises `ConfigError`."""
    return [_inspect(ref) for _, ref in sorted(_known(settings).items())]


def _inspect(ref: ModelRef) -> ModelInfo:
    from cutset.models.families import load_spec
    from cutset.models.files.formats import weight_files

    nbytes, unusable = 0, ""
    try:
        ref = replace(ref, directory=_gguf_at(ref.directory) or ref.directory)
        for path in weight_files(ref.directory):
            if not path.is_file():
                raise ModelError(f"{path} is a link to a file that is gone")
            check_no_pointer_at(path, ModelError)
            nbytes += path.stat().st_size
    except ModelError as error:
        unusable = str(error).removeprefix(f"{ref.directory} has ")
    try:
        spec = load_spec(ref.directory)
    except ModelError as error:
        return ModelInfo(ref, "", 0, nbytes, str(error))
    problem = unusable or _tokenizer_problem(ref.directory)
    return ModelInfo(ref, spec.family, spec.parameter_count(), nbytes, problem)


def _tokenizer_problem(directory: Path) -> str:
    if is_gguf(directory):  # it has one, or says so when it is loaded
        return ""
    for names in (("tokenizer.json",), ("vocab.json", "merges.txt")):
        files = [directory / name for name in names]
        if all(file.is_file() for file in files):
            try:
                for file in files:
                    check_no_pointer_at(file, ModelError)
            except ModelError as error:
                return str(error)
            return ""
    return "tokenizer.json is missing"


def _hub_snapshot(hub_id: str, settings: Settings, near: str, progress: Progress | None) -> Path:
    """The directory of a hub model in the hub's cache, fetched first where that is allowed."""
    missing = f"{hub_id!r} is no directory, no registered name{near}"
    allowed = settings.downloads_allowed
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        kind = DeviceError if settings.download else ModelError
        raise kind(f"{missing}\nHub ids need huggingface_hub: pip install 'cutset[hub]'") from None
    asked: dict[str, Any] = {"allow_patterns": list(HUB_FILES), "ignore_patterns": list(HUB_SKIPPED)}
    if progress is not None and allowed:
        asked["tqdm_class"] = fetch_bars(hub_id, progress)
    try:
        return Path(snapshot_download(hub_id, local_files_only=not allowed, **asked))
    except Exception as error:  # whatever a network stack raises; the user can act on all of it
        if allowed:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise ModelError(f"{hub_id!r} can't be downloaded: {reason}") from error
        hint = "give --download to fetch it"
        if settings.offline:
            hint = f"offline (from {settings.sources['offline']}) forbids fetching it"
        raise ModelError(f"{missing}\nAs a hub id it is not in the hub's cache; {hint}") from error
