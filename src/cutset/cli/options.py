"""Flags that several commands share. Those of settings are made from the table in cutset.config."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from cutset.config import OPTIONS, Option, Settings, load_settings
from cutset.errors import ConfigError
from cutset.files import check_writable

__all__ = [
    "add_json",
    "add_settings",
    "different",
    "output_file",
    "output_folder",
    "output_path",
    "settings_from",
    "worker_threads",
]


def add_settings(parser: argparse.ArgumentParser, *names: str) -> None:
    """Adds a flag for each of these settings, or for all without names. Values are checked by `settings_from`."""
    group = parser.add_argument_group("settings", "also CUTSET_… variables and cutset.toml; see `cutset config`")
    for name in names or OPTIONS:
        option = OPTIONS[name]
        default = option.default
        shown = ("yes" if default else "no") if isinstance(default, bool) else default
        text = option.help if default is None else f"{option.help} (default {shown})"
        if option.kind is bool:
            group.add_argument(option.flag, dest=_dest(name), action=argparse.BooleanOptionalAction, help=text)
        else:
            group.add_argument(option.flag, dest=_dest(name), metavar=_metavar(option), help=text)


def settings_from(args: argparse.Namespace) -> Settings:
    """The settings in force: these flags over environment over file over defaults. Raises `ConfigError`."""
    return load_settings({name: getattr(args, _dest(name), None) for name in OPTIONS})


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds `--json FILE`, which is `args.json` (None without); write it with `cutset.files.write_json`."""
    parser.add_argument("--json", type=output_file, metavar="FILE", help=f"write {what} to FILE as JSON")


def worker_threads(text: str) -> int:
    """The `type` of `--threads` for what is said of a stream's workers. Raises ConfigError."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= 1024):
        raise ConfigError("--threads must be from 1 to 1024")
    return int(text)


def output_file(text: str) -> str:
    """The `type` of an argument that names a file to write: one that can't be is refused before anything takes time.

    Raises ConfigError.
    """
    check_writable(text)
    return text


def output_path(text: str) -> Path:
    """`output_file` as a Path."""
    return Path(output_file(text))


def output_folder(text: str) -> Path:
    """The same for a directory, which may not be there yet."""
    path = Path(text)
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    try:
        check_writable(there / "file")
    except ConfigError as error:
        raise ConfigError(f"no files can be written in {text!r}: {error}") from None
    return path


def different(args: argparse.Namespace, *names: str) -> None:
    """Raises ConfigError where two of these outputs are one file, of which the last would be left."""
    found: dict[str, str] = {}
    for name in names:
        path = getattr(args, name)
        place = os.path.realpath(path) if path is not None else ""
        if place and (os.path.isfile(place) or not os.path.exists(place)):
            if place in found:
                raise ConfigError(f"--{found[place]} and --{name} name the same file, {os.fspath(path)!r}")
            found[place] = name


def _dest(name: str) -> str:
    return f"settings.{name}"  # the dot keeps clear of a command's own arguments


def _metavar(option: Option) -> str:
    if option.choices:
        return "|".join(option.choices)
    return "N" if option.kind is int else "FILE"
